"""Near rows and their outcomes: the arithmetic, and no false alarm on tables without copies."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cardiotune.audit import near_copies
from cardiotune.audit.near_copies import FURTHER, NEAR, NEIGHBOURS, Agreement, agreement, places
from cardiotune.config import read_yaml, shipped
from cardiotune.data.cohort import read_cohort
from cardiotune.settings import DataConfig
from test_audit import framingham, settings
from test_audit import table as audited


def table(rows: int, columns: int, slope: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, events and keys of independent patients."""
    draw = np.random.default_rng(seed)
    where = draw.normal(size=(rows, columns))
    logit = slope * where.sum(axis=1) / np.sqrt(columns) - 0.5
    return where, (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(int), np.arange(rows).astype(np.uint64)


def anywhere(where: np.ndarray, events: np.ndarray, keys: np.ndarray) -> Agreement:
    everyone = np.arange(len(events))
    return agreement(where, events, keys, everyone, everyone, 0)


def test_counts_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    where, events, _ = table(300, 3, 1.0, 0)
    where[:40] = where[100:140] + 0.01  # copies
    events[:40] = events[100:140]
    where[40:50], events[40:50] = where[50:60], events[50:60]  # equal rows, which are not looked at
    keys = np.unique(where, axis=0, return_inverse=True)[1].ravel().astype(np.uint64)
    monkeypatch.setattr(near_copies, "NEAR", (0.25, 0.0))
    among, asked = np.arange(50, 300), np.arange(50)
    found = agreement(where, events, keys, among, asked, 0)
    near, differ, expected = 0, 0, 0.0
    for row in asked:
        others = sorted((np.linalg.norm(where[row] - where[b]), b) for b in among if keys[b] != keys[row])
        others = others[:NEIGHBOURS]
        if others[0][0] < 0.25 * others[-1][0]:
            near += 1
            differ += int(events[others[0][1]] != events[row])
            expected += float(np.mean([events[b] != events[row] for _, b in others[FURTHER]]))
    assert (found.asked, found.near, found.differ) == (50, near, differ)
    assert near >= 40 and found.expected == pytest.approx(expected)
    assert found.copies == pytest.approx(near * (1 - differ / expected))


def test_chance_of_so_few() -> None:
    tried = len(NEAR)
    assert Agreement(100, 50, 0, 10.0).p_value() == pytest.approx(tried * np.exp(-10))
    assert Agreement(100, 50, 4, 20.0).p_value(0.5) == pytest.approx(tried * np.exp(-10) * (1 + 10 + 50))
    assert Agreement(100).p_value() == 1 and Agreement(100).copies == 0


def test_places() -> None:
    columns = {"age": {"type": "integer"}, "sex": {"type": "binary"}, "flat": {}, "y": {"role": "target"}}
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    age = [*np.tile([40.0, 60.0], 50).tolist(), None]
    frame = pl.DataFrame({"age": age, "sex": ["0"] * 50 + ["1"] * 51, "flat": [7.0] * 101})
    where = places(frame, data)
    assert np.linalg.norm(where[0] - where[1]) == pytest.approx(2), "standard deviations"
    assert np.linalg.norm(where[0] - where[98]) == pytest.approx(1), "another sex"
    assert np.isfinite(where).all()


@pytest.mark.parametrize("columns", [1, 2, 8, 20])
@pytest.mark.parametrize("slope", [0.5, 5.0])
def test_independent_patients_are_no_copies(columns: int, slope: float) -> None:
    for seed in range(4):
        for rows in (150, 2000):
            where, events, keys = table(rows, columns, slope, seed)
            assert anywhere(where, events, keys).p_value(0.5) > 1e-4
            coarse = np.round(where * 2)
            keys = np.unique(coarse, axis=0, return_inverse=True)[1].ravel().astype(np.uint64)
            assert anywhere(coarse, events, keys).p_value(0.5) > 1e-4


def test_an_outcome_that_changes_little_from_place_to_place() -> None:
    """It is computed from the columns, so near rows agree without being copies; that all agree is
    seen."""
    where, _, keys = table(3000, 5, 1.0, 0)
    events = (np.linalg.norm(where, axis=1) > 2.1).astype(int)
    assert anywhere(where, events, keys).p_value(0.5) > 1e-4


def looked_at(frame: pl.DataFrame, data: DataConfig, seed: int) -> list[str]:
    return [finding.text for finding in near_copies.copies_with_changes(audited(frame, data, seed=seed))]


@pytest.mark.parametrize("seed", range(6))
def test_generated_tables_raise_nothing(seed: int) -> None:
    assert not looked_at(framingham(1500, seed), settings(), seed)


def test_the_embedded_table_raises_nothing() -> None:
    data = DataConfig.model_validate(read_yaml(shipped("datasets")["statlog_heart"])["data"])
    frame = read_cohort(data, 0).frame
    for seed in range(5):
        assert not looked_at(frame, data, seed)


def test_the_four_hospitals_raise_nothing(shared_data: Path) -> None:
    tree = read_yaml(shipped("datasets")["uci_heart"])["data"]
    names = list(tree["columns"])
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        file = shared_data / f"processed.{hospital}.data"
        columns = {
            name: {**column, "role": "ignore"} if hospital == "switzerland" and name == "chol" else column
            for name, column in tree["columns"].items()
        }
        data = DataConfig.model_validate({"path": str(file), "column_names": names, "columns": columns})
        frame = read_cohort(data, 0).frame
        for seed in range(5):
            assert not looked_at(frame, data, seed)


@pytest.mark.slow
def test_the_cardio_table_raises_nothing_at_any_size(shared_data: Path) -> None:
    tree = read_yaml(shipped("datasets")["cardio"])["data"]
    data = DataConfig.model_validate({**tree, "path": str(shared_data / "cardio_train.csv")})
    frame = read_cohort(data, 0).frame
    for seed in range(5):
        assert not looked_at(frame, data, seed)
        for rows in (300, 1000, 5000):
            some = frame.sample(rows, seed=seed)
            assert not looked_at(some, data, seed)
