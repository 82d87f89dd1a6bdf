"""Table 1 of a study: who the patients are, overall and by outcome, without a count that could
point at one of them.

Counts of 1 to 9 are written "<10", and a second cell is "hidden" wherever sums of what is shown
would give the first away, by the rule in `cardiotune.evaluation.disclosure`. `told_beside` hands
what the table tells to the subgroups, which count some of the same patients.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.small_counts import FEW, HIDDEN, SMALL, is_small
from cardiotune.data.split import PARTS, Parts
from cardiotune.evaluation.disclosure import Counts, Told, suppress
from cardiotune.evaluation.subgroups import columns_of
from cardiotune.settings import Column, DataConfig

NONE = "-"
MOST_CATEGORIES = 20
"""Categories that the dictionary does not list are shown up to this many, the most frequent
ones."""
GROUPS = ("overall", "no_event", "event")


def table1(frame: pl.DataFrame, events: NDArray[Any], parts: Parts, data: DataConfig) -> dict[str, Any]:
    """`{"n": {overall, no_event, event}, "columns": [{name, unit, kind, overall, no_event, event,
    missing}]}`.

    frame: a cohort's rows; events (rows,) of 0 and 1; parts (rows,): rows of no part are left out.
    Every cell is a string. A number has two rows, `mean (SD)` and `median [IQR]`; a coded column
    one row, `n (%)`, for each category (name `sex: woman`); free text one for how many have it.
    Percentages are of all patients of the group, missing ones included. `missing` stands in a
    column's first row.
    """
    frame, groups, sizes = _used(frame, events, parts)
    rows = [row for name in data.features for row in _rows(frame[name], name, data.columns[name], groups, sizes)]
    return {"n": dict(zip(GROUPS, sizes.tolist(), strict=True)), "columns": rows}


def told_beside(
    frame: pl.DataFrame, events: NDArray[Any], parts: Parts, data: DataConfig, subgroups: Sequence[str] | None
) -> list[Told]:
    """What the table tells of the columns that are also judged as subgroups, and its sizes;
    arguments as in `table1`.

    subgroups: columns and pairs as in `cardiotune.evaluation.subgroups.subgroups`.
    """
    frame, groups, sizes = _used(frame, events, parts)
    ids = frame[ROW_ID].to_numpy()

    def count(column: str, group: int, rows: NDArray[np.bool_], low: float, high: float) -> Told:
        return Told(column, group > 0, frozenset(ids[rows]), low, high)

    found = [count("", group, rows, size, size) for group, (rows, size) in enumerate(zip(groups, sizes, strict=True))]
    for name in columns_of(frame, data, subgroups):
        column, values = data.columns[name], frame[name]
        title = schema.label(name, column)
        if name not in data.features:
            continue
        if not (column.is_coded or column.is_text):
            missing = values.is_null().to_numpy()
            few = is_small(missing.sum())
            found.append(count(title, 0, missing, *((1, FEW - 1) if few else (missing.sum(), missing.sum()))))
            continue
        lines = _Lines(values, column, groups, sizes)
        for mask, numbers, marks in zip(lines.masks, lines.counts, lines.marks, strict=True):
            for group, (number, mark) in enumerate(zip(numbers, marks, strict=True)):
                if group == 0 or mask is not lines.masks[-1]:  # how many lack a value is told overall only
                    low, high = {SMALL: (1, FEW - 1), HIDDEN: (FEW, sizes[group])}.get(mark or "", (number, number))
                    found.append(count(title, group, mask & groups[group], low, high))
    return found


def _used(
    frame: pl.DataFrame, events: NDArray[Any], parts: Parts
) -> tuple[pl.DataFrame, list[NDArray[np.bool_]], Counts]:
    """The rows that stand in a part; which of them are counted in each of GROUPS, and how many."""
    used = np.isin(parts, PARTS)
    happened = np.asarray(events)[used].astype(bool)
    groups = [np.ones(len(happened), bool), ~happened, happened]
    return frame.filter(pl.Series(used)), groups, np.array([group.sum() for group in groups])


def _rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], sizes: Counts
) -> list[dict[str, str]]:
    if column.is_coded or column.is_text:
        return _category_rows(values, name, column, groups, sizes)
    return _number_rows(values, name, column, groups, int(sizes[0]))


def _named(name: str, column: Column) -> str:
    """The column's name in words; a phrase that is a whole sentence is not a name."""
    return name.replace("_", " ") if "{value}" in (column.phrase or "") else schema.label(name, column)


