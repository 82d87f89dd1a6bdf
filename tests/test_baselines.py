import subprocess
import sys
import warnings
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split

from cardiotune.config import configs_folder
from cardiotune.data.cohort import read_cohort
from cardiotune.data.split import split_cohort
from cardiotune.models import trees
from cardiotune.models.baselines import BASELINES, age_and_sex, knots_of
from cardiotune.models.labelled import LabelledRows
from cardiotune.settings import DataConfig, SplitConfig
from conftest import TOY_COLUMNS, build_toy_table

FITTED = ("logistic_regression", "spline_regression", "lightgbm")
REGRESSIONS = ("age_sex_logistic_regression", "logistic_regression", "spline_regression")


def mixed_table(rows: int = 240, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Typed columns of every type as a cohort holds them, some missing; events; parts (60, 15 and
    25 %)."""
    draw = np.random.default_rng(seed)

    def some_missing(values: list[Any]) -> list[Any]:
        return [None if draw.random() < 0.1 else value for value in values]

    age, ward = draw.integers(30, 85, rows), draw.integers(0, 4, rows)
    frame = pl.DataFrame(
        {
            "age": pl.Series(some_missing([float(value) for value in age]), dtype=pl.Float64),
            "seen": pl.Series(
                some_missing([date(2020, 1, 1) + timedelta(int(d)) for d in draw.integers(0, 900, rows)])
            ),
            "smoker": pl.Series(some_missing([str(code) for code in draw.integers(0, 2, rows)]), dtype=pl.String),
            "stage": pl.Series(some_missing([str(code) for code in draw.integers(1, 13, rows)]), dtype=pl.String),
            "ward": pl.Series(some_missing(["ABCD"[code] for code in ward]), dtype=pl.String),
            "note": pl.Series([f"note {number}" for number in range(rows)]),
        }
    )
    risk = 1 / (1 + np.exp(-(0.1 * (age - 58) + 1.5 * (ward - 1.5))))
    events = (draw.random(rows) < risk).astype(int)
    parts = np.array(["train"] * 12 + ["validation"] * 3 + ["test"] * 5)[np.arange(rows) % 20]
    return frame, events, parts


TYPES = {
    "age": "integer",
    "seen": "date",
    "smoker": "binary",
    "stage": "ordinal",
    "ward": "categorical",
    "note": "text",
}


def settings(*features: str) -> DataConfig:
    columns: dict[str, Any] = {name: {"type": TYPES[name]} for name in features}
    return DataConfig.model_validate(
        {"path": "t.csv", "columns": {**columns, "y": {"role": "target", "type": "binary"}}}
    )


ALL = settings(*TYPES)


def fit(name: str, frame: pl.DataFrame, events: np.ndarray, parts: np.ndarray, data: DataConfig = ALL) -> np.ndarray:
    """Risks, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        risks = BASELINES[name](LabelledRows(frame, events, parts, data))
    assert risks.shape == (frame.height,) and risks.dtype == np.float64
    assert np.all((risks >= 0) & (risks <= 1))
    return risks


def test_prevalence_is_that_of_the_training_part() -> None:
    frame, events, parts = mixed_table()
    np.testing.assert_array_equal(fit("prevalence", frame, events, parts), events[parts == "train"].mean())


@pytest.mark.parametrize("name", FITTED)
def test_it_learns(name: str) -> None:
    frame, events, parts = mixed_table(1000)
    test = parts == "test"
    assert roc_auc_score(events[test], fit(name, frame, events, parts)[test]) > 0.8


@pytest.mark.parametrize("name", FITTED)
def test_it_is_deterministic(name: str) -> None:
    table = mixed_table()
    np.testing.assert_array_equal(fit(name, *table), fit(name, *table))


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_of_the_test_part_reaches_the_fit(name: str) -> None:
    frame, events, parts = mixed_table()
    before = fit(name, frame, events, parts)
    test = parts == "test"
    hostile = {
        "age": pl.lit(1e6),
        "seen": pl.lit(date(1900, 1, 1)),
        "smoker": pl.lit(None, pl.String),
        "stage": pl.lit("0"),  # sorts before all stages of training
        "ward": pl.lit("AA"),  # sorts between the wards of training
        "note": pl.lit("?"),
    }
    changed = frame.with_columns(
        [
            pl.when(~pl.Series(test)).then(pl.col(column)).otherwise(value).alias(column)
            for column, value in hostile.items()
        ]
    )
    after = fit(name, changed, np.where(test, 1 - events, events), parts)
    np.testing.assert_array_equal(after[~test], before[~test])
    if name != "prevalence":
        assert not np.array_equal(after[test], before[test])


def test_regressions_and_prevalence_do_not_use_the_validation_part() -> None:
    frame, events, parts = mixed_table()
    validation = parts == "validation"
    for name in ("prevalence", *REGRESSIONS):
        after = fit(name, frame, np.where(validation, 1 - events, events), parts)
        np.testing.assert_array_equal(after, fit(name, frame, events, parts))


@pytest.mark.parametrize("name", FITTED)
def test_a_row_with_nothing_known_gets_a_risk(name: str) -> None:
    frame, events, parts = mixed_table()
    nothing = frame[:1].select(pl.lit(None, frame[column].dtype).alias(column) for column in frame.columns)
    unseen = frame[:1].with_columns(ward=pl.lit("never seen"), stage=pl.lit("99"), smoker=pl.lit("?"))
    more = pl.concat([frame, nothing, unseen])
    risks = fit(name, more, np.r_[events, 0, 0], np.r_[parts, ["test", "test"]])
    np.testing.assert_array_equal(risks[:-2], fit(name, frame, events, parts))
    assert 0.02 < risks[-2] < 0.98


def test_an_unseen_category_is_not_a_missing_one() -> None:
    frame, events, parts = mixed_table(600)
    data = settings("ward")
    # Missing means an event here.
    events = np.where(frame["ward"].is_null().to_numpy(), 1, events)
    extra = pl.DataFrame({"ward": ["never seen", None]}, schema={"ward": pl.String})
    more = pl.concat([frame.select("ward"), extra])
    unseen, missing = fit("logistic_regression", more, np.r_[events, 0, 0], np.r_[parts, ["test", "test"]], data)[-2:]
    assert missing > 0.8 > unseen + 0.1


@pytest.mark.parametrize("name", FITTED)
def test_a_column_that_training_never_has(name: str) -> None:
    frame, events, parts = mixed_table()
    train = pl.Series(parts == "train")
    empty = frame.with_columns(
        pl.when(~train).then(pl.col(column)).alias(column) for column in ("age", "ward", "stage")
    )
    fit(name, empty, events, parts)


def noted_table(rows: int = 600, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """`mixed_table` whose notes say in one word among others, now and then not recorded, what the
    outcome is."""
    frame, _, parts = mixed_table(rows, seed)
    draw = np.random.default_rng(seed + 100)
    events = draw.integers(0, 2, rows)
    words = [" ".join(draw.choice(["seen", "on", "the", "ward", "again", "today"], 6)) for _ in range(rows)]
    notes = [f"{text} {'Angina' if event else 'well'}." for text, event in zip(words, events, strict=True)]
    return frame.with_columns(note=pl.Series(notes)), events, parts


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("features", [tuple(TYPES), ("note",), ("ward", "note")])
def test_a_note_that_decides_the_outcome_is_read(name: str, features: tuple[str, ...]) -> None:
    frame, events, parts = noted_table()
    test = parts == "test"
    risks = fit(name, frame, events, parts, settings(*features))
    assert roc_auc_score(events[test], risks[test]) > 0.99
    assert log_loss(events[test], risks[test]) < 0.2, "a telling word is not shrunk to nothing"
    without = settings(*(column for column in TYPES if column != "note"))
    assert roc_auc_score(events[test], fit(name, frame, events, parts, without)[test]) < 0.65


@pytest.mark.parametrize("name", FITTED)
def test_words_that_training_has_not_change_nothing(name: str) -> None:
    """The vocabulary and its document frequencies are those of the training part."""
    frame, events, parts = noted_table()
    later = ~pl.Series(parts == "train")
    strange = frame.with_columns(pl.when(later).then(pl.col("note") + " xylophone").otherwise(pl.col("note")))
    before, after = (fit(name, some, events, parts) for some in (frame, strange))
    np.testing.assert_array_equal(after, before)
    none_known = frame.with_columns(pl.when(later).then(pl.lit("xylophone")).otherwise(pl.col("note")).alias("note"))
    judged = fit(name, none_known, events, parts)[parts == "test"]
    assert roc_auc_score(events[parts == "test"], judged) < 0.7


@pytest.mark.parametrize("name", FITTED)
def test_a_note_that_is_missing_is_read_as_missing(name: str) -> None:
    frame, events, parts = mixed_table(600)
    missing = np.random.default_rng(3).random(600) < 0.3
    events = np.where(missing, 1, events)
    frame = frame.with_columns(note=pl.Series([None if gone else "seen on the ward" for gone in missing]))
    risks = fit(name, frame, events, parts, settings("note"))[parts == "test"]
    assert risks[missing[parts == "test"]].min() > 0.9 > 0.6 > risks[~missing[parts == "test"]].max()


@pytest.mark.parametrize("name", REGRESSIONS[1:])
def test_notes_that_say_nothing_do_little_harm(name: str) -> None:
    frame, events, parts = mixed_table(600)
    draw = np.random.default_rng(1)
    vocabulary = [f"word{number}" for number in range(200)]
    noise = frame.with_columns(note=pl.Series([" ".join(draw.choice(vocabulary, 15)) for _ in range(600)]))
    test = parts == "test"
    plain = settings(*(column for column in TYPES if column != "note"))
    with_notes, without = (fit(name, noise, events, parts, data)[test] for data in (ALL, plain))
    assert log_loss(events[test], with_notes) < log_loss(events[test], without) + 0.03


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("what", ["month", "weekday", "later"])
def test_month_weekday_and_day_of_a_date_are_read(name: str, what: str) -> None:
    days = np.random.default_rng(2).integers(0, 2000, 900)
    seen = [date(2019, 1, 1) + timedelta(int(day)) for day in days]
    happened = {
        "month": [day.month in (12, 1, 2) for day in seen],
        "weekday": [day.isoweekday() > 5 for day in seen],
        "later": days > 1000,
    }[what]
    events, frame = np.array(happened).astype(int), pl.DataFrame({"seen": pl.Series(seen)})
    parts = np.array(["train", "validation", "test"])[np.arange(900) % 3]
    risks = fit(name, frame, events, parts, settings("seen"))
    assert roc_auc_score(events[parts == "test"], risks[parts == "test"]) > 0.95


def test_trees_get_the_terms_that_go_with_the_outcome_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "TREE_TERMS", 5)  # of some thirty
    frame, events, parts = noted_table()
    risks = fit("lightgbm", frame, events, parts, settings("note"))
    assert roc_auc_score(events[parts == "test"], risks[parts == "test"]) > 0.99


def test_words_are_weighed_without_parting_a_patient() -> None:
    """Notes that name the patient, who has one outcome, would be worth much if a patient's rows
    stood in several folds."""
    draw = np.random.default_rng(0)
    patient = np.repeat(np.arange(100), 6)
    events = draw.integers(0, 2, 100)[patient]
    parts = np.array(["train"] * 60 + ["validation"] * 20 + ["test"] * 20)[patient]
    frame = pl.DataFrame({"age": draw.normal(60, 9, 600), "note": [f"room{number}" for number in patient]})
    frame = frame.with_columns(patient=pl.Series(patient.astype(str)))
    columns = {"age": {}, "note": {"type": "text"}, "y": {"role": "target"}, "patient": {"role": "group"}}
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    alone = DataConfig.model_validate(
        {"path": "t.csv", "columns": {k: v for k, v in columns.items() if k != "patient"}}
    )
    train = parts == "train"
    by_patient, by_row = (fit("logistic_regression", frame, events, parts, some)[train] for some in (data, alone))
    assert np.ptp(by_patient) < np.ptp(by_row) / 2


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("features", [("ward", "note"), ("age",), ("stage", "smoker"), ("seen", "ward")])
def test_columns_of_one_kind_alone(name: str, features: tuple[str, ...]) -> None:
    frame, events, parts = mixed_table()
    assert np.ptp(fit(name, frame, events, parts, settings(*features))) > 0


@pytest.mark.parametrize("name", [*FITTED, "age_sex_logistic_regression"])
def test_columns_that_are_constant_in_training(name: str) -> None:
    frame, events, parts = mixed_table()
    train = pl.Series(parts == "train")
    frame = frame.with_columns(
        pl.when(train).then(pl.lit(value, frame[column].dtype)).otherwise(pl.col(column)).alias(column)
        for column, value in {"age": 50.0, "seen": date(2020, 1, 1), "smoker": "1", "stage": "3", "ward": "A"}.items()
    )
    risks = fit(name, frame, events, parts)
    np.testing.assert_allclose(risks[parts == "train"], events[parts == "train"].mean(), atol=0.01)


def test_lightgbm_uses_a_column_of_many_categories_in_a_small_table() -> None:
    draw = np.random.default_rng(0)
    ward = draw.integers(0, 6, 300)
    events = (draw.random(300) < np.array([0.1, 0.9, 0.2, 0.8, 0.1, 0.9])[ward]).astype(int)
    parts = np.repeat(["train", "validation", "test"], [140, 40, 120])
    frame = pl.DataFrame({"ward": ["ABCDEF"[code] for code in ward]})
    risks = fit("lightgbm", frame, events, parts, settings("ward"))
    assert roc_auc_score(events[180:], risks[180:]) > 0.8


@pytest.mark.parametrize("name", FITTED)
def test_with_nothing_but_words_of_one_row_it_is_the_prevalence_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    frame, events, parts = mixed_table()
    frame = frame.with_columns(note=pl.Series([f"only{number}" for number in range(frame.height)]))
    risks = fit(name, frame, events, parts, settings("note"))
    np.testing.assert_array_equal(risks, events[parts == "train"].mean())
    assert "only free text without a term that stands in two training rows" in caplog.text


def test_ordinal_codes_without_a_dictionary_are_in_the_order_of_their_size() -> None:
    draw = np.random.default_rng(0)
    stage = draw.integers(1, 13, 600)
    events = (stage > 8).astype(int)
    frame = pl.DataFrame({"stage": [str(code) for code in stage]})
    parts = np.array(["train", "validation", "test"])[np.arange(600) % 3]
    risks = fit("logistic_regression", frame, events, parts, settings("stage"))
    mean = [risks[stage == code].mean() for code in range(1, 13)]
    assert mean == sorted(mean)
    assert mean[7] < 0.5 < mean[8]


@pytest.mark.parametrize("name", FITTED)
def test_thirty_rows_are_enough_to_fit(name: str) -> None:
    frame, events, _ = mixed_table(50)
    parts = np.repeat(["train", "validation", "test"], [30, 10, 10])
    fit(name, frame, events, parts)


def test_nothing_is_printed() -> None:
    """LightGBM writes its warnings to the process's own output, past Python."""
    code = (
        "import numpy as np; from test_baselines import BASELINES, ALL, LabelledRows, FITTED, mixed_table\n"
        "for rows in (50, 240):\n"
        "    frame, events, parts = mixed_table(rows)\n"
        "    for name in FITTED: BASELINES[name](LabelledRows(frame, events, parts, ALL))"
    )
    here = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


# --------------------------------------------------------------------------------------------------
# splines


def test_a_spline_follows_a_curve_that_a_line_cannot() -> None:
    draw = np.random.default_rng(0)
    age = draw.uniform(30, 85, 900)
    events = (draw.random(900) < 1 / (1 + np.exp(4 - (age - 57) ** 2 / 50))).astype(int)  # risk is high at both ends
    frame, parts = pl.DataFrame({"age": age}), np.array(["train", "validation", "test"])[np.arange(900) % 3]
    test = parts == "test"
    found = {
        name: roc_auc_score(events[test], fit(name, frame, events, parts, settings("age"))[test]) for name in FITTED
    }
    assert found["logistic_regression"] < 0.65
    assert found["spline_regression"] > 0.9


def test_a_spline_is_a_line_beyond_its_outer_knots() -> None:
    """On the log-odds: equal steps in age are equal steps in risk, however far away, and continue
    those inside."""
    draw = np.random.default_rng(1)
    age = draw.normal(60, 10, 500)
    events = (draw.random(500) < 1 / (1 + np.exp((60 - age) / 8))).astype(int)
    low, high = knots_of(age)[[0, -1]]
    beyond = np.r_[low - np.arange(4) * 5, high + np.arange(4) * 5, high - 1e-4, high + 1e-4]
    frame = pl.DataFrame({"age": np.r_[age, beyond]})
    parts = np.r_[np.full(500, "train"), np.full(len(beyond), "test")]
    risks = fit("spline_regression", frame, np.r_[events, np.zeros(len(beyond), int)], parts, settings("age"))[500:]
    log_odds = np.log(risks / (1 - risks))
    for four in (log_odds[:4], log_odds[4:8]):
        steps = np.diff(four)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert abs(steps[0]) > 0.05
    inside, outside = log_odds[4] - log_odds[8], log_odds[9] - log_odds[4]
    assert inside == pytest.approx(outside, rel=1e-3), "the slope does not jump at the last knot"


def test_an_outlier_in_training_does_not_bend_the_curve() -> None:
    draw = np.random.default_rng(2)
    age = draw.uniform(30, 85, 600)
    events = (draw.random(600) < np.where(abs(age - 57) > 15, 0.9, 0.1)).astype(int)
    parts = np.repeat(["train", "validation", "test"], [300, 100, 200])
    before = fit("spline_regression", pl.DataFrame({"age": age}), events, parts, settings("age"))
    wild = age.copy()
    wild[:2] = 16_020
    after = fit("spline_regression", pl.DataFrame({"age": wild}), events, parts, settings("age"))
    assert np.abs(after - before)[400:].max() < 0.1


def test_knots() -> None:
    values = np.arange(1.0, 200)
    np.testing.assert_array_equal(knots_of(np.r_[values, np.nan]), [10, 55, 100, 145, 190])  # by hand
    np.testing.assert_array_equal(knots_of(np.arange(1.0, 20)), [1, 7, 13, 19])
    # Nine in ten have 0: the quantiles of the distinct values serve.
    np.testing.assert_array_equal(knots_of(np.r_[np.zeros(1800), values[:-1]]), [9, 54, 99, 144, 189])
    assert len(knots_of(np.array([0.0, 1.0] * 50))) == 2
    assert len(knots_of(np.ones(50))) == 1
    assert len(knots_of(np.full(5, np.nan))) == 0


def test_a_missing_number_has_a_risk_of_its_own_in_a_spline() -> None:
    frame, events, parts = mixed_table(600)
    events = np.where(frame["age"].is_null().to_numpy(), 1, events)
    risks = fit("spline_regression", frame, events, parts, settings("age", "smoker", "stage", "ward"))
    missing = frame["age"].is_null().to_numpy() & (parts == "test")
    assert risks[missing].mean() > 0.8 > risks[(parts == "test") & ~missing].mean() + 0.2


# --------------------------------------------------------------------------------------------------
# age and sex


def dictionary(**columns: dict[str, Any]) -> DataConfig:
    return DataConfig.model_validate(
        {"path": "t.csv", "columns": {**columns, "y": {"role": "target", "type": "binary"}}}
    )


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("age", {}),
        ("AGE_YEARS", {}),
        ("ageAtVisit", {"type": "integer"}),
        ("p21022", {"phrase": "age at recruitment"}),
        ("age_when_attended_assessment_centre_f21003_0_0", {}),
        ("x1", {"phrase": "The patient is aged {value}."}),
        ("age_band", {"type": "ordinal"}),
    ],
)
def test_names_of_age(name: str, column: dict[str, Any]) -> None:
    assert age_and_sex(dictionary(other={}, **{name: column})) == [name]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("sex", {"type": "binary"}),
        ("Gender", {"type": "categorical"}),
        ("is_male", {"type": "binary"}),
        ("p31", {"type": "binary", "phrase": "sex"}),
        ("sex_f31_0_0", {"type": "binary"}),
        ("sex_at_birth", {"type": "categorical"}),
    ],
)
def test_names_of_sex(name: str, column: dict[str, Any]) -> None:
    assert age_and_sex(dictionary(other={}, **{name: column})) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "age_at_menopause",
        "fathers_age_at_death",
        "stage",
        "dosage",
        "bone_age",
        "phenotypic_age",
        "age_started_smoking",
        "age_first_had_sex",
        "sexual_partners",
        "pregnant_woman",
        "gender_of_child",
        "f",
        "at_baseline",
        "packages",
    ],
)
def test_names_of_something_else(name: str) -> None:
    assert age_and_sex(dictionary(**{name: {}})) == []


