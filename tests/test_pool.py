"""Several tables in one experiment: pooled under one dictionary, each in its own words."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune import runs, stages
from cardiotune.audit.audit import audit_prepared, audit_table
from cardiotune.audit.findings import as_json
from cardiotune.audit.table import Table
from cardiotune.config import compose, dump, load_config, load_resolved, read_yaml
from cardiotune.data.pool import InTwo
from cardiotune.data.prepare import read_prepared, show_prompts
from cardiotune.data.schema import label
from cardiotune.data.split import cluster_numbers, part_patients
from cardiotune.data.vary import Varied, wordings
from cardiotune.errors import ConfigError, DataError
from cardiotune.files import write_json
from cardiotune.models.predictions import write_predictions
from cardiotune.report.learning_curve import changed_settings
from cardiotune.settings import Column, VaryConfig
from cardiotune.settings.tables import OUTCOME, PATIENT, TABLE

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
MODEL = {"use": {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}}


def experiment(tables: dict[str, Any], **more: Any) -> Any:
    return compose({"name": "pooled", "tables": tables, **MODEL, **more}, [], "experiment.yaml", Path())


def hospitals(test: str = "va", **more: Any) -> Any:
    return experiment({name: {"part": "test"} if name == test else None for name in HOSPITALS}, **more)


def two(tmp_path: Path, second: dict[str, Any], rows: list[str], first_unit: str = "mg/dL", **table: Any) -> Any:
    """A table of age (years) and sugar (mg/dL) beside another one with its own dictionary."""
    first = tmp_path / "first.csv"
    first.write_text("age,sugar,sex,y\n" + "".join(f"{40 + i},{90 + i},{i % 2},{i // 2 % 2}\n" for i in range(60)))
    other = tmp_path / "other.csv"
    other.write_text("\n".join(rows) + "\n")
    columns = {
        "age": {"type": "integer", "unit": "years"},
        "sugar": {"unit": first_unit, "phrase": "fasting glucose"},
        "sex": {"type": "binary", "codes": {"0": "woman", "1": "man"}},
        "y": {"role": "target"},
    }
    tables = {
        "first": {"data": {"path": str(first), "columns": columns}},
        "other": {"data": {"path": str(other), "columns": second}, **table},
    }
    return experiment(tables)


OTHER = {
    "alter": {"type": "numeric", "unit": "months", "same_as": "age"},
    "glukose": {"unit": "mmol/L", "same_as": "sugar"},
    "geschlecht": {"type": "binary", "codes": {"F": "woman", "M": "man"}, "same_as": "sex"},
    "krank": {"role": "target"},
}
ROWS = [
    "alter,glukose,geschlecht,krank",
    *(f"{12 * (50 + i)},{5.55 + i},{'FM'[i % 2]},{i // 2 % 2}" for i in range(40)),
]


def test_units_and_codes_come_together_and_texts_stay_as_each_hospital_writes(tmp_path: Path) -> None:
    prepared = read_prepared(two(tmp_path, OTHER, ROWS))
    frame = prepared.cohort.frame
    assert frame[TABLE].value_counts(sort=True)["count"].to_list() == [60, 40]
    other = frame.filter(frame[TABLE] == "other")
    assert other["age"].to_list() == [50 + i for i in range(40)]
    assert other["sugar"][0] == pytest.approx(100, abs=0.2)  # 100 mg/dL of glucose are 5.55 mmol/L
    assert other["sex"].to_list()[:3] == ["0", "1", "0"]
    assert prepared.texts[60] == "alter 600 months, glukose 5.55 mmol/L, geschlecht woman"
    assert prepared.texts[0] == "age 40 years, fasting glucose 90 mg/dL, sex woman"
    assert prepared.cohort.events.tolist()[60:64] == [0, 0, 1, 1]


def test_codes_of_other_names_are_matched_by_hand(tmp_path: Path) -> None:
    column = {"type": "binary", "codes": {"v": "vrouw", "m": "heer"}, "same_as": "sex"}
    rows = [row.replace("F", "v").replace("M", "m") for row in ROWS]
    with pytest.raises(
        ConfigError, match=r"other.*geschlecht: codes v, m are none of sex of table first; say with same_codes"
    ):
        two(tmp_path, {**OTHER, "geschlecht": column}, rows)
    config = two(tmp_path, {**OTHER, "geschlecht": {**column, "same_codes": {"v": "0", "m": "1"}}}, rows)
    frame = read_prepared(config).cohort.frame
    assert frame.filter(frame[TABLE] == "other")["sex"].to_list()[:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alter": {"type": "text", "same_as": "age"}}, "alter: is text, but age of table first is integer"),
        ({"glukose": {"unit": "mmol/L", "same_as": "age"}}, "another column of this table is age too"),
        ({"glukose": {"same_as": "table"}}, "table cannot be a quantity's name"),
        ({"glukose": {"same_as": "patient"}}, "patient cannot be a quantity's name"),
    ],
    ids=["two kinds", "twice", "reserved", "reserved for patients"],
)
def test_what_cannot_be_one_quantity_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        two(tmp_path, {**OTHER, **change}, ROWS)


@pytest.mark.parametrize(
    ("tables", "more", "said"),
    [
        ({"va": None}, {}, "tables: name at least two"),
        ({"va": {"part": "test"}, "cleveland": {"part": "test"}}, {}, "leave one to train on"),
        ({"va": None, "clevland": None}, {}, "tables.clevland: clevland: no such file.*did you mean cleveland"),
        ({"va": None, "cleveland": None}, {"split": {"by": "table", "test_tables": ["vaa"]}}, "did you mean va"),
        ({"va": None, "cleveland": None}, {"split": {"by": "table"}}, "no table is held out"),
        ({"va": None, "cleveland": None}, {"split": {"by": "site"}}, "split.by: site is for one table"),
        ({"va": None, "clevland": {"path": "a.csv"}}, {}, "tables.clevland: clevland: no such file.*did you mean clev"),
        ({"va": None, "cleveland": {"shere": 2}}, {}, "tables.cleveland.shere: unknown key"),
        ({"va": None, "cleveland": {"data": 3}}, {}, "tables.cleveland.data: input should be .*came: 3"),
        ({"va": None, "cleveland": None}, {"data": {"path": "x.csv"}}, "takes the place of data"),
    ],
)
def test_bad_tables_get_a_line(tables: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(tables, **more)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"test_path": "t.csv"},
            "test files (data.test_path) are for experiments of one table; make each a table with part: test",
        ),
        (
            {"columns": {"age": {}, "y": {"role": "target"}, "arm": {"role": "split"}}},
            "a column of role split (arm) is for experiments of one table; give it role ignore",
        ),
    ],
    ids=["test file", "column of parts"],
)
def test_parts_of_a_table_of_its_own_are_refused(change: dict[str, Any], said: str) -> None:
    """They would be passed over, and rows that were set apart would be learned from."""
    columns = {"age": {}, "y": {"role": "target"}}
    data = {"path": "builtin:va", "columns": columns}
    with pytest.raises(ConfigError) as refused:
        experiment({"one": {"data": data}, "other": {"data": {**data, **change}}})
    assert str(refused.value) == f"experiment.yaml: tables.other: {said}"


@pytest.mark.parametrize(
    ("in_file", "given", "expected"),
    [
        ({"path": "own.csv"}, None, "exp/own.csv"),
        ({"data": {"path": "own.csv"}}, None, "exp/own.csv"),
        ({"path": "own.csv"}, "path=a.csv", "a.csv"),
        ({"path": "own.csv"}, "data.path=a.csv", "a.csv"),
        ({"data": {"path": "own.csv"}}, "path=a.csv", "a.csv"),
        ({"data": {"path": "own.csv"}}, "data.path=a.csv", "a.csv"),
        ("cleveland", "path=a.csv", "a.csv"),
        (None, "data.path=a.csv", "a.csv"),
        ({"path": "own.csv"}, "path=builtin:cleveland", "builtin:cleveland"),
    ],
)
def test_a_path_is_of_its_file_or_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: Any, given: str | None, expected: str
) -> None:
    (tmp_path / "exp").mkdir()
    write_json(tmp_path / "exp" / "e.yaml", {"name": "paths", "tables": {"cleveland": in_file, "va": None}, **MODEL})
    monkeypatch.chdir(tmp_path)
    config = load_config("exp/e.yaml", [f"tables.cleveland.{given}"] if given else [])
    path = config.tables["cleveland"].data.path
    assert path == (expected if ":" in expected else str(tmp_path / expected))
    assert config.tables["cleveland"].data.columns["oldpeak"].role == "feature", "as the dataset has them"


def test_whole_tables_are_held_out_and_validation_is_of_all_that_train() -> None:
    config = hospitals("va")
    assert config.split.by == "table"
    prepared = read_prepared(config)
    tables = prepared.cohort.frame[TABLE].to_numpy()
    assert set(tables[prepared.parts == "test"]) == {"va"}
    assert (prepared.parts[tables == "va"] == "test").all()
    validation = prepared.parts == "validation"
    assert set(tables[validation]) == {"cleveland", "hungarian", "switzerland"}
    for name in ("cleveland", "hungarian", "switzerland"):
        assert validation[tables == name].mean() == pytest.approx(0.15, abs=0.02)
    assert len(set(prepared.cohort.frame["__row_id__"])) == 920


def test_prompts_are_shown_in_the_words_that_the_model_learns() -> None:
    """Of the first table that trains, and not of one that is held out, whose names the shared
    dictionary has where it comes first."""
    config = experiment({"va": {"part": "test"}, "hungarian": None, "cleveland": None})
    (shown,) = show_prompts(config, 1, real_rows=False)
    texts = {name: table.data.columns for name, table in config.tables.items()}
    said = {name: [label(own, column) for own, column in columns.items()] for name, columns in texts.items()}
    strange = set(said["va"]) - set(said["hungarian"])
    assert any(words in shown for words in set(said["hungarian"]) - set(said["va"]))
    assert strange and not [words for words in strange if words in shown]


def test_parts_at_random_keep_to_what_a_table_is_for() -> None:
    tables = {"cleveland": {"part": "train"}, "hungarian": None, "va": {"part": "test"}}
    prepared = read_prepared(experiment(tables, split={"by": "random"}))
    names = prepared.cohort.frame[TABLE].to_numpy()
    parts = {name: set(prepared.parts[names == name]) for name in tables}
    assert parts == {
        "cleveland": {"train", "validation"},
        "hungarian": {"train", "validation", "test"},
        "va": {"test"},
    }


def test_the_resolved_experiment_reads_back(tmp_path: Path) -> None:
    config = hospitals()
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_resolved(tmp_path / "config.yaml") == config
    assert config.data.name_of("target") == OUTCOME
    assert config.task.outcome == "heart disease"


def test_one_table_is_as_it_was() -> None:
    config = load_config("statlog_heart")
    assert not config.tables
    assert config.vary is None
    assert read_prepared(config).varied is None


# --------------------------------------------------------------------------------------------------
# texts that vary


STILL = {"order": False, "drop": None, "wording": False, "units": False, "numbers": False, "missing": False}


def varied(**vary: Any) -> tuple[Any, Varied]:
    prepared = read_prepared(hospitals(serialize={"vary": vary} if vary else {}))
    assert prepared.varied
    return prepared, prepared.varied


def test_a_draw_is_one_way_of_writing_and_comes_again() -> None:
    _, vary = varied()
    rows = [0, 5, 400]
    first, again = (vary.texts(rows, np.random.default_rng(3)) for _ in range(2))
    assert first == again
    others = [vary.texts(rows, np.random.default_rng(seed)) for seed in range(20)]
    assert len({texts[0] for texts in others}) == 20
    # What two rows of a batch say alike they say in the same words, so that it is still shared.
    shared = [text.split(" ")[:2] for text in first[:2]]
    assert shared[0] == shared[1]


def test_the_held_out_table_lends_no_words() -> None:
    _, vary = varied()
    texts = " ".join(text for seed in range(60) for text in vary.texts([0, 700], np.random.default_rng(seed)))
    assert "gender" in texts
    assert "sex of the patient" in texts
    assert "treadmill" not in texts, "of the dictionary of va alone"
    assert "classic angina" not in texts


def test_each_way_can_be_left_out() -> None:
    still = STILL
    prepared, vary = varied(**still)
    assert vary.texts([0], np.random.default_rng(1)) == prepared.texts[:1], "of the first table, nothing varies"
    for way, value in {"order": True, "drop": 0.5, "wording": True, "units": True}.items():
        _, one = varied(**{**still, way: value})
        assert len({one.texts([0], np.random.default_rng(seed))[0] for seed in range(12)}) > 3, way


def test_without_wording_every_row_is_told_in_its_own_tables_words_and_units() -> None:
    prepared, vary = varied(**STILL)
    rows = [0, 400, 5, 650, 401]  # of Cleveland, Hungary and Switzerland, mixed as a batch may be
    assert vary.texts(rows, np.random.default_rng(1)) == [prepared.texts[row] for row in rows]
    assert vary.longest(rows) == [prepared.texts[row] for row in rows]
    prepared, vary = varied(wording=False, units=False, numbers=False)
    for seed in range(20):
        texts = vary.texts(rows, np.random.default_rng(seed))
        for row, text in zip(rows, texts, strict=True):
            own = prepared.texts[row].split(", ")
            assert all(piece in own for piece in text.split(", ") if "not recorded" not in piece), text
            assert text.count(", ") >= 2 or prepared.texts[row].count("not recorded") > 3


def test_without_wording_a_draw_is_one_for_the_tables_of_a_batch() -> None:
    """The order of quantities is the same, whatever each table calls them, and they are left out
    together."""
    prepared, vary = varied(**{**STILL, "order": True, "drop": 0.3})
    dictionaries = {source.name: source.data for source in prepared.sources}
    called = {
        name: {label(own, column): column.same_as or own for own, column in data.columns.items()}
        for name, data in dictionaries.items()
    }

    def order(text: str, table: str) -> list[str]:
        names = sorted(called[table], key=len, reverse=True)
        return [next(called[table][n] for n in names if piece.startswith(n)) for piece in text.split(", ")]

    orders = set()
    for seed in range(20):
        first, second = vary.texts([0, 400], np.random.default_rng(seed))
        assert order(first, "cleveland") == order(second, "hungarian")
        orders.add(tuple(order(first, "cleveland")))
    assert len(orders) == 20


def test_other_units_tell_the_same_value() -> None:
    only = {"order": False, "drop": None, "wording": False, "units": True, "numbers": False, "missing": False}
    _, vary = varied(**only)
    texts = {vary.texts([0], np.random.default_rng(seed))[0] for seed in range(30)}
    assert any("cholesterol 233 mg/dL" in text for text in texts)
    assert any("cholesterol 6.03 mmol/L" in text for text in texts)
    assert any("145 mmHg" in text for text in texts)
    assert any("19.3 kPa" in text for text in texts)


def test_a_reference_range_goes_along_into_other_units() -> None:
    """What a number is to its reference range is the same in every unit that is drawn."""
    only = {"order": False, "drop": None, "wording": False, "units": True, "numbers": True, "missing": False}
    prepared = read_prepared(hospitals(serialize={"interpret": True, "vary": only}))
    assert prepared.varied
    vary, rows = prepared.varied, list(range(597))

    def places(texts: list[str]) -> list[list[str]]:
        return [re.findall(r"(?:cholesterol|pressure|pressure at rest) (\w+ at)", text) for text in texts]

    plain = places(prepared.texts_of(rows))
    assert {place for row in plain for place in row} == {"normal at", "high at"}, "nobody is below 90 mmHg"
    drawn = [vary.texts(rows, np.random.default_rng(seed)) for seed in range(12)]
    assert {unit for texts in drawn for unit in re.findall(r"mmol/L|mg/dL|mmHg|kPa", texts[0])} == {
        "mmol/L", "mg/dL", "mmHg", "kPa"
    }  # fmt: skip
    assert all(places(texts) == plain for texts in drawn)


def test_aliases_of_a_dictionary_are_words_too() -> None:
    config = load_config("statlog_heart", ["data.columns.sex.aliases=[gender]", "serialize.vary=true"])
    ways = wordings(config.data.columns, [config.data.columns])
    assert ways["sex"].names == ["sex", "gender"]
    assert isinstance(config.vary, VaryConfig)


# --------------------------------------------------------------------------------------------------
# patients who stand in two tables

STATLOG = {
    "age_years": "age", "chest_pain": "cp", "resting_sbp_mmhg": "trestbps", "cholesterol_mg_dl": "chol",
    "fasting_sugar_over_120": "fbs", "resting_ecg": "restecg", "max_heart_rate": "thalach", "exercise_angina": "exang",
    "st_depression_mm": "oldpeak", "st_slope": "slope", "major_vessels": "ca", "thallium": "thal",
}  # fmt: skip


def beside_cleveland(harmonised: bool = True, split: dict[str, Any] | None = None, **more: Any) -> Any:
    columns = {name: {"same_as": other} for name, other in STATLOG.items()} if harmonised else {}
    tables = {"statlog_heart": {"part": "test", "data": {"columns": columns}}, "cleveland": {"part": "train"}, **more}
    return experiment(tables, models=["logistic_regression"], split={"by": "table", **(split or {})})


def test_statlog_is_not_held_out_from_cleveland() -> None:
    with pytest.raises(DataError) as refused:
        read_prepared(beside_cleveland())
    assert str(refused.value) == (
        "tables: 270 of 270 patients of statlog_heart stand in cleveland too, equal in the 13 columns that both have, and 0 "
        "in all of them but one; so patients are learned from and held out: take them out of training and validation with "
        "split.shared_patients: unused, or keep them with allow"
    )


def test_they_are_found_without_a_mapping_too() -> None:
    with pytest.raises(
        DataError, match=r"patients of statlog_heart stand in cleveland too, equal in the 4 columns that"
    ):
        read_prepared(beside_cleveland(harmonised=False))


def test_shared_patients_are_left_out_of_what_is_learned_from() -> None:
    prepared = read_prepared(beside_cleveland(split={"shared_patients": "unused"}))
    (found,) = prepared.in_two
    assert len(found.pairs) == 270
    names, parts = prepared.cohort.frame[TABLE].to_numpy(), prepared.parts
    assert (parts[names == "statlog_heart"] == "test").all()
    assert (parts[names == "cleveland"] == "unused").sum() == len(set(found.pairs[:, 1]))
    assert set(parts[found.pairs[:, 1]]) == {"unused"}
    said = [
        finding
        for finding in audit_table(Table(prepared, beside_cleveland().data, 0))
        if finding.check == "in_two_tables"
    ]
    assert [finding.severity for finding in said] == ["note"]


def test_shared_patients_that_are_allowed_are_a_leak() -> None:
    config = beside_cleveland(split={"shared_patients": "allow"})
    prepared = read_prepared(config)
    assert "unused" not in prepared.parts
    said = [finding for finding in audit_table(Table(prepared, config.data, 0)) if finding.check == "in_two_tables"]
    assert [(finding.severity, finding.numbers) for finding in said] == [("leak", {})]
    assert said[0].text == (
        "270 of 270 patients of statlog_heart stand in cleveland too, equal in the 13 columns that both have, and 0 in all of "
        "them but one; they are learned from and in the test part (split.shared_patients: allow)"
    )


def test_two_tables_that_both_train_may_share_patients() -> None:
    config = experiment(
        {
            "statlog_heart": {"part": "train", "data": {"columns": {n: {"same_as": o} for n, o in STATLOG.items()}}},
            "cleveland": {"part": "train"},
            "va": {"part": "test"},
        }
    )
    prepared = read_prepared(config)
    said = [finding for finding in audit_table(Table(prepared, config.data, 0)) if finding.check == "in_two_tables"]
    assert [finding.severity for finding in said] == ["warning"]
    assert said[0].text.endswith("some are in training and in validation, by which the step was chosen")


def test_rows_drawn_at_random_are_looked_at_one_by_one() -> None:
    """Tables of both parts: it is the rows of a patient that must not be parted."""
    config = beside_cleveland(split={"by": "random", "shared_patients": "unused"})
    config = experiment(
        {name: {"data": t.data.model_dump(mode="json")} for name, t in config.tables.items()},
        split={"by": "random", "shared_patients": "unused"},
    )
    prepared = read_prepared(config)
    parts = prepared.parts[prepared.in_two[0].pairs]
    torn = {tuple(sorted(set(pair))) for pair in parts}
    assert torn <= {("train",), ("validation",), ("test",), ("test", "unused"), ("unused", "validation"), ("unused",)}
    assert len(prepared.rows("test")) == pytest.approx(0.25 * 573, abs=2)


# --------------------------------------------------------------------------------------------------
# patients with several rows


def with_visits(tmp_path: Path, by: str = "random", **more: Any) -> Any:
    """A table of 60 patients with three visits each, one of 60 rows without a column of patients,
    and, held out by table, one of 30 patients with two visits."""
    columns = {"age": {"type": "integer", "unit": "years"}, "sugar": {"unit": "mg/dL"}, "y": {"role": "target"}}
    visits = {"visits": (60, 3), "rows": (60, 1), "pairs": (30, 2)}
    tables: dict[str, Any] = {}
    for name, (patients, times) in visits.items():
        grouped = name != "rows"
        lines = [
            f"{40 + i % 45},{90 + 7 * i % 83 + visit},{(i + visit) % 3 % 2}" + f",{i}" * grouped
            for i in range(patients)
            for visit in range(times)
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["age,sugar,y" + ",who" * grouped, *lines]) + "\n")
        group = {"who": {"role": "group"}} if grouped else {}
        tables[name] = {"data": {"path": str(path), "columns": {**columns, **group}}}
    if by == "table":
        tables["pairs"]["part"] = "test"
    return experiment(tables, **{"split": {"by": by}, **more})


@pytest.mark.parametrize("by", ["random", "table"])
def test_rows_of_one_patient_stay_in_one_part(tmp_path: Path, by: str) -> None:
    config = with_visits(tmp_path, by)
    assert config.data.name_of("group") == PATIENT
    prepared = read_prepared(config)
    frame = prepared.cohort.frame.with_columns(part=prepared.parts)
    assert frame[PATIENT].n_unique() == 60 + 60 + 30
    assert frame.group_by(PATIENT).agg(parts=pl.col("part").n_unique())["parts"].to_list() == [1] * 150
    for name in ("visits", "rows"):
        parts = frame.filter(pl.col(TABLE) == name)["part"]
        assert (parts == "validation").mean() == pytest.approx(0.15, abs=0.05)
        assert (parts == "test").mean() == pytest.approx(0.25 if by == "random" else 0, abs=0.05)
    assert set(frame.filter(pl.col(TABLE) == "pairs")["part"]) >= {"test"}
    clusters = cluster_numbers(prepared.cohort.frame, config.data)
    assert clusters == [*sorted([*range(60)] * 3), *range(60, 120), *sorted([*range(120, 150)] * 2)]


def test_a_patient_is_of_one_table(tmp_path: Path) -> None:
    frame = read_prepared(with_visits(tmp_path)).cohort.frame
    ids = frame["__row_id__"]
    assert (frame[PATIENT][0], frame[PATIENT][180], frame[PATIENT][-1]) == (
        "visits 0",
        f"rows row {ids[180]}",
        "pairs 29",
    )


def test_tables_without_patients_have_no_such_column() -> None:
    config = hospitals()
    assert PATIENT not in config.data.columns
    assert PATIENT not in read_prepared(config).cohort.frame.columns


def test_a_small_table_does_not_make_validation_large(tmp_path: Path) -> None:
    """A share of groups is drawn in folds, no more than the smallest stratum has rows."""
    config = with_visits(tmp_path)
    few = tmp_path / "rows.csv"
    few.write_text("".join(line for line in few.open() if not line.endswith(",1\n")) + 3 * "50,100,1\n")
    parts = read_prepared(config).parts
    assert (parts == "validation").mean() == pytest.approx(0.15, abs=0.03)
    assert (parts == "test").mean() == pytest.approx(0.25, abs=0.03)


def test_every_visit_of_a_patient_who_stands_in_two_tables_is_unused(tmp_path: Path) -> None:
    config = with_visits(tmp_path, "table", split={"by": "table", "shared_patients": "unused"})
    prepared = read_prepared(config)
    first, held = 3 * 7, 180 + 60  # a visit of the eighth patient, and the first row held out
    patients = [InTwo("in words", np.array([[first, held]]))]
    parts = part_patients(prepared.parts, patients, prepared.cohort, config.data, config.split)
    assert parts[first : first + 3].tolist() == ["unused"] * 3
    assert (parts == "unused").sum() == 3


def test_a_part_of_one_patient_is_refused(tmp_path: Path) -> None:
    config = with_visits(tmp_path, "table")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("age,sugar,y,who\n" + "".join(f"{40 + i},{90 + i},{i % 2},1\n" for i in range(20)))
    with pytest.raises(DataError, match="all 20 rows of the test part are of one patient"):
        read_prepared(config)


# --------------------------------------------------------------------------------------------------
# shares


def weighed(**shares: float | None) -> tuple[Any, dict[str, float]]:
    tables = {name: {"share": share} for name, share in shares.items()} | {"va": {"part": "test"}}
    prepared = read_prepared(experiment(tables))
    names = prepared.cohort.frame[TABLE].to_numpy()
    train = prepared.parts == "train"
    if prepared.shares is None:
        return prepared, {}
    assert prepared.shares[train].mean() == pytest.approx(1)
    sums = {name: prepared.shares[train & (names == name)].sum() / train.sum() for name in shares}
    return prepared, sums


def test_a_table_counts_as_much_as_its_share() -> None:
    prepared, sums = weighed(cleveland=0.5, hungarian=None, switzerland=None)
    assert sums["cleveland"] == pytest.approx(0.5)
    rows = {name: (prepared.cohort.frame[TABLE].to_numpy()[prepared.parts == "train"] == name).sum() for name in sums}
    assert sums["hungarian"] / sums["switzerland"] == pytest.approx(rows["hungarian"] / rows["switzerland"])
    _, sums = weighed(cleveland=3, hungarian=1, switzerland=1)
    assert sums == pytest.approx({"cleveland": 0.6, "hungarian": 0.2, "switzerland": 0.2})
    assert weighed(cleveland=None, hungarian=None)[0].shares is None


def test_shares_that_leave_nothing_are_refused() -> None:
    said = "tables: shares of 1.2 together leave nothing for those that train without one; keep them below 1, or give"
    with pytest.raises(ConfigError, match=said):
        weighed(cleveland=0.7, hungarian=0.5, switzerland=None)


# --------------------------------------------------------------------------------------------------
# bad tables, word for word


def test_two_tables_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text(
        "name: twice\ntables:\n  va: {part: test}\n  cleveland:\n  va: {part: train}\n"
    )
    with pytest.raises(ConfigError, match=r"not valid YAML at line 3 \(key va is given twice; keep one\)$"):
        load_config(str(tmp_path / "twice.yaml"))


def test_a_table_that_does_not_have_its_outcome(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read_prepared(two(tmp_path, OTHER, [row.rpartition(",")[0] for row in ROWS]))
    assert str(refused.value) == (
        f"tables.other: {tmp_path / 'other.csv'}: columns of the data dictionary that are not in the table: krank; of its 3 "
        "columns 3 are those of the dictionary"
    )


def test_a_dictionary_without_an_outcome(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        two(tmp_path, {name: column for name, column in OTHER.items() if name != "krank"}, ROWS)
    assert str(refused.value) == (
        "experiment.yaml: tables.other: data.columns: expected one column with role target, found 0"
    )


def test_a_table_of_one_outcome(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read_prepared(two(tmp_path, OTHER, [ROWS[0], *(row[:-1] + "0" for row in ROWS[1:])]))
    assert str(refused.value) == (
        f"tables.other: {tmp_path / 'other.csv'}: all 40 rows have the same outcome (no event) in krank; both are needed to "
        "learn a risk. Check data.columns.krank.positive"
    )


def test_no_table_to_train_on() -> None:
    with pytest.raises(ConfigError) as refused:
        experiment({"va": {"part": "test"}, "cleveland": {"part": "test"}})
    assert str(refused.value) == "experiment.yaml: tables: all of them are for the test; leave one to train on"


def test_same_as_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        two(tmp_path, {**OTHER, "alter": {"type": "text", "same_as": "age"}}, ROWS)
    assert str(refused.value) == (
        "experiment.yaml: tables.other.data.columns.alter: is text, but age of table first is integer; what is one quantity "
        "must be of one kind: mend type or same_as"
    )


def test_units_that_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read_prepared(two(tmp_path, {**OTHER, "glukose": {"unit": "mmHg", "same_as": "sugar"}}, ROWS))
    assert str(refused.value) == (
        "tables.other.glukose: cannot convert mmHg to mg/dL for glucose: they do not measure the same; mend its unit or same_as"
    )


@pytest.mark.parametrize(("first", "second"), [("mg/dL", None), (None, "mmol/L")])
def test_a_unit_that_one_table_does_not_say_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str | None, second: str | None
) -> None:
    other = {**OTHER, "glukose": {**OTHER["glukose"], "unit": second}}
    config = two(tmp_path, other, ROWS, first_unit=first)  # type: ignore[arg-type]
    prepared = read_prepared(config)
    names = ["tables.first.data.columns.sugar", "tables.other.data.columns.glukose"]
    bare, has = names if first is None else names[::-1]
    said = [record.message for record in caplog.records if "has no unit" in record.message]
    assert len(said) == 1
    assert said[0].startswith(f"{bare} has no unit, and {has}, the same quantity (sugar), is in {first or second}: ")
    assert f"write {bare}.unit" in said[0]
    found = [finding for finding in audit_prepared(config, prepared) if finding.check == "unit_missing"]
    assert [(finding.severity, finding.text) for finding in found] == [("warning", said[0])]


def test_tables_that_all_say_their_units_get_no_such_line(tmp_path: Path) -> None:
    assert read_prepared(two(tmp_path, OTHER, ROWS)).units_missing == ()
    assert read_prepared(hospitals()).units_missing == ()


def test_a_table_that_shares_nothing_is_said_and_not_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {name: {**column, "same_as": None} for name, column in OTHER.items() if name != "krank"}
    config = two(tmp_path, {**columns, "krank": OTHER["krank"]}, ROWS, part="test")
    prepared = read_prepared(config)
    line = "table other has no column in common with the tables that train: nothing was learned of what it has"
    assert line in caplog.text
    assert line in [finding.text for finding in audit_table(Table(prepared, config.data, 0))]


# --------------------------------------------------------------------------------------------------
# how well the test part can be ranked

CARDIO = {"cardio": {"data": {"path": "cardio.csv"}}}


@pytest.mark.parametrize(
    ("tables", "more", "judged"),
    [
        ({**CARDIO, "hungarian": {"part": "test"}}, {}, ["hungarian"]),
        ({**CARDIO, "hungarian": None}, {"split": {"by": "table", "test_tables": ["cardio"]}}, ["cardio"]),
        ({**CARDIO, "hungarian": None}, {}, ["cardio", "hungarian"]),
        (
            {**CARDIO, "hungarian": {"part": "train"}, "va": {"part": "test"}},
            {"split": {"by": "random"}},
            ["cardio", "va"],
        ),
    ],
)
def test_dictionaries_of_the_tables_with_test_rows(
    tables: dict[str, Any], more: dict[str, Any], judged: list[str]
) -> None:
    config = experiment(tables, **more)
    assert config.judged_data == [config.tables[name].data for name in judged]


def test_of_one_table_it_is_the_only_dictionary() -> None:
    config = load_config("statlog_heart")
    assert config.judged_data == [config.data]


@pytest.mark.parametrize(("test", "found"), [("hungarian", []), ("cardio", ["above_ceiling"])])
def test_the_ceiling_is_that_of_the_tables_with_test_rows(tmp_path: Path, test: str, found: list[str]) -> None:
    """What is known of cardio says nothing about patients of Hungary, whose columns are others."""
    config = experiment({**CARDIO, "hungarian": None}, split={"by": "table", "test_tables": [test]})
    folder = runs.create(tmp_path / "run", dump(config), False)
    write_predictions(folder.predictions, [])
    judged = {"n": 294, "n_events": 106, "models": {"tuned": {"auroc": {"value": 0.91, "ci": [0.88, 0.94]}}}}
    write_json(folder.metrics, {"parts": {"test": judged}})
    for file, content in ((folder.calibration, {}), (folder.cohort, {}), (folder.audit, as_json([]))):
        write_json(file, content)
    folder.record(folder.predictions, folder.metrics, folder.calibration, folder.cohort, folder.audit)
    assert [finding.check for finding in stages.audit_results(folder)] == found


@pytest.mark.parametrize(("test", "ceiling"), [("other", 0.99), ("first", 0.81)])
def test_the_quick_model_is_held_against_the_same(tmp_path: Path, test: str, ceiling: float) -> None:
    """A table with Kaggle's columns, whose outcome its sugar tells, and one with others."""
    known = ("ap_hi", "ap_lo", "cholesterol", "gluc", "smoke", "alco", "active")
    draw = np.random.default_rng(0)
    happened = draw.integers(0, 2, 400)
    told = np.round(happened + draw.normal(0, 0.55, 400), 3)  # an AUROC of 0.90
    columns = {name: draw.integers(0, 9, 400) for name in known}
    pl.DataFrame({**columns, "gluc": told, "y": happened}).write_csv(tmp_path / "first.csv")
    pl.DataFrame({"zucker": told, "krank": happened}).write_csv(tmp_path / "other.csv")
    dictionaries: dict[str, dict[str, Any]] = {
        "first": {**{name: {"type": "numeric"} for name in known}, "y": {"role": "target"}},
        "other": {"zucker": {"type": "numeric", "same_as": "gluc"}, "krank": {"role": "target"}},
    }
    tables = {
        name: {"data": {"path": str(tmp_path / f"{name}.csv"), "columns": own}} for name, own in dictionaries.items()
    }
    config = experiment(tables, split={"by": "table", "test_tables": [test], "shared_patients": "allow"})
    findings = audit_prepared(config, read_prepared(config))
    found = [finding.numbers["ceiling"] for finding in findings if finding.check == "above_ceiling"]
    assert found == ([ceiling] if ceiling < 0.9 else [])


