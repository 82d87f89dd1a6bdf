"""`cardiotune init`: a new table runs in two commands, and its draft tells of no single patient."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.config import load_config, read_yaml, shipped
from cardiotune.data.cohort import read_cohort
from cardiotune.data.draft import Draft, draft
from cardiotune.data.split import split_cohort
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import Config
from conftest import build_toy_table


def drafted(folder: Path, frame: pl.DataFrame, target: str = "disease", **options: Any) -> tuple[Draft, Config]:
    frame.write_csv(folder / "my table.csv")
    written = draft(str(folder / "my table.csv"), target, folder / "study", **options)
    return written, load_config(written.experiment)


def entries(config: Config) -> dict[str, tuple[str, str]]:
    return {name: (column.role, column.type) for name, column in config.data.columns.items()}


def test_toy_table(tmp_path: Path) -> None:
    written, config = drafted(tmp_path, build_toy_table())
    assert entries(config) == {
        "patient_id": ("id", "text"),
        "age": ("feature", "integer"),
        "sex": ("feature", "binary"),
        "sbp": ("feature", "integer"),
        "smoker": ("feature", "binary"),
        "pain": ("feature", "categorical"),
        "disease": ("target", "binary"),
    }
    assert config.name == "my_table" and config.task.outcome == "disease"
    assert config.data.columns["pain"].codes == {"none": "none", "typical": "typical"}
    cohort = read_cohort(config.data, 0)
    assert cohort.frame.height == 240 and cohort.events.tolist() == build_toy_table()["disease"].to_list()
    assert set(split_cohort(cohort, config.data, config.split, 0)) == {"train", "validation", "test"}
    with pytest.raises(ConfigError, match="exists already"):
        draft(str(tmp_path / "my table.csv"), "disease", tmp_path / "study")
    assert written.dataset.is_file()


def test_guesses(tmp_path: Path) -> None:
    rows = 60
    frame = pl.DataFrame(
        {
            "no name": range(rows),
            "eid": [f"{1000 + row // 2}" for row in range(rows)],
            "sample_id": range(rows),
            "visit_id": range(100, 100 + rows),
            "hospital_id": [row % 3 for row in range(rows)],
            "grade": [row % 3 + 1 for row in range(rows)],
            "bmi": [20 + row / 7 for row in range(rows)],
            "seen": [f"2020-01-{row % 28 + 1:02d}" for row in range(rows)],
            "smoker": [bool(row % 2) for row in range(rows)],
            "code": ["010", "10"] * 30,
            "icd": ["1E5", "2E1", "3C"] * 20,
            "note": [f"seen on day {row}" for row in range(rows)],
            "mrn_text": [f"X{row}" for row in range(rows)],
            "rare": ["ZZCANARY42"] + ["a", "b", "c"] * 19 + ["a", "b"],
            "empty": [None] * rows,
            "died": np.arange(rows) % 2,
        },
        schema_overrides={"empty": pl.String},
    ).rename({"no name": ""})
    written, config = drafted(tmp_path, frame, "died")
    assert entries(config) == {
        "": ("ignore", "text"),
        "eid": ("group", "text"),
        "sample_id": ("id", "text"),
        "visit_id": ("ignore", "text"),
        "hospital_id": ("ignore", "text"),
        "grade": ("feature", "categorical"),
        "bmi": ("feature", "numeric"),
        "seen": ("feature", "date"),
        "smoker": ("feature", "binary"),
        "code": ("feature", "categorical"),
        "icd": ("feature", "categorical"),
        "note": ("feature", "text"),
        "mrn_text": ("ignore", "text"),
        "rare": ("feature", "categorical"),
        "empty": ("ignore", "text"),
        "died": ("target", "binary"),
    }
    assert config.data.columns["icd"].codes == {"1E5": "1E5", "2E1": "2E1", "3C": "3C"}
    assert config.data.columns["code"].codes == {"010": "010", "10": "10"}
    notes = "\n".join(written.notes)
    for said in (
        "visit_id: role ignore, another column has role id",
        "note: role feature, free text",
        "mrn_text",
        "empty",
    ):
        assert said in notes
    assert "ZZCANARY42" not in written.dataset.read_text() + notes, "a rare code could tell of a single patient"
    assert "seen on day" not in written.dataset.read_text() + notes
    assert read_cohort(config.data, 0).frame.height == rows


@pytest.mark.parametrize("words", [("no", "yes"), ("False", "True"), ("Absent", "Present"), ("n", "y"), ("0.0", "1.0")])
def test_targets_that_tell_which_is_the_event(tmp_path: Path, words: tuple[str, str]) -> None:
    frame = build_toy_table()
    written = frame.with_columns(disease=pl.Series([words[value] for value in frame["disease"]]))
    _, config = drafted(tmp_path, written)
    assert read_cohort(config.data, 0).events.tolist() == frame["disease"].to_list()


def test_target_needs_positive(tmp_path: Path) -> None:
    frame = build_toy_table().with_columns(disease=pl.col("disease") + 1)
    with pytest.raises(DataError, match=r"2 different values, expected 0 and 1; say which .* --positive"):
        drafted(tmp_path, frame)
    assert not (tmp_path / "study").exists()
    _, config = drafted(tmp_path, frame, positive=["2"])
    assert read_cohort(config.data, 0).events.tolist() == build_toy_table()["disease"].to_list()
    with pytest.raises(DataError, match="no row of disease holds 7"):
        draft(str(tmp_path / "my table.csv"), "disease", tmp_path / "other", positive=["7"])


@pytest.mark.parametrize(
    ("values", "said"),
    [([1] * 240, "1 different values"), ([None] * 240, "0 different values"), ([0, 1, 2] * 80, "3 different values")],
)
def test_target_without_two_outcomes(tmp_path: Path, values: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        drafted(tmp_path, build_toy_table().with_columns(disease=pl.Series(values, dtype=pl.Int64)))
    assert not (tmp_path / "study").exists()


def test_missing_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column diseas; did you mean disease\?"):
        drafted(tmp_path, build_toy_table(), "diseas")
    with pytest.raises(DataError, match="no column y; found: patient_id, age, sex"):
        drafted(tmp_path, build_toy_table(), "y")


def test_embedded_table(tmp_path: Path) -> None:
    written = draft("builtin:statlog_heart", "heart_disease", tmp_path)
    config = load_config(written.experiment)
    assert "its published dictionary is used" in written.notes[0]
    assert config.data.columns == load_config("statlog_heart").data.columns
    assert read_cohort(config.data, 0).frame.height == 270


def test_cardio_file_as_it_is(tmp_path: Path, shared_data: Path) -> None:
    written = draft(str(shared_data / "cardio_train.csv"), "cardio", tmp_path)
    config = load_config(written.experiment, ["data.max_rows=2000"])
    assert config.task.outcome == "cardiovascular disease"
    cohort = read_cohort(config.data, config.seed)
    assert cohort.flow[0].left == 70_000 and cohort.frame.height == 2000
    assert sum(step.excluded for step in cohort.flow) == 68_000
    assert config.data.columns["id"].role == "id" and "bp_category" in config.data.features


@pytest.mark.parametrize(
    ("hospital", "rows", "events", "empty"),
    [
        ("cleveland", 303, 139, []),
        ("hungarian", 294, 106, []),
        ("switzerland", 123, 115, ["chol"]),
        ("va", 200, 149, []),
    ],
)
def test_hospital_files(
    tmp_path: Path, shared_data: Path, hospital: str, rows: int, events: int, empty: list[str]
) -> None:
    names = [n for n, e in read_yaml(shipped("datasets")["uci_heart"])["data"]["columns"].items() if "derive" not in e]
    table = tmp_path / f"{hospital}.csv"
    table.write_text(",".join(names) + "\n" + (shared_data / f"processed.{hospital}.data").read_text())
    written = draft(str(table), "num", tmp_path / "study")
    config = load_config(written.experiment, ["data.duplicate_rows=keep", "data.out_of_range=missing"])
    assert [name for name, column in config.data.columns.items() if column.role == "ignore"] == empty
    cohort = read_cohort(config.data, 0)
    assert cohort.frame.height == rows and int(cohort.events.sum()) == events
    as_drafted = read_cohort(load_config(written.experiment).data, 0)
    assert sum(step.excluded for step in as_drafted.flow) == rows - as_drafted.frame.height <= 3


# --------------------------------------------------------------------------------------------------
# one outcome in many spellings

MIXED = ("yes", "Yes", "YES", " yes ", "no", "No", "NO", "no\u00a0")


def mixed(words: tuple[str, ...] = MIXED) -> pl.DataFrame:
    """The toy outcome, each row in another spelling of the first or the second half of `words`."""
    frame, half = build_toy_table(), len(words) // 2
    said = [words[row % half + (0 if happened else half)] for row, happened in enumerate(frame["disease"])]
    return frame.with_columns(disease=pl.Series(said))


@pytest.mark.parametrize(
    ("words", "positive"),
    [
        (MIXED, None),
        (MIXED, ["yes"]),
        (MIXED, ["YES"]),
        (MIXED, ["Yes", "yes"]),
        (MIXED, ["1"]),
        (MIXED, ["true"]),
        (("TRUE", "True", "true", "yes", "FALSE", "False", "false", "0"), ["True"]),
        (("1", "1.0", "1", " 1", "0", "0.0", "0", "0 "), ["1"]),
        (("1.0", "1.00", "2.0", "2"), ["1"]),
        (("Ill", "ill", "ILL", "i\u200bll", "Well", "well ", "WELL", "wEll"), ["ill"]),
        (("Present", "PRESENT", "absent", "Absent"), None),
        (("died", "Died", "DIED ", "alive", "Alive", "lost"), ["died"]),
        (("stage 1", "Stage  2", "well", "Well"), ["Stage 1", "stage 2"]),
    ],
)
def test_spellings_of_an_outcome_are_one(tmp_path: Path, words: tuple[str, ...], positive: list[str] | None) -> None:
    written, config = drafted(tmp_path, mixed(words), positive=positive)
    expected = build_toy_table()["disease"].to_list()
    assert read_cohort(config.data, 0).events.tolist() == expected
    (said,) = (note for note in written.notes if note.startswith("disease: "))
    assert f"disease: {sum(expected)} rows with the event" in said and f"{240 - sum(expected)} without" in said
    strange = mixed(words).with_columns(disease=pl.Series(["unclear", *mixed(words)["disease"][1:]]))
    strange.write_csv(tmp_path / "my table.csv")
    with pytest.raises(DataError, match="1 rows outside the codes"):
        read_cohort(config.data, 0)


def test_the_other_outcome_may_be_the_event(tmp_path: Path) -> None:
    _, config = drafted(tmp_path, mixed(), positive=["No"])
    assert read_cohort(config.data, 0).events.tolist() == [1 - event for event in build_toy_table()["disease"]]


@pytest.mark.parametrize(
    ("words", "positive", "said"),
    [
        (MIXED, ["yes", "maybe"], "holds yes and no"),
        (("ill", "well"), ["ill", "dead"], "no row of disease holds dead"),
        (("01", "1", "2", "3"), ["001"], "no row of disease holds 001"),
        (("yes", "1", "no", "maybe"), ["yes"], "the same said in 1 other ways"),
        (("ill", "Ill", "well", "well"), ["ill", "WELL"], "all rows of disease have one outcome"),
    ],
)
def test_a_value_that_never_occurs_or_is_said_otherwise_is_refused(
    tmp_path: Path, words: tuple[str, ...], positive: list[str], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        drafted(tmp_path, mixed(words), positive=positive)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "positive", "unknown"),
    [
        (("1", "1.0", "0", "-9"), ["1"], ["-9"]),
        (("1", "2", "9"), ["1"], ["9"]),
        (("1", "2", "7", "9"), ["1"], ["7", "9"]),
        (("1", "0", "88", "99"), ["1"], ["88", "99"]),
        (("Yes", "No", "Unknown"), ["Yes"], ["Unknown"]),
        (("Ja", "Nein", "keine Angabe"), ["ja"], ["keine Angabe"]),
        (("died", "alive", "lost to follow-up"), ["died"], ["lost to follow-up"]),
        (("+", "-", "Not Known"), ["+"], ["Not Known"]),
        (("6", "5", "4", "3", "2", "1", "0"), ["6", "5"], []),
        (("10", "9", "8", "7", "6"), ["10"], []),
        (("0", "1", "9"), ["1", "9"], []),
        (("1", "-1"), ["1"], []),
        (("dead", "unknown"), ["dead"], []),
    ],
)
def test_an_outcome_that_nobody_knows_is_not_no_event(
    tmp_path: Path, words: tuple[str, ...], positive: list[str], unknown: list[str]
) -> None:
    outcome = [words[row % len(words)] for row in range(240)]
    frame = build_toy_table().with_columns(disease=pl.Series(outcome))
    written, config = drafted(tmp_path, frame, positive=positive)
    assert sorted(config.data.columns["disease"].missing) == unknown
    assert any("taken as unknown, not as no event" in note for note in written.notes) == bool(unknown)
    events = read_cohort(config.data, 0).events
    assert len(events) == sum(word not in unknown for word in outcome)
    assert sum(events) == sum(word.lower().removesuffix(".0") in positive or word in positive for word in outcome)


def test_an_outcome_that_is_only_marked_where_it_happened_is_refused(tmp_path: Path) -> None:
    """CDISC's DTHFL is Y or empty; elsewhere empty means that nobody knows."""
    frame = build_toy_table().with_columns(disease=pl.Series(["Y", None] * 120))
    with pytest.raises(DataError, match="all rows of disease have one outcome; 120 have none: if that means no event"):
        drafted(tmp_path, frame, positive=["Y"])


