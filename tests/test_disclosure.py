"""What a reader can work out from Table 1, the subgroups and the totals together: no small
count."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from cardiotune.data.cohort import EVENT, ROW_ID, Cohort
from cardiotune.data.prepare import Prepared
from cardiotune.data.small_counts import FEW, HIDDEN, SMALL
from cardiotune.evaluation.disclosure import Known, follows, suppress, withhold
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.subgroups import subgroups
from cardiotune.evaluation.table1 import table1, told_beside
from cardiotune.models.predictions import prediction_rows
from cardiotune.settings import DataConfig

# --------------------------------------------------------------------------------------------------
# sums


def test_one_number_or_several() -> None:
    a, b, c = np.eye(3)
    assert follows(a, [Known(a + b, 20, 20), Known(b, 17, 17)])
    assert not follows(a, [Known(a + b, 20, 20), Known(b, 16, 17)])
    assert follows(
        a, [Known(a + b + c, 20, 20), Known(b, 10, 20), Known(c, 9, 9), Known(a, 1, 9), Known(b + c, 19, 19)]
    )
    assert follows(a, [Known(2 * a + b, 5, 5), Known(b, 1, 2)]), "2 is the only whole number"


def possible_values(counts: np.ndarray, marks: list[list[str | None]]) -> list[set[int]]:
    """By trying every table that has the same margins and marks: the values that each small cell
    may have."""
    lines, sizes = len(counts), counts.sum(axis=0)

    def fits(value: int, mark: str | None, shown: int) -> bool:
        return 0 < value < 10 if mark == SMALL else value >= 10 if mark == HIDDEN else value == shown

    def columns(place: int) -> list[tuple[int, ...]]:
        heads = itertools.product(range(sizes[place] + 1), repeat=lines - 1)
        full = [(*head, sizes[place] - sum(head)) for head in heads if sum(head) <= sizes[place]]
        return [
            c
            for c in full
            if all(fits(c[i], marks[i][place], counts[i, place]) for i in range(lines - 1))  # last line: never shown
        ]

    tables = [
        np.column_stack([np.add(a, b), a, b])
        for a in columns(1)
        for b in columns(2)
        if all(fits(x + y, marks[i][0], counts[i, 0]) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    ]
    assert tables
    small = np.argwhere((counts > 0) & (counts < 10))
    return [{int(table[tuple(cell)]) for table in tables} for cell in small]


@pytest.mark.parametrize("seed", range(12))
def test_no_small_count_of_a_column_can_be_worked_out(seed: int) -> None:
    """The slow way: enumerate all tables that a reader could think of."""
    draw = np.random.default_rng(seed)
    groups = np.column_stack([[*draw.integers(0, 26, 2), draw.choice([0, 3, 12])] for _ in range(2)])
    counts = np.column_stack([groups.sum(axis=1), groups])
    marks = suppress(counts, counts.sum(axis=0))
    everything_hidden = all(
        mark for line, row in zip(marks[:-1], counts, strict=False) for mark, n in zip(line, row, strict=True) if n
    )
    for values in possible_values(counts, marks):
        assert len(values) > 1 or everything_hidden


def test_a_column_of_many_rare_values_is_quick() -> None:
    draw = np.random.default_rng(0)
    groups = np.vstack([draw.integers(1, 60, (20, 2)), [[300, 40]]])
    counts = np.column_stack([groups.sum(axis=1), groups])
    start = time.perf_counter()
    marks = suppress(counts, counts.sum(axis=0))
    assert time.perf_counter() - start < 5
    assert any(mark is None for line in marks for mark in line)


@pytest.mark.parametrize("seed", [67, 268, 283, 0, 1])  # the first three need more than the sums of a column
def test_nothing_small_can_be_worked_out_from_sums_of_groups(seed: int) -> None:
    """Sex, age and sex x age: what all the shown numbers and sums leave open, by linear programs
    over the hidden ones."""
    draw = np.random.default_rng(seed)
    ages = draw.choice(4, 300, p=draw.dirichlet([1.2, 1, 0.4, 0.2]))
    sexes = draw.choice(3, 300, p=draw.dirichlet([1, 1, 0.1]))
    y_true = (draw.random(300) < 0.3).astype(float)
    labels = {"sex": sexes, "age": ages, "sex x age": sexes * 10 + ages}
    cells = {(column, str(value)): values == value for column, values in labels.items() for value in np.unique(values)}
    without_size, without_events = withhold(cells, y_true)
    assert without_size <= without_events
    fine = [rows for (column, _), rows in cells.items() if column == "sex x age"]

    def bounds(withheld: set[tuple[str, str]], counted: np.ndarray, cell: tuple[str, str]) -> list[float]:
        shown = [np.ones(300, bool), *(rows for name, rows in cells.items() if name not in withheld)]
        sums = np.array([[bool((block & rows).any()) for block in fine] for rows in shown], float)
        aim = np.array([bool((block & cells[cell]).any()) for block in fine], float)
        totals = [counted[rows].sum() for rows in shown]
        return [side * linprog(side * aim, A_eq=sums, b_eq=totals).fun for side in (1, -1)]

    small = [cell for cell, rows in cells.items() if rows.sum() < FEW]
    assert set(small) <= without_size
    for cell in small:
        low, high = bounds(without_size, np.ones(300), cell)
        assert high - low > 0.5, "the size of a small group follows from what is shown"
    for cell in without_events:
        for counted in (y_true, 1 - y_true):
            if 0 < counted[cells[cell]].sum() < FEW:
                low, high = bounds(without_events, counted, cell)
                assert high - low > 0.5, "the few events of a group follow from what is shown"


# --------------------------------------------------------------------------------------------------
# Table 1 and subgroups of the same patients

SEX = {"0": "woman", "1": "man", "2": "not stated"}
BANDS = [45, 65]
AGES = ["under 45", "45 to under 65", "65 and above", "missing"]
SEXES = [*SEX.values(), "missing"]
DATA = DataConfig.model_validate(
    {
        "path": "t.csv",
        "columns": {
            "sex": {"type": "categorical", "codes": SEX},
            "age": {"type": "integer", "unit": "years", "range": [18, 110]},
            "ill": {"role": "target"},
        },
    }
)
Point = tuple[str, str, int, str]
"""Sex, age band, outcome and "test" or "rest": an unknown number of patients each."""
POINTS: list[Point] = list(itertools.product(SEXES, AGES, (0, 1), ("test", "rest")))


def patients(seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """A cohort in which some sexes, ages and missing values are rare, and some stand nearly all in
    one part."""
    draw = np.random.default_rng(seed)
    rows = int(draw.integers(120, 400))
    sex = draw.choice(["0", "1", "2", None], rows, p=draw.dirichlet([4, 4, 0.15, 0.15]))
    age = draw.integers(30, 85, rows).astype(float)
    age = np.where(draw.random(rows) < draw.choice([0, 0.02, 0.1]), np.nan, age)
    event = (draw.random(rows) < draw.choice([0.15, 0.4])).astype(int)
    chance = np.where(sex == draw.choice(["0", "1", "2"]), draw.choice([0.3, 0.97]), draw.choice([0.3, 0.6]))
    parts = np.where(draw.random(rows) < chance, "test", "train").astype("<U10")
    frame = pl.DataFrame(
        {
            ROW_ID: [f"r{row}" for row in range(rows)],
            "sex": pl.Series(sex.tolist(), dtype=pl.String),
            "age": pl.Series(age, nan_to_null=True),
            EVENT: event,
        }
    )
    return frame, parts


def publish(frame: pl.DataFrame, parts: np.ndarray, together: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Table 1 and the test part of `metrics.json`, as a run leaves them."""
    events = frame[EVENT].to_numpy()
    named = ["sex", "age", "sex x age"]
    test = parts == "test"
    ids = frame[ROW_ID].to_numpy()[test].tolist()
    risk = np.random.default_rng(0).random(len(ids))
    rows = prediction_rows("tuned", ids, ["test"] * len(ids), list(events[test]), risk, risk, 0.5)
    prepared = Prepared(Cohort(frame, []), parts, [], [])
    told = told_beside(prepared, DATA, named) if together else ()
    metrics = evaluate_predictions(rows, 5, 0, table=FromTable(subgroups(frame, DATA, named, BANDS), told=told))
    return table1(prepared, DATA).as_json(), metrics["parts"]["test"]