def test_the_longest_way_is_measured_before_training(tmp_path: Path) -> None:
    _, vary = varied()
    rows = list(range(0, 700, 50))
    longest = [len(text) for text in vary.longest(rows)]
    drawn = [[len(text) for text in vary.texts(rows, np.random.default_rng(seed))] for seed in range(60)]
    assert all(most >= max(of_row) for most, of_row in zip(longest, zip(*drawn, strict=True), strict=True))
    still = {"order": False, "drop": None, "wording": False, "units": False, "numbers": False, "missing": False}
    prepared, plain = varied(**still)
    assert plain.longest([0]) == prepared.texts[:1]


def test_words_of_a_code_that_the_first_dictionary_has_not_are_drawn_too() -> None:
    def column(codes: dict[str, str], **more: Any) -> Column:
        return Column(type="categorical", codes=codes, **more)

    pooled = column({"1": "never", "2": "past", "3": "now"})
    first, second = column({"1": "no", "3": "yes"}, same_as="smoker"), column({"1": "nie", "2": "ex"}, same_as="smoker")
    first, second = (
        each.model_copy(update={"same_codes": {c: c for c in each.codes or {}}}) for each in (first, second)
    )
    ways = wordings({"smoker": pooled}, [{"a": first}, {"b": second}])
    assert ways["smoker"].codes == {"1": ["no", "nie"], "3": ["yes"], "2": ["ex"]}