def test_which_age_of_several() -> None:
    days = {"type": "integer", "unit": "days"}
    bands = {"type": "ordinal"}
    years = {"type": "integer", "derive": {"function": "age_years_from_days", "inputs": ["age"]}}
    sex = {"type": "binary"}
    assert age_and_sex(dictionary(sex=sex, age_group=bands, age=days, time_lived=years)) == ["time_lived", "sex"]
    assert age_and_sex(dictionary(sex=sex, age_group=bands, age=days)) == ["age", "sex"]
    assert age_and_sex(dictionary(age_days={}, age={})) == ["age"]
    assert age_and_sex(dictionary(age={}, age_at_visit={}, sex=sex, gender=sex)) == ["age", "sex"]


def test_only_features_that_it_can_read_are_age_and_sex() -> None:
    columns = {"age": {"role": "ignore"}, "sex": {"type": "text"}, "gender": {"role": "group"}, "bmi": {}}
    assert age_and_sex(dictionary(**columns)) == []


@pytest.mark.parametrize("name", ["cardio", "statlog_heart", "uci_heart"])
def test_age_and_sex_of_the_shipped_dictionaries(name: str) -> None:
    data = {"path": "t.csv"} | yaml.safe_load((configs_folder() / "datasets" / f"{name}.yaml").read_text())["data"]
    expected = {"cardio": ["age_years", "gender"], "statlog_heart": ["age_years", "sex"], "uci_heart": ["age", "sex"]}
    assert age_and_sex(DataConfig.model_validate(data)) == expected[name]


