"""Table 1 of a study: who the patients are, overall and by outcome, without a count that could point at one of them.

Counts of 1 to 9 are written "<10". A second cell is hidden wherever sums of what is shown would give the first away: the
usual primary and complementary suppression (Hundepool et al., Statistical Disclosure Control, 2012, chapter 4).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.config import CODED, Column, DataConfig
from cardiotune.data import schema
from cardiotune.data.split import PARTS, Parts

FEW = 10
"""A count below this, but not 0, is not shown."""
SMALL = f"<{FEW}"
HIDDEN = "hidden"
"""A count of ten or more that is left out, because it would give a small one away."""
NONE = "-"
MOST_CATEGORIES = 20
"""Categories that the dictionary does not list are shown up to this many, the most frequent ones."""
GROUPS = ("overall", "no_event", "event")

Counts = NDArray[np.int64]
"""(categories, 3): patients overall, without and with the event."""


def table1(frame: pl.DataFrame, events: NDArray[Any], parts: Parts, data: DataConfig) -> dict[str, Any]:
    """`{"n": {overall, no_event, event}, "columns": [{name, unit, kind, overall, no_event, event, missing}]}`.

    frame: a cohort's rows; events (rows,) of 0 and 1; parts (rows,): rows of no part are left out. Every cell is a
    string. A number has two rows, `mean (SD)` and `median [IQR]`; a coded column one row, `n (%)`, for each category
    (name `sex: woman`); free text one for how many have it. Percentages are of all patients of the group, missing ones
    included. `missing` stands in a column's first row.
    """
    used = np.isin(parts, PARTS)
    frame, happened = frame.filter(pl.Series(used)), np.asarray(events)[used].astype(bool)
    groups = [np.ones(len(happened), bool), ~happened, happened]
    sizes = np.array([group.sum() for group in groups])
    rows = [row for name in data.features for row in _rows(frame[name], name, data.columns[name], groups, sizes)]
    return {"n": dict(zip(GROUPS, sizes.tolist(), strict=True)), "columns": rows}


def _rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], sizes: Counts
) -> list[dict[str, str]]:
    if column.type in CODED or column.type == "text":
        return _category_rows(values, name, column, groups, sizes)
    return _number_rows(values, name, column, groups, int(sizes[0]))


def _named(name: str, column: Column) -> str:
    """The column's name in words; a phrase that is a whole sentence is not a name."""
    return name.replace("_", " ") if "{value}" in (column.phrase or "") else schema.label(name, column)


def _row(name: str, unit: str, kind: str, cells: Sequence[str], missing: str) -> dict[str, str]:
    return {"name": name, "unit": unit, "kind": kind, **dict(zip(GROUPS, cells, strict=True)), "missing": missing}


# ---------------------------------------------------------------------------------------------------------------------
# numbers


def _number_rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], n: int
) -> list[dict[str, str]]:
    missing = values.null_count()
    shown = _count(missing, n, SMALL if 0 < missing < FEW else None)
    if column.type == "date":  # a day could point at a patient, a year hardly does
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
    """A summary of fewer than ten patients is nearly their values. Two of the three give the third, so both go."""
    recorded = [values.filter(pl.Series(group)).drop_nulls() for group in groups]
    small = [0 < len(known) < FEW for known in recorded]
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


# ---------------------------------------------------------------------------------------------------------------------
# categories


def _category_rows(
    values: pl.Series, name: str, column: Column, groups: list[NDArray[np.bool_]], sizes: Counts
) -> list[dict[str, str]]:
    categories = _categories(values, column)
    masks = [values.is_in(codes).fill_null(False).to_numpy() for codes in categories.values()]
    masks.append(values.is_null().to_numpy())
    counts = np.array([[(mask & group).sum() for group in groups] for mask in masks])
    marks = suppress(counts, sizes)
    cells = [
        [_count(count, size, mark) for count, size, mark in zip(*line, strict=True)]
        for line in zip(counts, np.broadcast_to(sizes, counts.shape), marks, strict=True)
    ]
    missing, label, unit = cells.pop()[0], _named(name, column), column.unit or ""
    return [
        _row(f"{label}: {words}", unit, "n (%)", line, "" if number else missing)
        for number, (words, line) in enumerate(zip(categories, cells, strict=True))
    ]


def _categories(values: pl.Series, column: Column) -> dict[str, list[str]]:
    """Words -> the values that they stand for. A value that no dictionary lists is named only if ten patients have it."""
    if column.type == "text":
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


# ---------------------------------------------------------------------------------------------------------------------
# suppression


def suppress(counts: Counts, sizes: Counts) -> list[list[str | None]]:
    """What stands in the place of each count: "<10", "hidden", or None where it may be shown.

    counts: (lines, 3), the last line the missing ones, so that each column sums to `sizes` (3,), which all may know; the
    second and third columns sum to the first. In the last line only the first column is shown, and only it is protected:
    how many lack a value by outcome follows from the other lines anyway.
    """
    small = (counts > 0) & (counts < FEW)
    small[-1, 1:] = False
    hidden = small.copy()
    hidden[-1, 1:] = True
    while (exposed := _exposed(counts, sizes, small, hidden)) is not None:
        hidden[exposed] = True
    return [
        [SMALL if few else HIDDEN if hide else None for few, hide in zip(*line, strict=True)]
        for line in zip(small, hidden, strict=True)
    ]


def _exposed(
    counts: Counts, sizes: Counts, small: NDArray[np.bool_], hidden: NDArray[np.bool_]
) -> tuple[int, int] | None:
    """The next cell to hide: the smallest shown one, not 0, if possible in line with a small count that sums give away."""
    low, high = _bounds(counts, sizes, small, hidden)
    given_away = np.argwhere(small & (low == high))
    shown = [(int(line), int(column)) for line, column in np.argwhere(~hidden & (counts > 0))]
    if not len(given_away) or not shown:
        return None  # with nothing left to hide, it follows from the sizes of the groups alone
    line, column = given_away[0]
    return min(shown, key=lambda cell: (cell[0] != line and cell[1] != column, counts[cell]))


def _bounds(
    counts: Counts, sizes: Counts, small: NDArray[np.bool_], hidden: NDArray[np.bool_]
) -> tuple[Counts, Counts]:
    """Lowest and highest value that a reader can work out for every cell, by passing bounds along all sums."""
    low = np.where(hidden, np.where(small, 1, FEW), counts)
    high = np.where(hidden, np.where(small, FEW - 1, sizes), counts)
    low[-1, 1:], high[-1, 1:] = 0, high[-1, 0]  # never shown, so nothing marks them as small or not
    while True:
        before = low.copy(), high.copy()
        for column, size in enumerate(sizes):
            rest_high, rest_low = high[:, column].sum() - high[:, column], low[:, column].sum() - low[:, column]
            low[:, column] = np.maximum(low[:, column], size - rest_high)
            high[:, column] = np.minimum(high[:, column], size - rest_low)
        low[:, 0], high[:, 0] = np.maximum(low[:, 0], low[:, 1:].sum(1)), np.minimum(high[:, 0], high[:, 1:].sum(1))
        for one, other in ((1, 2), (2, 1)):
            low[:, one] = np.maximum(low[:, one], low[:, 0] - high[:, other])
            high[:, one] = np.minimum(high[:, one], high[:, 0] - low[:, other])
        if np.array_equal(low, before[0]) and np.array_equal(high, before[1]):
            return low, high
