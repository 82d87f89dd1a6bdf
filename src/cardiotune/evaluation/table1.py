"""Table 1 of a study: who the patients are, overall and by outcome, without a count that could
point at one of them.

Counts of 1 to 9 are written "<10", and a second cell is "hidden" wherever sums of what is shown
would give the first away, by the rule in `cardiotune.evaluation.disclosure`. `told_beside` hands
what the table tells to the subgroups, which count some of the same patients.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.prepare import Prepared
from cardiotune.data.small_counts import FEW, HIDDEN, SMALL, is_small
from cardiotune.data.split import PARTS
from cardiotune.evaluation.disclosure import Counts, Told, suppress
from cardiotune.evaluation.subgroups import columns_of
from cardiotune.settings import Column, DataConfig

NONE = "-"
MOST_CATEGORIES = 20
"""Categories that the dictionary does not list are shown up to this many, the most frequent
ones."""
GROUPS = ("overall", "no_event", "event")
Cells = tuple[str, str, str]
"""One for each of GROUPS."""


@dataclass(frozen=True, slots=True)
class Table1Row:
    """One row of Table 1; every cell is written."""

    name: str
    unit: str
    kind: str
    """What the cells say: `mean (SD)`, `median [IQR]` or `n (%)`."""
    overall: str
    no_event: str
    event: str
    missing: str
    """How many lack a value; in a column's first row alone."""


@dataclass(frozen=True, slots=True)
class Table1:
    """Who the patients are."""

    n: Mapping[str, int] = field(default_factory=dict)
    """How many each of GROUPS has."""
    columns: list[Table1Row] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The content of `table1.json`; empty where there is none."""
        return cls(content.get("n", {}), [Table1Row(**row) for row in content.get("columns", [])])

    def as_json(self) -> dict[str, Any]:
        """The content of `table1.json`."""
        return {"n": dict(self.n), "columns": [asdict(row) for row in self.columns]}


def table1(prepared: Prepared, data: DataConfig) -> Table1:
    """The table of a cohort's rows that stand in a part.

    A number has two rows, `mean (SD)` and `median [IQR]`; a coded column
    one row, `n (%)`, for each category (name `sex: woman`); free text one for how many have it.
    Percentages are of all patients of the group, missing ones included. `missing` stands in a
    column's first row.
    """
    used = _used(prepared)
    rows = [row for name in data.features for row in _rows(used.frame[name], data.columns[name], used)]
    return Table1(dict(zip(GROUPS, used.sizes.tolist(), strict=True)), rows)


def told_beside(prepared: Prepared, data: DataConfig, subgroups: Sequence[str] | None) -> list[Told]:
    """What the table tells of the columns that are also judged as subgroups, and its sizes.

    subgroups: columns and pairs as in `cardiotune.evaluation.subgroups.subgroups`.
    """
    used = _used(prepared)
    frame, groups, sizes = used
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
        lines = _Lines(values, column, used)
        for mask, numbers, marks in zip(lines.masks, lines.counts, lines.marks, strict=True):
            for group, (number, mark) in enumerate(zip(numbers, marks, strict=True)):
                if group == 0 or mask is not lines.masks[-1]:  # how many lack a value is told overall only
                    low, high = {SMALL: (1, FEW - 1), HIDDEN: (FEW, sizes[group])}.get(mark or "", (number, number))
                    found.append(count(title, group, mask & groups[group], low, high))
    return found


class _Used(NamedTuple):
    """The rows that stand in a part; which of them are counted in each of GROUPS, and how many."""

    frame: pl.DataFrame
    groups: list[NDArray[np.bool_]]
    sizes: Counts


def _used(prepared: Prepared) -> _Used:
    used = np.isin(prepared.parts, PARTS)
    happened = np.asarray(prepared.cohort.events)[used].astype(bool)
    groups = [np.ones(len(happened), bool), ~happened, happened]
    return _Used(prepared.cohort.frame.filter(pl.Series(used)), groups, np.array([group.sum() for group in groups]))


def _rows(values: pl.Series, column: Column, used: _Used) -> list[Table1Row]:
    """Of the column that `values` are named after."""
    return (_category_rows if column.is_coded or column.is_text else _number_rows)(values, column, used)


def _named(name: str, column: Column) -> str:
    """The column's name in words; a phrase that is a whole sentence is not a name."""
    return name.replace("_", " ") if "{value}" in (column.phrase or "") else schema.label(name, column)


# --------------------------------------------------------------------------------------------------
# numbers


def _number_rows(values: pl.Series, column: Column, used: _Used) -> list[Table1Row]:
    missing, groups = values.null_count(), used.groups
    shown = _count(missing, int(used.sizes[0]), SMALL if is_small(missing) else None)
    label, unit = _named(values.name, column), column.unit or ""
    if column.is_day:  # a day could point at a patient, a year hardly does
        years = values.dt.year().cast(pl.Float64)
        return [Table1Row(label, "year", "median [IQR]", *_over_groups(years, groups, _median, decimals=0), shown)]
    spread = values.std()
    decimals = 1 if not isinstance(spread, float) or spread >= 1 or spread == 0 else 1 - math.floor(math.log10(spread))
    means = _over_groups(values, groups, _mean, decimals)
    medians = _over_groups(values, groups, _median, decimals)
    return [Table1Row(label, unit, "mean (SD)", *means, shown), Table1Row(label, unit, "median [IQR]", *medians, "")]


def _over_groups(
    values: pl.Series, groups: list[NDArray[np.bool_]], write: Callable[[pl.Series, int], str], decimals: int
) -> Cells:
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
    overall, no_event, event = cells
    return overall, no_event, event


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

    def __init__(self, values: pl.Series, column: Column, used: _Used) -> None:
        categories = _categories(values, column)
        self.names = list(categories)
        self.masks = [values.is_in(codes).fill_null(False).to_numpy() for codes in categories.values()]
        self.masks.append(values.is_null().to_numpy())
        self.counts = np.array([[(mask & group).sum() for group in used.groups] for mask in self.masks])
        self.marks = suppress(self.counts, used.sizes)


def _category_rows(values: pl.Series, column: Column, used: _Used) -> list[Table1Row]:
    lines = _Lines(values, column, used)
    cells: list[Cells] = []
    for counts, marks in zip(lines.counts, lines.marks, strict=True):
        overall, no_event, event = map(_count, counts, used.sizes, marks)
        cells.append((overall, no_event, event))
    missing, label, unit = cells.pop()[0], _named(values.name, column), column.unit or ""
    return [
        Table1Row(f"{label}: {words}", unit, "n (%)", *line, "" if number else missing)
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


__all__ = ["FEW", "GROUPS", "HIDDEN", "SMALL", "Table1", "Table1Row", "table1", "told_beside"]