def test_age_and_sex_are_all_that_it_reads() -> None:
    draw = np.random.default_rng(0)
    age, sex = draw.normal(60, 10, 1500), draw.integers(0, 2, 1500)
    events = (draw.random(1500) < 1 / (1 + np.exp(-0.15 * (age - 60) - 2 * (sex - 0.5)))).astype(int)
    parts = np.array(["train", "validation", "test"])[np.arange(1500) % 3]
    data = dictionary(age={}, sex={"type": "binary"}, sbp={})
    frame = pl.DataFrame({"age": age, "sex": [str(code) for code in sex], "sbp": draw.normal(size=1500)})
    risks = fit("age_sex_logistic_regression", frame, events, parts, data)
    test = parts == "test"
    assert roc_auc_score(events[test], risks[test]) > 0.8
    telling = frame.with_columns(sbp=pl.Series(events.astype(float)))
    np.testing.assert_array_equal(fit("age_sex_logistic_regression", telling, events, parts, data), risks)
    unknown = frame.with_columns(age=None, sex=pl.lit("9")).with_columns(pl.col("age").cast(pl.Float64))
    after = fit("age_sex_logistic_regression", pl.concat([frame, unknown[:3]]), np.r_[events, 0, 0, 0],
                np.r_[parts, ["test"] * 3], data)  # fmt: skip
    np.testing.assert_array_equal(after[:-3], risks)


