"""Which column is age, sex, systolic pressure...: names, units, codes and values; said, kept in the
run, read by all."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from cardiotune import stages
from cardiotune.config import load_config, load_resolved, read_yaml, shipped
from cardiotune.data import roles
from cardiotune.data.cohort import ROW_ID
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.subgroups import subgroups
from cardiotune.models.baselines import age_and_sex
from cardiotune.models.risk_scores import score_cohort
from cardiotune.settings import MEANINGS, Column, DataConfig, Meaning
from conftest import TOY_COLUMNS, build_toy_table, write_toy_experiment

BINARY, NUMBER = {"type": "binary"}, {"type": "numeric"}
TYPES: dict[Meaning, dict[str, str]] = {
    meaning: BINARY if "binary" in types else NUMBER for meaning, types in MEANINGS.items()
}


def dictionary(**columns: dict[str, Any]) -> dict[str, Column]:
    return {name: Column.model_validate(entry) for name, entry in columns.items()}


def data(**columns: dict[str, Any]) -> DataConfig:
    return DataConfig.model_validate({"path": "t.csv", "columns": {**columns, "y": {"role": "target"}}})


def learned(frame: pl.DataFrame | None = None, **columns: dict[str, Any]) -> dict[Meaning, str]:
    return roles.learn(dictionary(**columns), frame).columns


# --------------------------------------------------------------------------------------------------
# names

CALLED: dict[Meaning, list[str]] = {
    "age": ["age", "AGE", "Age (years)", "age_years", "ageAtVisit", "AgeYears", "RIDAGEYR", "Alter", "leeftijd", "âge", "edad",
            "età", "idade", "Alter bei Aufnahme", "pat_age", "age_at_scan", "patient_age", "age_at_admission", "anchor_age", "age_yrs",
            "age_when_attended_assessment_centre_f21003_0_0"],
    "sex": ["sex", "SEX", "Gender", "gender_code", "sex_at_birth", "is_male", "isMale", "male", "female", "Geschlecht", "sexe",
            "sexo", "Sesso", "geslacht", "kön", "sex_male", "gender_female", "SEXN", "RIAGENDR", "sex_f31_0_0", "women",
            "gender_concept_id", "sex (1=male, 2=female)", "weiblich", "pat_gender", "Sex_M", "male_sex"],
    "ethnicity": ["ethnicity", "race", "ethnic_background", "ETHNIC"],
    "smoking": ["smoker", "smoking", "smoking_status", "current_smoker", "smoke", "currentSmoker"],
    "diabetes": ["diabetes", "diabetic", "diabetes_diagnosed", "diabetes_mellitus"],
    "blood_pressure_medication": ["bp_medication", "blood_pressure_medication", "BPMeds", "antihypertensives"],
    "systolic_pressure": ["sbp", "SBP", "sysBP", "systolic", "systolic_bp", "sbp_mmhg", "ap_hi", "trestbps",
                          "resting_sbp_mmhg", "Systolic Blood Pressure", "SBP_baseline", "presión_arterial_sistólica"],
    "diastolic_pressure": ["dbp", "diaBP", "ap_lo", "diastolic_blood_pressure"],
    "total_cholesterol": ["total_cholesterol", "totChol", "chol", "cholesterol_mg_dl", "total_cholesterol_mmol_l"],
    "hdl_cholesterol": ["hdl", "HDL-C", "hdl_cholesterol_mmol_l", "hdl_mmol_l"],
    "body_mass_index": ["bmi", "BMI", "bmi_kg_m2", "body_mass_index"],
}  # fmt: skip
OTHERS = [
    *("sex_hormone", "sexual_activity", "sexual_partners", "gender_reassignment", "gender_identity", "sex_of_child", "pregnant_woman"),
    *("female_partner", "number_of_women", "male_pattern_baldness", "man_days", "sexually_active", "sex_ratio", "shbg", "mankind"),
    *("age_of_onset", "age_at_menarche", "age_at_menopause", "age_at_death", "mother_age", "maternal_age", "fathers_age_at_death"),
    *("gestational_age", "bone_age", "vascular_age", "age_difference", "age2", "age_squared", "stage", "dosage", "percentage"),
    *("average_hr", "bandage", "passage", "image", "language", "page", "triage", "lineage", "wage", "agent", "time_at_age"),
    *("sbp_max", "sbp_change", "delta_sbp", "sbp_target", "mean_arterial_pressure", "blood_pressure", "sbp_after", "sbp_sd"),
    *("hdl_ratio", "non_hdl", "hdl2", "ldl_cholesterol", "cholesterol_medication", "bmi_change", "bmi_class_of_mother"),
    *("family_history_diabetes", "diabetes_duration", "gestational_diabetes", "prediabetes", "diabetes_type", "mother_diabetes"),
    *("ever_smoker", "former_smoker", "passive_smoking", "pack_years_smoking", "maternal_smoking", "smoking_years"),
    *("heart_race", "trace", "brace", "medication", "bp_medication_count", "cpr"),
]  # fmt: skip


@pytest.mark.parametrize(("meaning", "name"), [(meaning, name) for meaning, names in CALLED.items() for name in names])
def test_names(meaning: Meaning, name: str) -> None:
    assert learned(**{"other": {}, name: TYPES[meaning]}) == {meaning: name}
    by_phrase = {"x1": {**TYPES[meaning], "phrase": roles.spoken(meaning)}}
    assert learned(**by_phrase) == {meaning: "x1"}, "what stands in the text may say it too"


@pytest.mark.parametrize("entry", [NUMBER, BINARY], ids=["numeric", "binary"])
@pytest.mark.parametrize("name", OTHERS)
def test_names_of_something_else(name: str, entry: dict[str, str]) -> None:
    assert learned(**{name: entry}) == {}


def test_every_meaning_is_tested() -> None:
    assert CALLED.keys() == MEANINGS.keys()


@pytest.mark.parametrize(
    ("dictionary_name", "expected"),
    [
        ("cardio", {"age": "age_years", "sex": "gender", "smoking": "smoke", "systolic_pressure": "ap_hi",
                    "diastolic_pressure": "ap_lo", "body_mass_index": "bmi"}),
        ("statlog_heart", {"age": "age_years", "sex": "sex", "systolic_pressure": "resting_sbp_mmhg",
                           "total_cholesterol": "cholesterol_mg_dl"}),
        ("uci_heart", {"age": "age", "sex": "sex", "systolic_pressure": "trestbps", "total_cholesterol": "chol"}),
        ("ukb_cad", {"age": "age_years", "sex": "sex", "ethnicity": "ethnicity", "smoking": "smoking", "diabetes": "diabetes",
                     "blood_pressure_medication": "bp_medication", "systolic_pressure": "sbp", "diastolic_pressure": "dbp",
                     "total_cholesterol": "total_cholesterol", "hdl_cholesterol": "hdl", "body_mass_index": "bmi"}),
    ],
)  # fmt: skip
def test_shipped_dictionaries(dictionary_name: str, expected: dict[Meaning, str]) -> None:
    tree = {"path": "t.csv"} | read_yaml(shipped("datasets")[dictionary_name])["data"]
    assert roles.learn(DataConfig.model_validate(tree).columns).columns == expected


# --------------------------------------------------------------------------------------------------
# what the dictionary says goes before


def test_a_declared_meaning_goes_before_a_name() -> None:
    columns = {"age": NUMBER, "x7": {**NUMBER, "meaning": "age"}, "sex": {**BINARY, "meaning": "none"}}
    assert learned(**columns) == {"age": "x7"}
    assert age_and_sex(data(**columns)) == ["x7"]


@pytest.mark.parametrize("meaning", MEANINGS)
def test_each_meaning_can_be_declared_once_and_of_its_types(meaning: Meaning) -> None:
    entry = {**TYPES[meaning], "meaning": meaning}
    assert learned(x=entry) == {meaning: "x"}
    with pytest.raises(ValueError, match=rf"meaning {meaning} is given to .*'x', 'z'.*at most one"):
        data(x=entry, z=entry)
    for wrong in ("text", "date", *(["binary"] if meaning == "age" else [])):
        with pytest.raises(ValueError, match=rf"data.columns.x.meaning: {meaning} needs type"):
            data(x={"type": wrong, "meaning": meaning}, z=NUMBER)
    with pytest.raises(ValueError, match="only a feature has one, found role ignore"):
        data(x={**entry, "role": "ignore"}, z=NUMBER)


def test_an_unknown_meaning_is_answered_with_the_nearest(tmp_path: Path, toy_model: Path) -> None:
    file = write_toy_experiment(tmp_path, toy_model)
    with pytest.raises(ConfigError, match=r"data.columns.sbp.meaning: .*did you mean systolic_pressure\?"):
        load_config(file, ["data.columns.sbp.meaning=sistolic_presure"])


def test_which_of_several() -> None:
    days, bands = {"type": "integer", "unit": "days"}, {"type": "ordinal"}
    assert learned(age_group=bands, age_days=NUMBER, age=NUMBER)["age"] == "age", "years before days before bands"
    assert learned(age_group=bands, age=days)["age"] == "age"
    assert learned(age_group=bands)["age"] == "age_group"
    assert learned(age=NUMBER, age_years=NUMBER)["age"] == "age_years"
    assert learned(gender=BINARY, sex=BINARY)["sex"] == "gender", "else the first"
    assert learned(sbp={"phrase": "diastolic blood pressure"}) == {}, "name and phrase that contradict each other"


# --------------------------------------------------------------------------------------------------
# units and values


@pytest.mark.parametrize(
    ("name", "entry", "year"),
    [
        ("age", {}, 1),
        ("age", {"unit": "years"}, 1),
        ("age", {"unit": "y"}, 1),
        ("age", {"unit": "days"}, 365.25),
        ("age", {"unit": "months", "range": [0, 1500]}, 12),
        ("age_days", {}, 365.25),
        ("age_in_months", {}, 12),
        ("age", {"phrase": "age in weeks"}, 365.25 / 7),
        ("age", {"unit": "mm"}, None),
        ("age", {"range": [6570, 40150]}, None),
        ("age_days", {"phrase": "age in months"}, None),
    ],
)
def test_units_of_age(name: str, entry: dict[str, Any], year: float | None) -> None:
    columns = dictionary(**{name: NUMBER | entry})
    factor = roles.scale("age", name, columns[name])
    assert factor == (None if year is None else pytest.approx(1 / year))
    found = roles.learn(columns)
    assert (found.columns == {}) == (year is None) == ("age" in found.passed_over)


@pytest.mark.parametrize("unit", ["days", "months", "weeks"])
def test_bands_of_an_age_that_is_not_in_years(unit: str) -> None:
    per_year = {"days": 365.25, "months": 12, "weeks": 365.25 / 7}[unit]
    frame = pl.DataFrame({ROW_ID: ["a", "b", "c"], "age": [44.5 * per_year, 45.5 * per_year, 80 * per_year]})
    found = subgroups(frame, data(age={"type": "numeric", "unit": unit}), None, [45, 65])
    assert list(found["age"].values()) == ["under 45", "45 to under 65", "65 and above"]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("age", [20000.0, 16000.0, 24000.0], "no ages"),
        ("age", [-1.2, 0.1, 1.4], "no ages"),
        ("age", [0.21, 0.5, 0.93], "no ages"),
        ("sbp", [16.0, 18.1, 21.0], "unlikely"),
        ("sbp", [-1.2, 0.1, 1.4], "unlikely"),
        ("bmi", [0.21, 0.5, 0.93], "unlikely"),
    ],
)
def test_values_that_do_not_fit(name: str, values: list[float], said: str) -> None:
    """Days without a unit, standardised values, kPa: such a column is passed over, and refused
    where it is declared."""
    frame = pl.DataFrame({name: values})
    found = roles.learn(dictionary(**{name: NUMBER}), frame)
    assert found.columns == {} and said in "".join(found.passed_over.values())
    meaning = {"sbp": "systolic_pressure", "bmi": "body_mass_index"}.get(name, name)
    with pytest.raises(DataError, match=rf"data.columns.{name}.meaning: {meaning} .*{said}") as error:
        roles.settle(dictionary(**{name: {**NUMBER, "meaning": meaning}}), frame)
    assert not any(f"{value:g}" in str(error.value) for value in values)
    assert roles.settle(dictionary(**{name: {**NUMBER, "meaning": "none"}}), frame).meanings == {}


def test_one_slip_of_the_pen_does_not_hide_the_age() -> None:
    frame = pl.DataFrame({"age": [61.0] * 50 + [999.0, -1.0, None]})
    assert learned(frame, age=NUMBER) == {"age": "age"}
    assert learned(pl.DataFrame({"age": [0.0, 1.0, 0.0]}), age=NUMBER) == {"age": "age"}, "infants"


SCORED = {
    "age_years": NUMBER, "sex": {"type": "binary", "codes": {"0": "female", "1": "male"}}, "smoker": BINARY,
    "diabetes": BINARY, "sbp": {"type": "numeric", "unit": "mmHg"}, "total_cholesterol": {"unit": "mmol/L"},
    "hdl": {"unit": "mmol/L"},
}  # fmt: skip
PATIENTS = pl.DataFrame(
    {"age_years": [55.0, 62.0], "sex": ["0", "1"], "smoker": ["0", "1"], "diabetes": ["0", "0"], "sbp": [135.0, 150.0],
     "total_cholesterol": [5.1, 6.3], "hdl": [1.4, 1.1]}
)  # fmt: skip


def test_scores_convert_units_and_read_other_names() -> None:
    """Days, kPa, `is_female` and foreign names give the same SCORE2 as years, mmHg and `sex`."""
    expected = score_cohort(PATIENTS, dictionary(**SCORED), "score2").risk
    columns = {name: entry for name, entry in SCORED.items() if name not in ("age_years", "sex", "sbp", "smoker")}
    columns |= {
        "Alter": {"type": "numeric", "unit": "days"},
        "is_female": BINARY,
        "PAS": {"unit": "kPa"},
        "raucher": BINARY,
    }
    columns["PAS"] |= {"meaning": "systolic_pressure"}
    frame = PATIENTS.select(
        *("diabetes", "total_cholesterol", "hdl"),
        Alter=pl.col("age_years") * 365.25,
        is_female=pl.Series(["1", "0"]),
        PAS=pl.col("sbp") / 7.500617,
        raucher="smoker",
    )
    assert score_cohort(frame, dictionary(**columns), "score2").risk == pytest.approx(expected, rel=1e-9)


def test_scores_refuse_what_they_cannot_read() -> None:
    for changes, said in (
        ({"sbp": {"type": "numeric", "unit": "mbar"}}, "no systolic_pressure .column sbp is called so, but has a unit"),
        ({"age_years": {"type": "numeric", "range": [6000, 30000]}, "age": {"role": "ignore"}}, None),
        ({"sex": BINARY}, "data.columns.sex.codes: no code is in words that male is read from"),
        ({"age_years": {"type": "ordinal", "codes": {"55.0": "55 to 59"}}}, "data.columns.age_years: age is no number"),
    ):
        if said:
            with pytest.raises(DataError, match=said):
                score_cohort(PATIENTS, dictionary(**SCORED | changes), "score2")


# --------------------------------------------------------------------------------------------------
# who is a man

MEN = [
    ("sex", {"codes": {"0": "woman", "1": "man"}}, [], {"0": "woman", "1": "man"}),
    ("sex", {"codes": {"1": "Female", "2": "Male", "9": "unknown"}}, [], {"1": "woman", "2": "man"}),
    ("sex", {"codes": {"1": "male (assigned)", "2": "not male"}}, [], {"1": "man"}),
    ("Geschlecht", {"codes": {"1": "männlich", "2": "weiblich", "3": "divers"}}, [], {"1": "man", "2": "woman"}),
    ("sex", {"codes": {"M": "M", "F": "F"}}, [], {"M": "man", "F": "woman"}),
    ("sex", {}, ["F", "M"], {"F": "woman", "M": "man"}),
    ("sex", {}, ["f", "m", "x"], {"f": "woman", "m": "man"}),
    ("sex", {}, ["Male", "Female"], {"Male": "man", "Female": "woman"}),
    ("Geschlecht", {}, ["M", "W", "D"], {"M": "man", "W": "woman"}),
    ("sexe", {}, ["H", "F"], {"H": "man", "F": "woman"}),
    ("sexo", {}, ["H", "M"], {"H": "man", "M": "woman"}),
    ("sexo", {}, ["Hombre", "Mujer"], {"Hombre": "man", "Mujer": "woman"}),
    ("geslacht", {}, ["M", "V"], {"M": "man", "V": "woman"}),
    ("sex", {}, ["M", "V"], {}),
    ("sex", {}, ["1", "2"], {}),
    ("gender_code", {"codes": {"1": "1", "2": "2"}}, [], {}),
    ("sex", {"type": "binary"}, ["0", "1"], {}),
    ("sex", {"type": "binary", "codes": {"0": "no", "1": "yes"}}, [], {}),
    ("is_male", {"type": "binary"}, [], {"0": "woman", "1": "man"}),
    ("male", {"type": "binary", "codes": {"0": "no", "1": "yes"}}, [], {"0": "woman", "1": "man"}),
    ("female", {"type": "binary"}, [], {"0": "man", "1": "woman"}),
    ("sex_female", {"type": "binary"}, [], {"0": "man", "1": "woman"}),
    ("female", {}, ["Yes", "No"], {"No": "man", "Yes": "woman"}),
    ("male", {}, ["1", "2"], {}),
    ("male_female", {"type": "binary"}, [], {}),
    ("Sex_M", {"type": "binary"}, [], {"0": "woman", "1": "man"}),
    ("gender_F", {"type": "binary"}, [], {"0": "man", "1": "woman"}),
    ("sex_m_f", {"type": "binary"}, [], {}),
    ("sex_f31_0_0", {"type": "binary"}, [], {}),
    ("sex (1=male, 2=female)", {}, ["1", "2"], {"1": "man", "2": "woman"}),
    ("sex (M=1, F=0)", {}, ["0", "1"], {"0": "woman", "1": "man"}),
]


@pytest.mark.parametrize(("name", "entry", "present", "expected"), MEN, ids=str)
def test_which_code_is_a_man(name: str, entry: dict[str, Any], present: list[str], expected: dict[str, str]) -> None:
    column = Column.model_validate({"type": "categorical"} | entry)
    assert roles.sex_of(name, column, present) == expected
    assert roles.learn({name: column}).columns == {"sex": name}


@pytest.mark.parametrize(
    ("name", "entry", "codes", "labels"),
    [
        ("is_male", {"type": "binary"}, ["0", "1"], ["woman", "man"]),
        ("sex", {"type": "categorical"}, ["F", "M"], ["woman", "man"]),
        ("Geschlecht", {"type": "categorical", "codes": {"M": "M", "W": "W"}}, ["W", "M"], ["woman", "man"]),
        ("sex", {"type": "binary", "codes": {"0": "female", "1": "male"}}, ["0", "1"], ["female", "male"]),
        ("gender_code", {"type": "categorical"}, ["1", "2"], ["1", "2"]),
        ("sex", {"type": "binary"}, ["0", "1"], ["0", "1"]),
    ],
)
def test_words_of_the_subgroups(name: str, entry: dict[str, Any], codes: list[str], labels: list[str]) -> None:
    """The dictionary's words, else woman and man, else the code: never `sex: yes`."""
    frame = pl.DataFrame({ROW_ID: ["a", "b"], name: codes})
    found = subgroups(frame, data(**{name: entry}), None, [45])
    assert [list(group.values()) for group in found.values()] == [labels]