def truth(frame: pl.DataFrame, parts: np.ndarray) -> np.ndarray:
    """(points,) how many patients there really are."""
    sex = frame["sex"].replace_strict(SEX, default=None).fill_null("missing").to_list()
    age = ["missing" if a is None else AGES[int(np.searchsorted(BANDS, a, "right"))] for a in frame["age"]]
    where = ["test" if part == "test" else "rest" for part in parts]
    rows = list(zip(sex, age, frame[EVENT].to_list(), where, strict=True))
    return np.array([rows.count(point) for point in POINTS])


def points(keep: Callable[..., bool]) -> np.ndarray:
    return np.array([keep(*point) for point in POINTS], float)


class Reader:
    """Knows what is published and no more, and finds the lowest and highest number that it
    allows."""

    def __init__(self, table: dict[str, Any], test: dict[str, Any]) -> None:
        outcomes = {"overall": (0, 1), "no_event": (0,), "event": (1,)}
        self.totals: list[tuple[np.ndarray, float, float]] = [
            self.exact(points(lambda s, a, y, p, of=of: y in of), table["n"][group]) for group, of in outcomes.items()
        ]
        in_test = points(lambda s, a, y, p: p == "test")
        self.totals += [self.exact(in_test, test["n"])]
        if test["n_events"] is not None:  # few events, or few others, are not told
            self.totals += [self.exact(in_test * points(lambda s, a, y, p: y == 1), test["n_events"])]
        self.facts = list(self.totals)
        for row in table["columns"]:
            if row["name"].startswith("sex: "):
                words = row["name"].removeprefix("sex: ")
                for group, of in outcomes.items():
                    self.learn(points(lambda s, a, y, p, w=words, of=of: s == w and y in of), row[group])
            if row["missing"]:
                place = 0 if row["name"].startswith("sex") else 1
                self.learn(points(lambda *point, place=place: point[place] == "missing"), row["missing"])
        for group in test["subgroups"]:
            labels = set(group["group"].split(", ")) if " x " in group["column"] else {group["group"]}
            members = points(lambda s, a, y, p, g=group, labels=labels: p == "test" and self.belongs(s, a, g, labels))
            if group["n"] is not None:
                self.facts.append(self.exact(members, group["n"]))
            if group["n_events"] is not None:
                self.facts.append(self.exact(members * points(lambda s, a, y, p: y == 1), group["n_events"]))

    @staticmethod
    def belongs(sex: str, age: str, group: dict[str, Any], labels: set[str]) -> bool:
        if " x " not in group["column"]:
            return (sex if group["column"] == "sex" else age) in labels
        missing = "missing" in (sex, age)  # a pair with a missing value is missing
        return missing if group["group"] == "missing" else not missing and {sex, age} == labels

    @staticmethod
    def exact(sums: np.ndarray, number: float) -> tuple[np.ndarray, float, float]:
        return sums, number, number

    def learn(self, sums: np.ndarray, cell: str) -> None:
        low, high = (1, FEW - 1) if cell == SMALL else (FEW, np.inf) if cell == HIDDEN else [float(cell.split()[0])] * 2
        self.facts.append((sums, low, high))

    def range_of(self, aim: np.ndarray, facts: list[tuple[np.ndarray, float, float]] | None = None) -> tuple[int, int]:
        sums, low, high = zip(*(facts or self.facts), strict=True)
        limits = LinearConstraint(np.array(sums), np.array(low), np.array(high))
        found = [
            milp(side * aim, constraints=limits, integrality=np.ones(len(aim)), bounds=Bounds(0, np.inf))
            for side in (1, -1)
        ]
        assert all(result.success for result in found), "the truth itself must fit"
        return round(found[0].fun), round(-found[1].fun)


