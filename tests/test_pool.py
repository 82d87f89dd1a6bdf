"""Several tables in one experiment: pooled under one dictionary, each in its own words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiotune.config import compose, load_config, load_resolved
from cardiotune.data.prepare import read_prepared
from cardiotune.data.vary import Varied, wordings
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import VaryConfig
from cardiotune.settings.tables import OUTCOME, TABLE

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
MODEL = {"use": {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}}


def experiment(tables: dict[str, Any], **more: Any) -> Any:
    return compose({"name": "pooled", "tables": tables, **MODEL, **more}, [], "experiment.yaml", Path())


def hospitals(test: str = "va", **more: Any) -> Any:
    return experiment({name: {"part": "test"} if name == test else None for name in HOSPITALS}, **more)


def two(tmp_path: Path, second: dict[str, Any], rows: list[str], **table: Any) -> Any:
    """A table of age (years) and sugar (mg/dL) beside another one with its own dictionary."""
    first = tmp_path / "first.csv"
    first.write_text("age,sugar,sex,y\n" + "".join(f"{40 + i},{90 + i},{i % 2},{i // 2 % 2}\n" for i in range(60)))
    other = tmp_path / "other.csv"
    other.write_text("\n".join(rows) + "\n")
    columns = {
        "age": {"type": "integer", "unit": "years"},
        "sugar": {"unit": "mg/dL", "phrase": "fasting glucose"},
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
    ],
    ids=["two kinds", "twice", "reserved"],
)
def test_what_cannot_be_one_quantity_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        two(tmp_path, {**OTHER, **change}, ROWS)


def test_units_that_measure_something_else_are_refused(tmp_path: Path) -> None:
    config = two(tmp_path, {**OTHER, "glukose": {"unit": "mmHg", "same_as": "sugar"}}, ROWS)
    with pytest.raises(DataError, match=r"^tables.other.glukose: cannot convert mmHg to mg/dL"):
        read_prepared(config)


def test_a_table_without_events_is_named(tmp_path: Path) -> None:
    rows = [ROWS[0], *(row[:-1] + "0" for row in ROWS[1:])]
    with pytest.raises(DataError, match=r"^tables.other: "):
        read_prepared(two(tmp_path, OTHER, rows))


@pytest.mark.parametrize(
    ("tables", "more", "said"),
    [
        ({"va": None}, {}, "tables: name at least two"),
        ({"va": {"part": "test"}, "cleveland": {"part": "test"}}, {}, "leave one to train on"),
        ({"va": None, "clevland": None}, {}, "tables.clevland: clevland: no such file.*did you mean cleveland"),
        ({"va": None, "cleveland": None}, {"split": {"by": "table", "test_tables": ["vaa"]}}, "did you mean va"),
        ({"va": None, "cleveland": None}, {"split": {"by": "table"}}, "no table is held out"),
        ({"va": None, "cleveland": None}, {"split": {"by": "site"}}, "split.by: site is for one table"),
        ({"va": None, "cleveland": {"shere": 2}}, {}, "tables.cleveland.shere: unknown key"),
        ({"va": None, "cleveland": None}, {"data": {"path": "x.csv"}}, "takes the place of data"),
    ],
)
def test_bad_tables_get_a_line(tables: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(tables, **more)


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
    from cardiotune.config import dump

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
    still = {"order": False, "drop": None, "wording": False, "units": False, "numbers": False, "missing": False}
    prepared, vary = varied(**still)
    assert vary.texts([0], np.random.default_rng(1)) == prepared.texts[:1], "of the first table, nothing varies"
    for way, value in {"order": True, "drop": 0.5, "wording": True, "units": True}.items():
        _, one = varied(**{**still, way: value})
        assert len({one.texts([0], np.random.default_rng(seed))[0] for seed in range(12)}) > 3, way


def test_other_units_tell_the_same_value() -> None:
    only = {"order": False, "drop": None, "wording": False, "units": True, "numbers": False, "missing": False}
    _, vary = varied(**only)
    texts = {vary.texts([0], np.random.default_rng(seed))[0] for seed in range(30)}
    assert any("cholesterol 233 mg/dL" in text for text in texts)
    assert any("cholesterol 6.03 mmol/L" in text for text in texts)
    assert any("145 mmHg" in text for text in texts)
    assert any("19.3 kPa" in text for text in texts)


def test_aliases_of_a_dictionary_are_words_too() -> None:
    config = load_config("statlog_heart", ["data.columns.sex.aliases=[gender]", "serialize.vary=true"])
    ways = wordings(config.data.columns, [config.data.columns])
    assert ways["sex"].names == ["sex", "gender"]
    assert isinstance(config.vary, VaryConfig)