def test_subgroups_and_the_comparator_take_the_same_columns() -> None:
    columns = {
        "sex_hormone": NUMBER, "age_of_onset": NUMBER, "stage": {"type": "ordinal"}, "is_male": BINARY, "Alter": NUMBER
    }  # fmt: skip
    frame = pl.DataFrame({ROW_ID: ["a"], "sex_hormone": [1.0], "age_of_onset": [3.0], "stage": ["1"], "is_male": ["1"],
                          "Alter": [70.0]})  # fmt: skip
    assert age_and_sex(data(**columns)) == ["Alter", "is_male"]
    assert subgroups(frame, data(**columns), None, [45, 65]) == {
        "is male": {"a": "man"},
        "Alter": {"a": "65 and above"},
    }
    asked = subgroups(frame, data(**columns), ["sex x age"], [45, 65])
    assert asked == {"is male x Alter": {"a": "man, 65 and above"}}, "what they mean is a name for them"


# --------------------------------------------------------------------------------------------------
# in a run


def experiment(folder: Path, model: Path, changes: dict[str, Any], **replaced: pl.Expr | pl.Series) -> Path:
    """The toy experiment with other columns, and the classical models alone."""
    file = write_toy_experiment(folder, model)
    frame = build_toy_table().with_columns(**replaced)
    columns = {name: entry for name, entry in (TOY_COLUMNS | changes).items() if entry is not None}
    frame.select(*columns).write_csv(folder / "table.csv")
    tree = yaml.safe_load(file.read_text())
    tree["data"]["columns"] = {name: dict(entry) for name, entry in columns.items()}
    tree["models"] = ["age_sex_logistic_regression", "logistic_regression"]
    file.write_text(yaml.safe_dump(tree))
    return file