def test_without_age_or_sex_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    frame, events, parts = mixed_table()
    fit("age_sex_logistic_regression", frame, events, parts)
    assert "of age and sex the dictionary names one alone, column age" in caplog.text
    caplog.clear()
    risks = fit("age_sex_logistic_regression", frame, events, parts, settings("ward", "stage"))
    np.testing.assert_array_equal(risks, events[parts == "train"].mean())
    assert "names neither age nor sex" in caplog.text and "phrase: age" in caplog.text


# --------------------------------------------------------------------------------------------------
# figures


def toy_risks(name: str, seed: int) -> float:
    """AUROC on a large test part, from 160 training rows of the toy table."""
    table = build_toy_table(1200, seed)
    features = [column for column in TOY_COLUMNS if column not in ("patient_id", "disease")]
    data = DataConfig.model_validate({"path": "t.csv", "columns": TOY_COLUMNS})
    frame = table.select(
        pl.col(column).cast(pl.Float64 if TOY_COLUMNS[column]["type"] == "integer" else pl.String)
        for column in features
    )
    events = table["disease"].to_numpy()
    parts = np.repeat(["train", "validation", "test"], [160, 40, 1000])
    return float(roc_auc_score(events[200:], fit(name, frame, events, parts, data)[200:]))


def test_160_rows_are_enough_to_learn_from() -> None:
    found = {name: np.mean([toy_risks(name, seed) for seed in range(5)]) for name in FITTED}
    assert found["logistic_regression"] > 0.83
    assert found["spline_regression"] > 0.82
    assert found["lightgbm"] > 0.78


