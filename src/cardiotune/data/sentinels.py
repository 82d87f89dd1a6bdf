"""Numbers that may be codes for "missing": -99, 999.9, 88 and 99 on a scale to 10."""

import re
from collections.abc import Iterator

import polars as pl

from cardiotune.data.small_counts import FEW, told

LEAST_ROWS = 3
"""A value of fewer rows is an outlier, not a code."""
MOST_CODES = 3
"""Codes at one end: 777, 888, 999."""
FEW_VALUES = 10
"""A column of fewer other values is a scale or a dose."""
USUAL = re.compile(r"-?(7+|8+|9+|[789]*9{2,})(\.[789]+)?|-[1-9]\d?(\.0)?")


def sentinels(values: pl.Series) -> list[tuple[float, int]]:
    """Values far from all others, each in several rows, and in how many; lowest first.

    values: Float64, nulls passed over. Far: by twice the range of the others; half of it for what
    looks like a code (nines, eights or sevens alone, small negative numbers); and any such negative
    number where all others are above zero. Among few values only what looks like a code is one, at
    1.5 times their range. Zero is none: a dose or a count begins there, and where it stands apart
    the audit says so.
    """
    counts = values.drop_nulls().value_counts().sort(values.name)
    numbers, rows = counts[values.name].to_list(), counts["count"].to_list()
    low, high, found = 0, len(numbers), set[int]()
    while new := next(_apart(numbers, rows, low, high), None):
        found |= set(new)
        low, high = (max(new) + 1, high) if min(new) == low else (low, min(new))
    return [(numbers[place], rows[place]) for place in sorted(found)]


def _apart(numbers: list[float], rows: list[int], low: int, high: int) -> Iterator[range]:
    """Places of codes at either end of numbers[low:high]."""
    for count in range(1, MOST_CODES + 1):
        for codes, others in (
            (range(low, low + count), range(low + count, high)),
            (range(high - count, high), range(low, high - count)),
        ):
            known = sum(rows[place] for place in others)
            if len(others) < 2 or known < FEW or any(rows[p] < LEAST_ROWS or numbers[p] == 0 for p in codes):
                continue
            first, last = numbers[others[0]], numbers[others[-1]]
            gap = first - numbers[codes[-1]] if codes[0] == low else numbers[codes[0]] - last
            usual = all(USUAL.fullmatch(f"{numbers[place]:g}") for place in codes)
            many = len(others) >= FEW_VALUES
            shortest = (0.5 if many else 1.5) if usual else 2.0 if many else float("inf")
            below = usual and many and numbers[codes[-1]] < 0 < first and codes[0] == low
            if gap >= shortest * (last - first) or below:
                yield codes


def in_words(found: list[tuple[float, int]]) -> str:
    """For a message. A value of few rows is not repeated: it may be a patient's; one that many
    share is nobody's."""
    each = [f"{value:g} in {rows} rows" if rows >= FEW else f"one in {told(rows)} rows" for value, rows in found]
    return f"values far from all others ({', '.join(each)}): are they codes for missing? then add them to missing"
