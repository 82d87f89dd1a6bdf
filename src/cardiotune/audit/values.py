"""Values that are not what they seem, missing ones, and rows that are their patient's alone."""

import re
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from cardiotune.audit.findings import Checks, Finding
from cardiotune.audit.table import FEW, Events, Table
from cardiotune.data import schema
from cardiotune.data.schema import out_of_range
from cardiotune.data.sentinels import in_words, sentinels
from cardiotune.data.small_counts import told
from cardiotune.settings import Column, DataConfig

CHECKS = Checks[Table]()


@CHECKS.add
def _zeros(table: Table) -> list[Finding]:
    return zeros(table.numbers, table.events)


def zeros(values: pl.DataFrame, events: Events) -> list[Finding]:
    """Numbers where an exact zero stands apart from all others: most likely a missing value.

    Apart: the lowest hundredth of the others is positive, away from zero by 1.5 times their
    interquartile range and by ten of their smallest steps. A count, a dose or a score begins at
    zero and is not apart.
    """
    found = []
    for name in values.columns:
        known = values[name].is_not_null().to_numpy()
        number = values[name].to_numpy()
        zero = known & (number == 0)
        others = np.unique(number[known & ~zero], return_counts=True)
        if zero.sum() <= 0.03 * known.sum() or len(others[0]) < 10:
            continue
        low, first, third = np.quantile(number[known & ~zero], (0.01, 0.25, 0.75))
        if low < max(1.5 * (third - first), 10 * np.diff(others[0]).min()):
            continue
        numbers = {"rows": int(zero.sum()), "events": int(events[zero].sum())}
        text = (
            f"column {name} is exactly 0 in {numbers['rows']} rows, far from all other values; is it a missing value?"
        )
        found.append(Finding("zero_as_missing", "warning", text, {"column": name, **numbers}))
    return found


def as_numbers(cells: pl.DataFrame, names: Sequence[str], data: DataConfig) -> pl.DataFrame:
    """Columns of text cells as numbers, each as the dictionary reads it; codes that are none are
    null."""
    writings = schema.writings(cells.select(names), data.columns)
    parsed = [schema.parse(cells[name], data.columns[name], writings[name])[0] for name in names]
    return pl.DataFrame([column.cast(pl.Float64, strict=False) for column in parsed])


def repeated_far_values(values: pl.DataFrame, data: DataConfig) -> list[Finding]:
    """Numbers in the plausible range, or without one, in which a repeated value stands far from all
    others."""
    found = []
    for name in values.columns:
        column = data.columns[name]
        if column.is_number and (apart := sentinels(values[name].filter(~out_of_range(values[name], column)))):
            text = f"column {name} holds {in_words(apart)}"
            numbers = {"column": name, "rows": told(sum(rows for _, rows in apart))}
            found.append(Finding("value_as_missing", "warning", text, numbers))
    return found


@CHECKS.add
def missing_by(table: Table) -> list[Finding]:
    """Columns missing far more often in one part, site or outcome than in another (by a fifth of
    the rows, p < 1e-6)."""
    groupings = {"part": pl.Series(table.parts), "outcome": pl.Series(table.events).cast(pl.String)}
    if site := table.data.name_of("site"):
        groupings["site"] = table.frame[site].cast(pl.String).fill_null("")
    found = []
    for name in table.data.features:
        for by, groups in groupings.items():
            counted = (
                pl.DataFrame({"by": groups, "gone": table.frame[name].is_null()})
                .group_by("by")
                .agg(pl.len().alias("rows"), pl.col("gone").sum())
                .filter(pl.col("rows") >= FEW)
            )
            gone, rows = counted["gone"].to_numpy().astype(float), counted["rows"].to_numpy().astype(float)
            if len(rows) < 2 or not 0 < gone.sum() < rows.sum() or np.ptp(gone / rows) < 0.2:
                continue
            if stats.chi2_contingency(np.array([gone, rows - gone])).pvalue < 1e-6:
                low, high = float((gone / rows).min()), float((gone / rows).max())
                text = (
                    f"{name} is missing in {low:.0%} to {high:.0%} of the rows, depending on the {by}: it stands for it"
                )
                found.append(
                    Finding("missing_by_group", "note", text, {"column": name, "lowest": low, "highest": high})
                )
    return found


@CHECKS.add
def unique_rows(table: Table) -> list[Finding]:
    """Rows that no other row equals (k = 1): who knows a patient's findings can find the row."""
    counts = np.unique(table.keys, return_counts=True)[1]
    alone, rows = int((counts == 1).sum()), int(counts.sum())
    text = f"{alone} of {rows} rows ({alone / rows:.0%}) are unique in their features, so pseudonyms do not hide them"
    return [Finding("unique_rows", "note", text, {"rows": alone, "share": alone / rows})]


def excludes_zero(column: Column) -> bool:
    """Whether a zero is out of the column's range, and not yet named as missing."""
    named = any(re.fullmatch(r"0(\.0+)?", code.strip()) for code in column.missing)
    return not named and column.range is not None and not column.range[0] <= 0 <= column.range[1]
