"""Which counts of patients may be told: the one rule for Table 1, the subgroups and whatever else
counts people.

A count of 1 to 9 is not told. Nor is it enough to leave it out: where totals, the rest of a line or
another table of the same patients allow one value only, a further count is hidden, and so on until
no small one follows. Primary and complementary suppression: Hundepool et al., Statistical
Disclosure Control, Wiley 2012, chapters 4 and 5. What a reader can work out is found exactly: the
lowest and the highest value that fit all that is told are two linear programs.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from cardiotune.data.small_counts import FEW, HIDDEN, SMALL, is_small

Counts = NDArray[np.int64]
Rows = NDArray[np.bool_]
"""(rows,) which patients are counted."""
Sum = NDArray[np.float64]
"""(pieces,) 1 for the pieces that a count holds, else 0. Patients who stand in the same counts are
one piece."""
Cell = tuple[str, str]
"""Column and group."""


class Known(NamedTuple):
    """A reader knows that the pieces of `sum` hold from `low` to `high` patients."""

    sum: Sum
    low: float
    high: float


def follows(aim: Sum, known: Sequence[Known]) -> bool:
    """Whether a single whole number fits what is known of the sum `aim`. The pieces must be bounded
    by what is known."""
    sums = np.array([fact.sum for fact in known])
    low, high = np.array([fact.low for fact in known]), np.array([fact.high for fact in known])
    exact = low == high
    limits = {
        "A_eq": sums[exact],
        "b_eq": low[exact],
        "A_ub": np.concatenate([sums[~exact], -sums[~exact]]),
        "b_ub": np.concatenate([high[~exact], -low[~exact]]),
    }
    lowest, highest = (side * linprog(side * aim, **limits).fun for side in (1, -1))
    return bool(np.floor(highest + 1e-3) <= np.ceil(lowest - 1e-3))  # the solver is not exact to the last digit


# --------------------------------------------------------------------------------------------------
# the categories of a column, by outcome


def suppress(counts: Counts, sizes: Counts) -> list[list[str | None]]:
    """What stands in the place of each count: SMALL, HIDDEN, or None where it may be told.

    counts: (lines, 3) patients overall, without and with the event; the last line is of those whose
    value is missing, so that each column sums to `sizes` (3,), which all may know. Of the last line
    only the first count is ever told.
    """
    by_outcome = np.eye(2 * len(counts)).reshape(len(counts), 2, -1)  # the pieces
    sums = np.concatenate([by_outcome.sum(1, keepdims=True), by_outcome], axis=1)  # (lines, 3, pieces)
    small = (counts > 0) & (counts < FEW)
    told = np.ones_like(small)
    told[-1, 1:] = False
    hidden = small | ~told

    def written(line: int, column: int) -> Known:
        low = high = counts[line, column]
        if hidden[line, column]:
            low, high = (1, FEW - 1) if small[line, column] else (FEW, sizes[column])
        return Known(sums[line, column], low, high)

    def known() -> list[Known]:
        totals = [Known(sums[:, column].sum(0), size, size) for column, size in enumerate(sizes)]
        return totals + [written(*cell) for cell in np.argwhere(told)]

    for line, column in np.argwhere(small):
        while (~hidden & (counts > 0)).any() and follows(sums[line, column], known()):
            hidden[_cheapest(np.argwhere(~hidden & (counts > 0)), line, column, counts)] = True
    return [
        [SMALL if few else HIDDEN if hide else None for few, hide in zip(*line, strict=True)]
        for line in zip(small, hidden, strict=True)
    ]


def _cheapest(shown: Counts, line: int, column: int, counts: Counts) -> tuple[int, int]:
    """The cell to hide next for a small one: an outcome's rather than an overall one, how many are
    missing last of all."""
    cells = [(int(cell[0]), int(cell[1])) for cell in shown]
    return min(cells, key=lambda c: (c[0] == len(counts) - 1, c[1] == 0, c[0] != line and c[1] != column, counts[c]))


# --------------------------------------------------------------------------------------------------
# groups of several columns, beside what another table tells


class Told(NamedTuple):
    """A count that another table tells of the same patients and others: from `low` to `high`, which
    may be equal."""

    column: str
    """Title of the column among the groups."""
    by_outcome: bool
    ids: frozenset[str]
    """Who is counted."""
    low: float
    high: float


def withhold(
    cells: Mapping[Cell, Rows], y_true: NDArray[np.float64], ids: Sequence[str] = (), told: Sequence[Told] = ()
) -> tuple[set[Cell], set[Cell]]:
    """The groups whose size, and those whose events (these hold the former), must not be told.

    A size below FEW is hidden, and so are 1 to 9 events or non-events. But a single hidden number
    is the whole less the shown ones, so the next smallest group is hidden with it, and further ones
    until those that are hidden together hold at least FEW. Groups of other columns overlap (women,
    and women under 45), and another table may count the patients with `ids` (rows,) among others,
    so further groups are hidden until no small number follows from all that is told: of a group, of
    the other table, or of the other table less the group.
    """
    happened = y_true == 1
    without_size = _hide_together(cells, [np.ones(len(y_true))], set())
    without_events = _hide_together(cells, [happened * 1.0, ~happened * 1.0], without_size)
    pieces = _Pieces(cells, happened, ids, told)
    everything = pieces.known(set(cells), set(cells))
    for aim in pieces.aims():
        while follows(aim.sum, pieces.known(without_size, without_events)):
            to_tell = [cell for cell in cells if cell not in without_size]
            if aim.by_outcome and len(without_events) < len(cells):
                to_tell = [cell for cell in cells if cell not in without_events]
            if not to_tell or follows(aim.sum, everything):
                break  # it is known without the groups
            first = min(to_tell, key=lambda cell: (cell[0] != aim.column, cells[cell].sum()))
            if not (aim.by_outcome and first not in without_events):
                without_size.add(first)
            without_events.add(first)
    return without_size, without_events


def _hide_together(cells: Mapping[Cell, Rows], counted: Sequence[NDArray[np.float64]], first: set[Cell]) -> set[Cell]:
    """`first`, the groups in which one of the counts (rows,) is small, and what must be hidden with
    them in a column."""
    sums = {cell: np.array([rows @ count for count in counted]) for cell, rows in cells.items()}
    found = first | {cell for cell, total in sums.items() if any(map(is_small, total))}
    for column in {cell[0]: None for cell in cells}:
        members = sorted((cell for cell in cells if cell[0] == column), key=lambda cell: sums[cell].sum())
        shown = [cell for cell in members if cell not in found]
        gone = [cell for cell in members if cell in found]
        while gone and shown and (len(gone) == 1 or (np.sum([sums[cell] for cell in gone], axis=0) < FEW).any()):
            gone.append(shown.pop(0))
        found |= set(gone)
    return found


class _Aim(NamedTuple):
    """A small count to protect."""

    sum: Sum
    column: str
    by_outcome: bool


class _Pieces:
    """The patients of all groups and counts, cut into pieces that no count divides, and how many
    each piece has."""

    def __init__(self, cells: Mapping[Cell, Rows], happened: Rows, ids: Sequence[str], told: Sequence[Told]) -> None:
        others = sorted(frozenset().union(*(count.ids for count in told)) - set(ids))
        everyone = [*ids, *others] if told else [""] * len(happened)
        judged = np.arange(len(everyone)) < len(happened)

        def among_all(rows: Rows) -> Rows:
            return np.concatenate([rows, np.zeros(len(others), bool)])

        counted = [np.array([row_id in count.ids for row_id in everyone]) for count in told]
        masks = np.array([judged, among_all(happened), *map(among_all, cells.values()), *counted])
        pieces, self.patients = np.unique(masks, axis=1, return_counts=True)
        self.judged, self.happened, *sums = pieces.astype(float)
        self.cells = dict(zip(cells, sums[: len(cells)], strict=True))
        self.told = list(zip(told, sums[len(cells) :], strict=True))

    def aims(self) -> list[_Aim]:
        """Every small count: of a group, of where two groups cross, of their outcomes, of the other
        table, and of that less the group.
        """
        groups = [(column, rows) for (column, _), rows in self.cells.items()]
        groups += [(a[0], x * y) for (a, x), (b, y) in combinations(self.cells.items(), 2) if a[0] != b[0]]
        found = []
        for column, rows in groups:
            found.append(_Aim(rows, column, False))
            found += [_Aim(rows * happened, column, True) for happened in (self.happened, 1 - self.happened)]
        for count, rows in self.told:
            found += [_Aim(some, count.column, count.by_outcome) for some in (rows, rows * (1 - self.judged))]
        return [aim for aim in found if is_small(float(aim.sum @ self.patients))]

    def known(self, without_size: set[Cell], without_events: set[Cell]) -> list[Known]:
        """All that a reader has: the totals, the other table, and the groups' numbers that are not
        withheld."""
        exact = [self.judged, self.happened]
        exact += [rows for cell, rows in self.cells.items() if cell not in without_size]
        exact += [rows * self.happened for cell, rows in self.cells.items() if cell not in without_events]
        facts = [Known(rows, size := float(rows @ self.patients), size) for rows in exact]
        return facts + [Known(rows, count.low, count.high) for count, rows in self.told]
