"""Equal rows: patients who are alike stay, copies are said."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.audit.audit import audit_table
from cardiotune.audit.table import Table
from cardiotune.data.cohort import Cohort, read_cohort
from cardiotune.data.copies import EqualRows, column_keys, equal_rows
from cardiotune.data.counts import Repeats, Step
from cardiotune.data.prepare import Prepared
from cardiotune.data.split import split_cohort
from cardiotune.settings import DataConfig
from conftest import TOY_COLUMNS, build_toy_table, toy_config


def symptoms(rows: int, columns: int = 5, seed: int = 0, share: float = 0.35) -> pl.DataFrame:
    """Yes/no columns that hang together, and an outcome that depends on them: full of equal rows by
    chance."""
    draw = np.random.default_rng(seed)
    ill = draw.normal(size=rows)
    found = {f"s{place}": (draw.normal(size=rows) + ill > 0.6).astype(int) for place in range(columns)}
    return pl.DataFrame({**found, "y": (draw.random(rows) < share / 2 + share * (ill > 0)).astype(int)})


def laboratory(rows: int, seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    values = {f"v{place}": draw.normal(100, 15, rows).round(1) for place in range(4)}
    return pl.DataFrame({**values, "y": draw.integers(0, 2, rows)})


def data_of(frame: pl.DataFrame, path: Path | str = "t.csv", **settings: Any) -> DataConfig:
    kinds = {name: {"type": "binary" if name.startswith("s") else "numeric"} for name in frame.columns if name != "y"}
    return DataConfig.model_validate({"path": str(path), "columns": {**kinds, "y": {"role": "target"}}, **settings})


def judged(frame: pl.DataFrame, groups: pl.Series | None = None) -> EqualRows:
    data = data_of(frame)
    return equal_rows(column_keys(frame, data.features, data), frame["y"].to_numpy(), groups)


def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.parametrize("seed", range(20))
def test_alike_by_chance(seed: int) -> None:
    for rows, columns in ((60, 2), (520, 5), (2000, 8), (5000, 3)):
        frame = symptoms(rows, columns, seed)
        for order in (frame, frame.sort(frame.columns), frame.sort("y")):
            equal = judged(order)
            assert equal.rows > rows / 10 and not equal.copied, (rows, columns, equal)
    assert judged(laboratory(500, seed)) == EqualRows(0, 0, 0.0, 0, 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "made",
    [
        lambda frame: pl.concat([frame, frame]),
        lambda frame: pl.concat([frame, frame, frame]),
        lambda frame: shuffled(pl.concat([frame, frame])),
        lambda frame: shuffled(pl.concat([frame] * 3)),
        lambda frame: pl.concat([frame[:450], frame[300:]]),
        lambda frame: pl.concat([frame, frame[100:130]]),
    ],
    ids=["twice", "three times", "twice, shuffled", "three times, shuffled", "overlapping exports", "a page again"],
)
def test_copies_are_told_from_patients_who_are_alike(made: Any, seed: int) -> None:
    for frame in (symptoms(520, 5, seed), symptoms(520, 9, seed), laboratory(520, seed)):
        assert judged(made(frame)).copied


def test_visits_of_one_patient_are_no_copies() -> None:
    frame, patients = laboratory(200), pl.Series([f"P{row}" for row in range(200)])
    visits, groups = pl.concat([frame, frame[:80]]), pl.concat([patients, patients[:80]])
    assert judged(shuffled(visits)).copied
    again = pl.Series(range(280)).sample(fraction=1, shuffle=True, seed=1)
    assert not judged(visits[again], groups[again]).copied


def cohort_of(folder: Path, frame: pl.DataFrame, **settings: Any) -> Cohort:
    frame.write_csv(folder / "t.csv")
    return read_cohort(data_of(frame, folder / "t.csv", **settings), 0)


def test_equal_rows_stay_and_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = symptoms(520)
    with caplog.at_level(logging.INFO, "cardiotune"):
        cohort = cohort_of(tmp_path, frame)
    assert cohort.flow == [Step("rows in the table", 0, 520)]
    assert cohort.events.mean() == pytest.approx(frame["y"].mean())
    assert cohort.notes.equal_rows == Repeats(520 - frame.n_unique(), beyond_chance=False)
    assert "in every feature and the outcome, as chance explains; they stay" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_table_that_was_appended_to_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.concat([symptoms(520)] * 2)
    with caplog.at_level(logging.WARNING, "cardiotune"):
        cohort = cohort_of(tmp_path, frame)
    assert cohort.frame.height == 1040 and cohort.notes.equal_rows.beyond_chance
    assert "more than chance explains" in caplog.text and "data.duplicate_rows=exclude" in caplog.text
    data, config = data_of(frame), toy_config(tmp_path)
    parts = split_cohort(cohort, data, config.split, 0)
    texts = ["-".join(map(str, row)) for row in cohort.frame.select(data.features).rows()]
    found = {f.check: f for f in audit_table(Table(Prepared(cohort, parts, data.features, texts), data, 0))}
    assert found["equal_rows"].severity == "leak" and "rows were copied" in found["equal_rows"].text
    once = cohort_of(tmp_path, symptoms(520))
    parts = split_cohort(once, data, config.split, 0)
    found = {f.check: f for f in audit_table(Table(Prepared(once, parts, data.features, texts[:520]), data, 0))}
    assert found["equal_rows"].severity == "note" and "as many as chance explains" in found["equal_rows"].text


def test_a_repeated_id_is_a_copy_and_left_out(tmp_path: Path) -> None:
    frame = build_toy_table()
    pl.concat([frame, frame[:12]]).write_csv(tmp_path / "t.csv")
    cohort = read_cohort(DataConfig.model_validate({"path": str(tmp_path / "t.csv"), "columns": TOY_COLUMNS}), 0)
    assert cohort.flow[1:] == [Step("duplicate of an earlier row", 12, 240)]