def test_a_run_says_what_it_found_and_keeps_it(
    tmp_path: Path, toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"sex": None, "age": None, "sex_hormone": NUMBER, "is_male": BINARY, "age_days": NUMBER}
    file = experiment(
        tmp_path, toy_model, changes, is_male="sex", age_days=pl.col("age") * 365.25, sex_hormone=pl.col("sbp") / 7
    )
    with caplog.at_level("INFO", logger="cardiotune"):
        run = stages.run(load_config(file))
    said = "age: column age_days (days); sex: column is_male (0 = woman, 1 = man)"
    assert said in caplog.text
    kept = json.loads(run.cohort.read_text())["meanings"]
    assert kept["age"] == {"column": "age_days", "unit": "days"}
    assert kept["sex"] == {"column": "is_male", "codes": {"0": "woman", "1": "man"}}
    assert said in run.report.with_suffix(".md").read_text()
    groups = json.loads(run.metrics.read_text())["parts"]["test"]["subgroups"]
    titles = {(group["column"], group["group"]) for group in groups}
    assert {("is male", "woman"), ("is male", "man"), ("age days", "under 45")} <= titles
    meanings = {name: column.meaning for name, column in load_resolved(run.config).data.columns.items()}
    assert meanings == dict.fromkeys(meanings, "none") | {
        "age_days": "age", "is_male": "sex", "sbp": "systolic_pressure", "smoker": "smoking"
    }, "no later stage learns anything anew"  # fmt: skip


def test_what_is_called_age_and_is_none_is_said(
    tmp_path: Path, toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    days = {"age": {"type": "integer"}}
    file = experiment(tmp_path, toy_model, days, age=(pl.col("age") * 365.25).round())
    stages.prepare(load_config(file))
    assert "age: column age is called so, but holds values that are no ages in its unit" in caplog.text
    with pytest.raises(DataError, match=r"data.columns.age.meaning: age holds values that are no ages"):
        stages.prepare(load_config(file, ["data.columns.age.meaning=age", "name=other"]))
    assert not (tmp_path / "runs" / "other").exists()
    stages.prepare(load_config(file, ["data.columns.age.meaning=age", "data.columns.age.unit=days", "name=third"]))
