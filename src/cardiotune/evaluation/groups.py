"""The models judged within groups of rows, without giving small groups away."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation.catalogue import SUBGROUPS, values
from cardiotune.evaluation.disclosure import Cell, Rows, Told, withhold
from cardiotune.evaluation.estimates import estimate, undefined
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import Estimates, Group
from cardiotune.evaluation.metrics import Array

MISSING = "missing"
"""The group of the rows that have no label."""
WITHHELD = "withheld: this group, or another that it would give away, has fewer than 10 events or non-events"


def judge_groups(
    y_true: Array,
    models: Mapping[str, Judged],
    columns: Mapping[str, Sequence[str | None]],
    resamples: Iterable[Array],
    ids: Sequence[str] = (),
    told: Sequence[Told] = (),
) -> list[Group]:
    """Of each column and group its size, its events and every model's SUBGROUPS, at the model's own
    threshold.

    y_true (n,); models: model -> what it is judged on; columns: title -> labels (n,); resamples:
    row counts, (some replicates, n) at a time. In a replicate a group has the rows that were drawn
    of it, so its size varies as it would in another sample. `told`: what another table tells of the
    rows with `ids` (n,) and others, beside which nothing small may follow.
    """
    cells = {(column, group): rows for column, labels in columns.items() for group, rows in _groups(labels).items()}
    without_size, without_events = withhold(cells, y_true, ids, told)
    judged = [cell for cell in cells if cell not in without_events]
    chosen = {  # in order of their risk, once, and not in every metric
        cell: {model: _by_risk(rows.risk, cells[cell]) for model, rows in models.items()} for cell in judged
    }
    within = {cell: {model: models[model].among(own) for model, own in chosen[cell].items()} for cell in judged}
    samples: dict[tuple[Cell, str, str], list[Array]] = defaultdict(list)
    for counts in resamples:
        for cell in judged:
            for model, judged_rows in within[cell].items():
                drawn = counts[:, chosen[cell][model]]
                drawn = drawn if judged_rows.weight is None else drawn * judged_rows.weight
                for name, sample in values(SUBGROUPS, judged_rows, drawn).items():
                    samples[cell, model, name].append(sample)

    def models_of(cell: Cell) -> dict[str, Estimates]:
        if cell in without_size:
            return {}
        if cell in without_events:
            return {model: dict.fromkeys(SUBGROUPS, undefined(WITHHELD)) for model in models}
        return {
            model: {
                name: estimate(name, value.item(), np.concatenate(samples[cell, model, name]), rows)
                for name, value in values(SUBGROUPS, rows, rows.weight).items()
            }
            for model, rows in within[cell].items()
        }

    return [
        Group(
            column=cell[0],
            group=cell[1],
            n=None if cell in without_size else int(rows.sum()),
            n_events=None if cell in without_events else int(y_true[rows].sum()),
            suppressed=cell in without_events,
            models=models_of(cell),
        )
        for cell, rows in cells.items()
    ]


def _by_risk(risk: Array, rows: Rows) -> NDArray[np.int_]:
    places = np.flatnonzero(rows)
    return places[np.argsort(risk[places], kind="stable")]


def _groups(labels: Sequence[str | None]) -> dict[str, Rows]:
    """Group -> its rows; in the order of the words and numbers in their names, the missing last."""
    named = np.array([MISSING if label is None else label for label in labels], object)
    return {group: named == group for group in sorted(set(named), key=lambda group: (group == MISSING, _order(group)))}


def _order(group: str) -> list[str | float]:
    """ "under 45" before "45 to under 55" before "100 and above"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", re.sub(r"(?<!to )\bunder (?=\d)", "", group))
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]
