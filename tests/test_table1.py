import json
import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from cardiotune.data.cohort import EVENT, Cohort
from cardiotune.data.prepare import Prepared
from cardiotune.data.split import PARTS
from cardiotune.evaluation.table1 import HIDDEN, SMALL, table1
from cardiotune.settings import DataConfig
from conftest import TOY_COLUMNS, build_toy_table

SHOWN = re.compile(r"^(\d+) \((\d+\.\d) %\)$")


def toy() -> tuple[pl.DataFrame, np.ndarray, np.ndarray, DataConfig]:
    data = DataConfig.model_validate({"path": "table.csv", "columns": TOY_COLUMNS})
    table = build_toy_table()
    numbers = pl.col("age", "sbp").cast(pl.Float64)
    frame = table.with_columns(numbers, pl.col("sex", "smoker").cast(pl.String))
    parts = np.array([PARTS[row % 3] for row in range(240)])
    return frame, table["disease"].to_numpy(), parts, data


def described(frame: pl.DataFrame, events: np.ndarray, parts: np.ndarray, data: DataConfig) -> dict[str, Any]:
    cohort = Cohort(frame.with_columns(pl.Series(EVENT, events)), [])
    return table1(Prepared(cohort, parts, [], []), data).as_json()


def one_column(values: list[Any], column: dict[str, Any], events: list[int]) -> list[dict[str, str]]:
    columns = {"finding": column, "outcome": {"role": "target"}}
    data = DataConfig.model_validate({"path": "table.csv", "columns": columns})
    kind = pl.Float64 if column["type"] == "numeric" else None if column["type"] == "date" else pl.String
    frame = pl.DataFrame({"finding": pl.Series(values, dtype=kind)})
    parts = np.full(len(values), "train", dtype="<U10")
    found: list[dict[str, str]] = described(frame, np.array(events), parts, data)["columns"]
    return found


def test_the_toy_table_cell_by_cell() -> None:
    frame, events, parts, data = toy()
    found = described(frame, events, parts, data)
    assert found["n"] == {"overall": 240, "no_event": int((events == 0).sum()), "event": int(events.sum())}
    rows = {(row["name"], row["kind"]): row for row in found["columns"]}
    age, sick = frame["age"].to_numpy(), frame["age"].to_numpy()[events == 1]
    assert rows["age", "mean (SD)"]["event"] == f"{sick.mean():.1f} ({sick.std(ddof=1):.1f})"
    low, middle, high = np.quantile(age, [0.25, 0.5, 0.75])
    assert rows["age", "median [IQR]"]["overall"] == f"{middle:.1f} [{low:.1f}, {high:.1f}]"
    assert rows["age", "mean (SD)"]["unit"] == "years" and rows["age", "mean (SD)"]["missing"] == "0 (0.0 %)"
    women = (frame["sex"] == "0").to_numpy() & (events == 0)
    assert rows["sex: woman", "n (%)"]["no_event"] == f"{women.sum()} ({100 * women.sum() / (events == 0).sum():.1f} %)"
    assert ("systolic pressure", "mean (SD)") in rows, "columns are called by their phrase"
    absent = frame["pain"].null_count()
    assert rows["chest pain: typical", "n (%)"]["missing"] == f"{absent} ({100 * absent / 240:.1f} %)"
    assert all(isinstance(cell, str) for row in found["columns"] for cell in row.values())
    assert all(
        list(row) == ["name", "unit", "kind", "overall", "no_event", "event", "missing"] for row in found["columns"]
    )


def test_rows_of_no_part_are_left_out() -> None:
    frame, events, parts, data = toy()
    parts = parts.astype("<U10")
    parts[:100] = "unused"
    assert described(frame, events, parts, data) == described(frame[100:], events[100:], parts[100:], data)


def test_a_small_count_takes_with_it_what_would_give_it_away() -> None:
    values = ["1"] * 5 + ["0"] * 45 + ["1"] * 30 + ["0"] * 20
    no, yes = one_column(values, {"type": "binary"}, [1] * 50 + [0] * 50)
    assert yes["event"] == SMALL
    assert [row[group] for row in (no, yes) for group in ("no_event", "event")].count(HIDDEN) == 3
    shown = [int(SHOWN.match(cell)[1]) for row in (no, yes) for cell in row.values() if SHOWN.match(cell)]  # type: ignore[index]
    assert sorted(shown) == [0, 35, 65], "of missing and overall; how the outcomes share them does not follow"


def test_large_counts_hide_nothing() -> None:
    rows = one_column(["1", "0"] * 50, {"type": "binary"}, [0] * 50 + [1] * 50)
    assert [row["overall"] for row in rows] == ["50 (50.0 %)", "50 (50.0 %)"]


def test_few_patients_have_no_mean() -> None:
    values = [float(value) for value in range(40)]
    mean, median = one_column(values, {"type": "numeric"}, [1] * 4 + [0] * 36)
    for row in (mean, median):
        assert row["event"] == SMALL and row["no_event"] == HIDDEN, "overall minus no event would be the events"
        assert row["overall"] not in (SMALL, HIDDEN)


def test_values_that_no_dictionary_lists_are_named_only_when_common() -> None:
    rows = one_column(["north"] * 60 + ["south"] * 38 + ["Mr Rare", "Ms Seldom"], {"type": "categorical"}, [0, 1] * 50)
    assert [row["name"] for row in rows] == ["finding: north", "finding: south", "finding: other (2 values)"]
    assert rows[-1]["overall"] == SMALL and "Rare" not in json.dumps(rows)


def test_dates_are_years_and_text_is_only_counted() -> None:
    days: list[Any] = [date(2015, 1, 1) + timedelta(days=40 * row) for row in range(100)]
    (row,) = one_column(days, {"type": "date"}, [0, 1] * 50)
    assert re.fullmatch(r"\d{4} \[\d{4}, \d{4}\]", row["overall"]) and row["unit"] == "year"
    (row,) = one_column(["secret words"] * 80 + [None] * 20, {"type": "text"}, [0, 1] * 50)
    assert row["overall"] == "80 (80.0 %)" and row["missing"] == "20 (20.0 %)" and "secret" not in json.dumps(row)


def test_every_shown_count_is_right() -> None:
    frame, events, parts, data = toy()
    for row in described(frame, events, parts, data)["columns"]:
        shown = SHOWN.match(row["overall"])
        if shown and all(SHOWN.match(row[group]) for group in ("no_event", "event")):
            both = [int(SHOWN.match(row[group])[1]) for group in ("no_event", "event")]  # type: ignore[index]
            assert sum(both) == int(shown[1])