def _row(name: str, unit: str, kind: str, cells: Sequence[str], missing: str) -> dict[str, str]:
    return {"name": name, "unit": unit, "kind": kind, **dict(zip(GROUPS, cells, strict=True)), "missing": missing}


# --------------------------------------------------------------------------------------------------
# numbers


def _number_rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], n: int
) -> list[dict[str, str]]:
    missing = values.null_count()
    shown = _count(missing, n, SMALL if is_small(missing) else None)
    if column.is_day:  # a day could point at a patient, a year hardly does
        years = values.dt.year().cast(pl.Float64)
        cells = _over_groups(years, groups, _median, decimals=0)
        return [_row(_named(name, column), "year", "median [IQR]", cells, shown)]
    spread = values.std()
    decimals = 1 if not isinstance(spread, float) or spread >= 1 or spread == 0 else 1 - math.floor(math.log10(spread))
    label, unit = _named(name, column), column.unit or ""
    means = _over_groups(values, groups, _mean, decimals)
    medians = _over_groups(values, groups, _median, decimals)
    return [_row(label, unit, "mean (SD)", means, shown), _row(label, unit, "median [IQR]", medians, "")]


def _over_groups(values: pl.Series, groups: list[NDArray[np.bool_]], write: Any, decimals: int) -> list[str]:
    """A summary of fewer than ten patients is nearly their values. Two of the three give the third,
    so both go."""
    recorded = [values.filter(pl.Series(group)).drop_nulls() for group in groups]
    small = [is_small(len(known)) for known in recorded]
    cells = [
        SMALL if few else NONE if known.is_empty() else write(known, decimals)
        for known, few in zip(recorded, small, strict=True)
    ]
    if small[1] != small[2] and not small[0]:
        other = 2 if small[1] else 1
        cells[other] = HIDDEN if len(recorded[other]) else NONE
    return cells


def _mean(known: pl.Series, decimals: int) -> str:
    mean, spread = np.mean(known.to_numpy()), np.std(known.to_numpy(), ddof=1)
    return f"{mean:.{decimals}f} ({spread:.{decimals}f})"


def _median(known: pl.Series, decimals: int) -> str:
    low, middle, high = (known.quantile(share, "linear") for share in (0.25, 0.5, 0.75))
    return f"{middle:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


# --------------------------------------------------------------------------------------------------
# categories


class _Lines:
    """The categories of a column, and last those whose value is missing: who they are, how many,
    and what hides them."""

    def __init__(self, values: pl.Series, column: Column, groups: list[NDArray[np.bool_]], sizes: Counts) -> None:
        categories = _categories(values, column)
        self.names = list(categories)
        self.masks = [values.is_in(codes).fill_null(False).to_numpy() for codes in categories.values()]
        self.masks.append(values.is_null().to_numpy())
        self.counts = np.array([[(mask & group).sum() for group in groups] for mask in self.masks])
        self.marks = suppress(self.counts, sizes)


def _category_rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], sizes: Counts
) -> list[dict[str, str]]:
    lines = _Lines(values, column, groups, sizes)
    cells = [
        [_count(count, size, mark) for count, size, mark in zip(counts, sizes, marks, strict=True)]
        for counts, marks in zip(lines.counts, lines.marks, strict=True)
    ]
    missing, label, unit = cells.pop()[0], _named(name, column), column.unit or ""
    return [
        _row(f"{label}: {words}", unit, "n (%)", line, "" if number else missing)
        for number, (words, line) in enumerate(zip(lines.names, cells, strict=True))
    ]


def _categories(values: pl.Series, column: Column) -> dict[str, list[str]]:
    """Words -> the values that they stand for. A value that no dictionary lists is named only if
    ten patients have it."""
    if column.is_text:
        return {"recorded": values.drop_nulls().unique().to_list()}
    if codes := schema.codes_of(column):
        return {words: [code for code, same in codes.items() if same == words] for words in codes.values()}
    found = values.drop_nulls().value_counts(sort=True).filter(pl.col("count") >= FEW)[values.name].to_list()
    named = sorted(found[:MOST_CATEGORIES])
    rest = sorted(set(values.drop_nulls()) - set(named))
    return {value: [value] for value in named} | ({f"other ({len(rest)} values)": rest} if rest else {})


def _count(count: int, size: int, mark: str | None) -> str:
    if mark:
        return mark
    return f"{count} ({100 * count / size:.1f} %)" if size else NONE


__all__ = ["FEW", "GROUPS", "HIDDEN", "SMALL", "table1", "told_beside"]