def test_figures_of_the_published_cardio_table(shared_data: Path) -> None:
    """Rows and split of the published experiment. Expected: measured apart from this package, to
    within 0.002."""
    file = shared_data / "cardio_train.csv"
    columns = yaml.safe_load((configs_folder() / "datasets" / "cardio.yaml").read_text())["data"]["columns"]
    for name in ("age", "height", "weight"):
        del columns[name]["range"]
    columns["ap_hi"]["range"], columns["ap_lo"]["range"] = [90, 180], [60, 120]
    data = DataConfig.model_validate({"path": str(file), "columns": columns, "out_of_range": "exclude"})
    cohort = read_cohort(data, seed=42)
    assert cohort.frame.height == 68_205
    events = cohort.events
    parts = split_cohort(cohort, data, SplitConfig(test=0.5, validation=0.05), 42)
    test = np.flatnonzero(parts == "test")
    np.testing.assert_array_equal(
        test, np.sort(train_test_split(np.arange(68_205), test_size=0.5, stratify=events, random_state=42)[1])
    )
    expected = {
        "logistic_regression": (0.726, 0.790),
        "lightgbm": (0.733, 0.7996),
        "spline_regression": (0.7303, 0.7941),  # five-fold
    }
    for name, (accuracy, auroc) in expected.items():
        risks = fit(name, cohort.frame, events, parts, data)[test]
        assert accuracy_score(events[test], risks >= 0.5) == pytest.approx(accuracy, abs=0.002)
        assert roc_auc_score(events[test], risks) == pytest.approx(auroc, abs=0.002)