def test_days_that_are_counted_are_said(tmp_path: Path) -> None:
    frame = build_toy_table().with_columns(
        admit_date=pl.Series(range(240)) * 5 + 43_466, dosage=pl.Series(range(240)) % 90 * 5 + 20_000
    )
    written, _ = drafted(tmp_path, frame)
    said = [note.split(":")[0] for note in written.notes if "called a date but holds numbers" in note]
    assert said == ["admit_date"]


def test_figures_that_begin_with_zero_are_said_to_be_codes(tmp_path: Path) -> None:
    frame = build_toy_table().with_columns(ward=pl.Series(["010", "020", "031", "112"] * 60))
    written, config = drafted(tmp_path, frame)
    assert config.data.columns["ward"].type == "categorical"
    assert any(note.startswith("ward: ") and "begin with 0 are taken as codes" in note for note in written.notes)


def test_a_rare_outcome_beside_the_others_is_asked_about(tmp_path: Path) -> None:
    """It could tell of a single patient, so it is not written down; nor is it taken for "no
    event"."""
    frame = mixed(("ill", "Ill", "well", "Well"))
    frame = frame.with_columns(disease=pl.Series(["ZZCANARY42", *frame["disease"][1:]]))
    written, config = drafted(tmp_path, frame, positive=["ill"])
    assert "ZZCANARY42" not in written.dataset.read_text() and "<10 rows hold rare values" in "\n".join(written.notes)
    with pytest.raises(DataError, match="1 rows outside the codes"):
        read_cohort(config.data, 0)


def test_categories_that_differ_in_case_are_one(tmp_path: Path) -> None:
    sexes, smoking = ("M", "m", "F", "f", "F "), ("Never", "never", "NEVER", "current", "Current", "former")
    frame = build_toy_table().with_columns(
        gender=pl.Series([sexes[row % 5] for row in range(240)]),
        smoking=pl.Series([smoking[row % 6] for row in range(240)]),
        rare=pl.Series(["Once", *(["Often", "often"] * 120)[:239]]),
    )
    written, config = drafted(tmp_path, frame)
    columns = config.data.columns
    assert columns["gender"].codes == {"F": "F", "M": "M"} and columns["rare"].codes is None
    assert columns["smoking"].codes is not None and len(columns["smoking"].codes) == 3
    assert "gender: role feature, codes that differ only in case or blanks are one" in written.notes
    read = read_cohort(config.data, 0).frame
    assert read["gender"].value_counts().sort("gender").rows() == [("F", 144), ("M", 96)]
    assert read["smoking"].n_unique() == 3 and read["rare"].unique().sort().to_list() == ["often", "once"]