def small_counts(really: np.ndarray) -> dict[str, np.ndarray]:
    """Every count of one to nine patients that the two tables are about, and the rest of one when
    the other is taken off."""
    aims: dict[str, np.ndarray] = {}
    for value in SEXES:
        for called, of in {"all": (0, 1), "without": (0,), "with": (1,)}.items():
            for where in ("test", "rest", "cohort"):
                aims[f"sex {value} {called} {where}"] = points(
                    lambda s, a, y, p, v=value, of=of, w=where: s == v and y in of and w in (p, "cohort")
                )
    for value in AGES:
        for called, of in {"all": (0, 1), "without": (0,), "with": (1,)}.items():
            aims[f"age {value} {called}"] = points(
                lambda s, a, y, p, v=value, of=of: a == v and y in of and p == "test"
            )
        for sex in SEXES:
            aims[f"{sex}, {value}"] = points(lambda s, a, y, p, v=value, x=sex: (s, a, p) == (x, v, "test"))
    return {name: aim for name, aim in aims.items() if 0 < aim @ really < FEW}


def given_away(frame: pl.DataFrame, parts: np.ndarray, together: bool = True) -> list[str]:
    """The small counts that a reader of both tables can work out, and could not from the totals
    alone."""
    reader = Reader(*publish(frame, parts, together))
    found = []
    for name, aim in small_counts(truth(frame, parts)).items():
        low, high = reader.range_of(aim)
        if low == high and np.diff(reader.range_of(aim, reader.totals)) > 0:
            found.append(name)
    return found


