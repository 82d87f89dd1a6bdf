"""Patients who stand in two tables: rows equal in what the tables have in common, or in all of it
but one column.

A pair tells as much as its values are rare: two rows agree in an age of 54 and a cholesterol of 253
mg/dL with a chance of p(54) p(253). It is one patient where all pairs of the tables together would
not give one of so little chance. Columns depend on each other, though, so the pairs that
*different* patients of one table make are counted too: where those are few and the pairs of the two
tables many, less evidence does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import roles, schema
from cardiotune.data.cohort import Cohort
from cardiotune.data.copies import TOLERANCE, Keys, total
from cardiotune.data.small_counts import told
from cardiotune.data.units import Line, line_between, spelled
from cardiotune.errors import DataError
from cardiotune.settings import Column, spelling

FALSE_ALARM = 1e-3
"""So many pairs of different patients are expected to be as alike as a pair that is taken for one
patient by itself."""
FALSE_SHARE = 0.05
"""Of many pairs, the share that may be different patients."""

Rows = NDArray[np.int64]
"""Row numbers in both tables, the second under the first."""


class Shared(NamedTuple):
    """A column of the first table and what it is called in the second."""

    first: str
    second: str


@dataclass(frozen=True)
class InBoth:
    """Pairs of rows that are one patient."""

    pairs: NDArray[np.int64]
    """(pairs, 2) row numbers in the first and in the second table."""
    exact: NDArray[np.bool_]
    """(pairs,) equal in every shared column; else in all but one."""
    shared: list[Shared]
    expected: float
    """Pairs as much alike that chance explains, as different patients within each table show."""

    @property
    def found(self) -> bool:
        """Whether there are more than chance explains."""
        return len(self.pairs) > TOLERANCE * self.expected + 4 * float(np.sqrt(self.expected))

    def rows(self, exact: bool) -> int:
        """Rows of the first table with an equal row in the second or, not `exact`, with none but
        one that is equal in all but one column."""
        equal = np.unique(self.pairs[self.exact, 0])
        return len(equal) if exact else len(np.setdiff1d(self.pairs[:, 0], equal))

    def text(self, first: str, second: str, patients: int) -> str:
        """What was found, in words, with the names of the tables and the rows of the first."""
        both, near = self.rows(exact=True), self.rows(exact=False)
        among = f"{len(self.shared)} columns that both have"
        return (
            f"{told(both)} of {told(patients)} patients of {first} stand in {second} too, equal in the {among}, and "
            f"{told(near)} in all of them but one"
        )


def shared_columns(first: Cohort, second: Cohort, same_as: Mapping[str, str] | None = None) -> list[Shared]:
    """Feature columns that two tables have in common, in the first one's order.

    same_as: names of the first table -> of the second, where the dictionaries say it. Without it
    columns match that are called alike, or of which the program knows that they mean the same (age,
    sex, systolic pressure ...). Numbers match numbers and codes codes; what is computed from other
    features says nothing new. Names that are not there are passed over.
    """
    meanings = [roles.learn(cohort.columns, cohort.frame).columns for cohort in (first, second)]
    likewise = {meanings[0][m]: meanings[1][m] for m in meanings[0].keys() & meanings[1].keys()}
    theirs = {spelling(name): name for name in second.columns}
    found: dict[str, str] = {}
    for name, column in first.columns.items():
        other = (same_as or {}).get(name) or theirs.get(spelling(name)) or likewise.get(name)
        if other not in second.columns or other in found.values():
            continue
        alike = column.kind.values == second.columns[other].kind.values
        alike = alike and _convertible(Shared(name, other), column, second.columns[other])
        if alike and _tells(name, first) and _tells(other, second):
            found[name] = other
    return [Shared(name, other) for name, other in found.items()]


def _tells(name: str, cohort: Cohort) -> bool:
    """Whether a column is a feature, and not computed from others that are."""
    column = cohort.columns[name]
    inputs = column.derive.inputs if column.derive else []
    return column.role == "feature" and not any(cohort.columns[source].role == "feature" for source in inputs)


def _convertible(shared: Shared, column: Column, other: Column) -> bool:
    """Whether numbers of both can be written in one unit."""
    if not column.is_number:
        return True
    try:
        line_between(shared.first, column, shared.second, other)
    except DataError:
        return False
    return True


def in_both(first: Cohort, second: Cohort, shared: Sequence[Shared]) -> InBoth:
    """The patients of two tables who are one, by the columns that they share."""
    one, other = np.split(np.arange(first.frame.height + second.frame.height), [first.frame.height])
    columns = [_shared_column(first, second, pair, place) for place, pair in enumerate(shared)]
    if not columns:
        return InBoth(np.empty((0, 2), np.int64), np.empty(0, bool), [], 0.0)
    anyone = len(one) * len(other)
    found = _alike(columns, one, other, np.log(anyone))
    within = np.concatenate(
        [_different(columns, rows, np.log(anyone), table) for table, rows in ((first, one), (second, other))]
    )
    possible = sum(len(rows) * (len(rows) - 1) / 2 for rows in (one, other))

    def expected(least: float, besides: int = 0) -> float:
        return anyone * float((within >= least).sum() + besides) / max(possible, 1)

    enough = np.log(anyone / FALSE_ALARM)
    for least in np.unique(found.evidence[found.evidence < enough]):
        if expected(least, 1) <= FALSE_SHARE * (found.evidence >= least).sum():
            enough = least
            break
    kept = found.evidence >= enough
    return InBoth(found.pairs[kept] - np.array([0, len(one)]), found.exact[kept], list(shared), expected(enough))


class _Values(NamedTuple):
    """One shared column of both tables, the second under the first."""

    keys: Keys
    """(rows,) equal where values are."""
    evidence: NDArray[np.float64]
    """(rows,) -log of the chance that another row has this value; 0 where none was recorded."""


def _shared_column(first: Cohort, second: Cohort, shared: Shared, seed: int) -> _Values:
    ours, theirs = first.columns[shared.first], second.columns[shared.second]
    values, others = first.frame[shared.first], second.frame[shared.second]
    if ours.is_number:
        values, others = _alike_written(values, others, shared, ours, theirs)
    elif ours.is_coded:
        values, others = _alike_coded(values, others, ours, theirs)
    both = pl.concat([values.rename("value"), others.rename("value")])
    recorded = both.drop_nulls()
    share = both.to_frame().select((pl.len().over("value") / max(len(recorded), 1)).alias("share")).to_series()
    evidence = np.where(both.is_null().to_numpy(), 0.0, -np.log(share.to_numpy()))
    return _Values(both.hash(seed=seed).to_numpy(), evidence)


def _alike_written(
    ours: pl.Series, theirs: pl.Series, shared: Shared, column: Column, other: Column
) -> tuple[pl.Series, pl.Series]:
    """Numbers in one unit, to the digits of the table that gives fewer."""
    digits, their_digits = _decimals(ours), _decimals(theirs)
    if column.unit and other.unit and spelled(column.unit) != spelled(other.unit):
        to_theirs = line_between(shared.first, column, shared.second, other)
        if 10.0**-digits * to_theirs.factor < 10.0**-their_digits:  # ours are the finer ones
            return _rounded(ours, to_theirs, their_digits, other.unit), _rounded(theirs, Line(1.0), their_digits)
        theirs = _rounded(theirs, line_between(shared.second, other, shared.first, column), digits, column.unit)
        return _rounded(ours, Line(1.0), digits), theirs
    digits = min(digits, their_digits)
    return _rounded(ours, Line(1.0), digits), _rounded(theirs, Line(1.0), digits)


def _decimals(values: pl.Series) -> int:
    """Decimals that the numbers of a table have, 0 to 6."""
    present = values.drop_nulls()
    return next((digits for digits in range(6) if (present.round(digits) == present).all()), 6)


def _rounded(values: pl.Series, to: Line, digits: int, unit: str = "") -> pl.Series:
    """Whole numbers of the last digit; an age in years is of completed ones, where days are
    turned into it."""
    scaled = (values.cast(pl.Float64) * to.factor + to.offset) * 10.0**digits
    completed = spelled(unit) == "year" and to.factor < 1
    return (scaled + 1e-9).floor() if completed else scaled.round()


def _alike_coded(ours: pl.Series, theirs: pl.Series, column: Column, other: Column) -> tuple[pl.Series, pl.Series]:
    """Codes by what they mean, where the dictionaries say it in the same words; else as they are
    stored."""
    meant, also = ({code: spelling(words) for code, words in schema.codes_of(c).items()} for c in (column, other))
    if meant and set(meant.values()) == set(also.values()):
        return ours.replace(meant), theirs.replace(also)
    return ours, theirs


class _Alike(NamedTuple):
    """Rows that agree in all columns, or in all but one."""

    pairs: NDArray[np.int64]
    """(pairs, 2) row numbers."""
    exact: NDArray[np.bool_]
    """(pairs,) whether they agree in all."""
    evidence: NDArray[np.float64]
    """(pairs,) of the columns in which they agree."""


def _alike(columns: Sequence[_Values], one: Rows, other: Rows, least: float) -> _Alike:
    """Pairs of a row of `one` and a row of `other` with evidence of `least` or more."""
    key = total([column.keys for column in columns])
    evidence = np.sum([column.evidence for column in columns], axis=0)
    ways = [(key, evidence), *((key - column.keys, evidence - column.evidence) for column in columns)]
    found = [_equal(keys, telling >= least, one, other) for keys, telling in ways]
    telling = np.concatenate([telling[pairs[:, 0]] for pairs, (_, telling) in zip(found, ways, strict=True)])
    pairs, place = np.unique(np.concatenate(found), axis=0, return_index=True)
    return _Alike(pairs, place < len(found[0]), telling[place])


def _equal(keys: Keys, telling: NDArray[np.bool_], one: Rows, other: Rows) -> NDArray[np.int64]:
    """(pairs, 2) rows of equal keys, among those that tell enough."""
    left, right = (
        pl.DataFrame({"key": keys[rows], name: rows}).filter(pl.Series(telling[rows], dtype=pl.Boolean))
        for name, rows in (("left", one), ("right", other))
    )
    return left.join(right, on="key").select("left", "right").to_numpy().astype(np.int64)


def _different(columns: Sequence[_Values], rows: Rows, least: float, table: Cohort) -> NDArray[np.float64]:
    """Evidence of the pairs of rows of one table. Equal ones are left out where they are copies."""
    if table.notes.equal_rows and table.notes.equal_rows.beyond_chance:
        rows = rows[np.unique(total([column.keys for column in columns])[rows], return_index=True)[1]]
    found = _alike(columns, rows, rows, least)
    return found.evidence[found.pairs[:, 0] < found.pairs[:, 1]]
