"""The models judged within groups of rows, without giving small groups away."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from cardiotune.evaluation import metrics
from cardiotune.evaluation.estimates import estimate, undefined
from cardiotune.evaluation.metrics import Array

METRICS = ("auroc", "observed_expected", "calibration_slope", "sensitivity", "fnr")
FEW = 10
"""Fewer rows, events or non-events of a group are not told: a neighbour could recognise a patient."""
MISSING = "missing"
"""The group of the rows that have no label."""
WITHHELD = "withheld: this group, or another that it would give away, has fewer than 10 events or non-events"

Members = NDArray[np.bool_]
"""(rows,) which rows are in a group."""
Cell = tuple[str, str]
"""Column and group."""


def judge_groups(
    y_true: Array,
    risks: Mapping[str, Array],
    thresholds: Mapping[str, float],
    columns: Mapping[str, Sequence[str | None]],
    resamples: Iterable[Array],
) -> list[dict[str, Any]]:
    """One entry a column and group: its size, its events and every model's METRICS, at the model's own threshold.

    y_true (n,); risks: model -> (n,); columns: title -> labels (n,); resamples: row counts, (some replicates, n) at a
    time. In a replicate a group has the rows that were drawn of it, so its size varies as it would in another sample.
    """
    cells = {(column, group): rows for column, labels in columns.items() for group, rows in _groups(labels).items()}
    without_size, without_events = hidden(cells, y_true)
    judged = [cell for cell in cells if cell not in without_events]
    samples: dict[tuple[Cell, str, str], list[Array]] = defaultdict(list)
    for counts in resamples:
        for cell in judged:
            rows = cells[cell]
            drawn = counts[:, rows]
            for model, risk in risks.items():
                for name, values in _metrics(y_true[rows], risk[rows], drawn, thresholds[model]).items():
                    samples[cell, model, name].append(values)

    def models_of(cell: Cell) -> dict[str, Any]:
        if cell in without_size:
            return {}
        if cell in without_events:
            return {model: {name: undefined(WITHHELD) for name in METRICS} for model in risks}
        happened = y_true[cells[cell]]
        entries: dict[str, Any] = defaultdict(dict)
        for model, risk in ((model, risk[cells[cell]]) for model, risk in risks.items()):
            for name, value in _metrics(happened, risk, None, thresholds[model]).items():
                sample = np.concatenate(samples[cell, model, name])
                entries[model][name] = estimate(name, value.item(), sample, happened, risk)
        return dict(entries)

    return [
        {
            "column": cell[0],
            "group": cell[1],
            "n": None if cell in without_size else int(rows.sum()),
            "n_events": None if cell in without_events else int(y_true[rows].sum()),
            "suppressed": cell in without_events,
            "models": models_of(cell),
        }
        for cell, rows in cells.items()
    ]


def _metrics(y_true: Array, risk: Array, weight: Array | None, threshold: float) -> dict[str, Array]:
    plain = (metrics.auroc, metrics.observed_expected, metrics.calibration_slope)
    values = [metric(y_true, risk, weight) for metric in plain]
    cells = metrics.table(y_true, risk, weight, threshold=threshold)
    return dict(zip(METRICS, [*values, metrics.recall.of(cells), metrics.fnr.of(cells)], strict=True))


def _groups(labels: Sequence[str | None]) -> dict[str, Members]:
    """Group -> its rows; in the order of the words and numbers in their names, the missing last."""
    named = np.array([MISSING if label is None else label for label in labels], object)
    return {group: named == group for group in sorted(set(named), key=lambda group: (group == MISSING, _order(group)))}


def _order(group: str) -> list[Any]:
    """ "under 45" before "45 to under 55" before "100 and above"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", re.sub(r"(?<!to )\bunder (?=\d)", "", group))
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


# ---------------------------------------------------------------------------------------------------------------------
# disclosure


def hidden(cells: Mapping[Cell, Members], y_true: Array) -> tuple[set[Cell], set[Cell]]:
    """The groups whose size, and those whose events (these hold the former), must not be told.

    A size below FEW is hidden, and so are 1 to 9 events or non-events. But a single hidden number is the whole less the
    shown ones, so the next smallest group is hidden with it, and further ones until those that are hidden together hold
    at least FEW. Groups of other columns overlap (women, and women under 45), so their sums can give a number away too:
    further groups are hidden until no small number follows from all that is shown.
    """
    ones, events = np.ones(len(y_true)), (y_true == 1).astype(float)
    without_size = _hide(cells, [ones], set())
    return without_size, _hide(cells, [events, ones - events], without_size)


def _hide(cells: Mapping[Cell, Members], counted: Sequence[Array], first: set[Cell]) -> set[Cell]:
    """`first`, the groups in which one of the counts (rows,) is small, and what must be hidden with them."""
    sums = {cell: np.array([rows @ count for count in counted]) for cell, rows in cells.items()}
    small = [cell for cell, total in sums.items() if ((total > 0) & (total < FEW)).any()]
    found = first | set(small)
    for column in {cell[0]: None for cell in cells}:
        members = sorted((cell for cell in cells if cell[0] == column), key=lambda cell: sums[cell].sum())
        shown = [cell for cell in members if cell not in found]
        gone = [cell for cell in members if cell in found]
        while gone and shown and (len(gone) == 1 or (np.sum([sums[cell] for cell in gone], axis=0) < FEW).any()):
            gone.append(shown.pop(0))
        found |= set(gone)
    while (exposed := _exposed(cells, counted, small, found)) is not None:
        shown = [cell for cell in cells if cell not in found]
        found.add(min(shown, key=lambda cell: (cell[0] != exposed[0], sums[cell].sum())))
    return found


def _exposed(
    cells: Mapping[Cell, Members], counted: Sequence[Array], small: list[Cell], withheld: set[Cell]
) -> Cell | None:
    """A group whose small count follows from the shown ones; None when all of them could have another value.

    The lowest and the highest value that fit all sums are two linear programs over the smallest pieces of all groups.
    """
    if not small or withheld >= set(cells):
        return None
    pieces, piece = np.unique(np.array(list(cells.values())), axis=1, return_inverse=True)
    holds = dict(zip(cells, pieces.astype(float), strict=True))
    shown = np.array([np.ones(pieces.shape[1]), *(holds[cell] for cell in cells if cell not in withheld)])
    for count in counted:
        sums = shown @ np.bincount(piece.ravel(), count, pieces.shape[1])
        for cell in small:
            if 0 < cells[cell] @ count < FEW:
                lowest, highest = (side * linprog(side * holds[cell], A_eq=shown, b_eq=sums).fun for side in (1, -1))
                if highest - lowest < 0.5:
                    return cell
    return None