@pytest.mark.parametrize("seed", range(25))
def test_table_1_and_subgroups_together_give_nothing_away(seed: int) -> None:
    assert given_away(*patients(seed)) == []


def test_each_by_itself_they_would() -> None:
    """What the shared rule is for: the same cohorts, each table hiding what is small in itself
    alone."""
    assert sum(bool(given_away(*patients(seed), together=False)) for seed in range(25)) >= 3


def test_a_difference_of_the_two_tables_is_a_count_too() -> None:
    """100 women in the cohort, 95 of them in the test part: five would be known to be elsewhere."""
    women, men = 100, 120
    sex = ["0"] * women + ["1"] * men
    parts = np.array(["test"] * 95 + ["train"] * 5 + ["test"] * 60 + ["train"] * 60)
    frame = pl.DataFrame(
        {ROW_ID: [f"r{row}" for row in range(220)], "sex": sex, "age": [50.0] * 220, EVENT: [0, 1] * 110}
    )
    sizes = {}
    for together in (False, True):
        table, test = publish(frame, parts, together)
        assert table["columns"][0]["overall"].startswith("100 ")
        sizes[together] = {group["group"]: group["n"] for group in test["subgroups"] if group["column"] == "sex"}
    assert sizes[False] == {"woman": 95, "man": 60}
    assert sizes[True] == {"woman": None, "man": None}


def test_where_nothing_is_small_nothing_is_hidden() -> None:
    draw = np.random.default_rng(0)
    sex, parts = draw.choice(["0", "1"], 3000), np.where(draw.random(3000) < 0.3, "test", "train")
    age, event = draw.integers(30, 85, 3000).astype(float), (draw.random(3000) < 0.4).astype(int)
    frame = pl.DataFrame({ROW_ID: [f"r{row}" for row in range(3000)], "sex": sex, "age": age, EVENT: event})
    table, test = publish(frame, parts)
    assert all(group["n"] is not None and not group["suppressed"] for group in test["subgroups"])
    cells = [row[group] for row in table["columns"] for group in ("overall", "no_event", "event")]
    assert not {SMALL, HIDDEN} & set(cells)