@pytest.mark.parametrize("first", ["mg/dL", "mmol/L"])
def test_a_substance_is_known_by_the_name_that_either_table_has(tmp_path: Path, first: str) -> None:
    """`sugar` and `wert`: only one of them says what is measured, in either order."""
    second = "mmol/L" if first == "mg/dL" else "mg/dL"
    other = {**OTHER, "glukose": {"unit": second, "phrase": "wert", "same_as": "sugar"}}
    other["wert"] = other.pop("glukose")
    config = two(tmp_path, other, [ROWS[0].replace("glukose", "wert"), *ROWS[1:]], first_unit=first)
    frame = read_prepared(config).cohort.frame
    factor = 18.0156 if first == "mg/dL" else 1 / 18.0156
    assert frame.filter(frame[TABLE] == "other")["sugar"][0] == pytest.approx(5.55 * factor, rel=1e-3)


def test_what_a_tables_reading_learned_is_kept_for_tables_scored_later(tmp_path: Path) -> None:
    """05/12/2019 alone tells no month; the table that it was learned from does."""
    days = [f"{1 + i % 28:02}/{1 + i % 12:02}/2019" for i in range(40)]
    rows = [f"{row},{'seen' if i == 0 else days[i - 1]}" for i, row in enumerate(ROWS)]
    config = two(tmp_path, {**OTHER, "seen": {"type": "date"}}, rows)
    config = config.model_copy(update={"models": ["logistic_regression"], "runs_dir": str(tmp_path)})
    folder, prepared = stages.prepare(config)
    kept = load_resolved(folder.config)
    assert kept.tables["other"].data.columns["seen"].day_first is True
    assert next(source.data for source in prepared.sources if source.name == "other") == kept.tables["other"].data
    assert changed_settings(read_yaml(folder.config), config.model_dump(mode="json")) == []
