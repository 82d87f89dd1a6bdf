"""Fewer rows, with the outcome's share kept: a smaller training part for a learning curve, a sample
for a slow model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.split import UNUSED, Parts
from cardiotune.errors import DataError

MIN_OUTCOMES = 2
"""Fewer events, or fewer non-events, teach nothing about what tells them apart."""


def stratified_rows(events: NDArray[Any], rows: int, seed: int) -> NDArray[np.int_]:
    """Row numbers, ascending, of `rows` of the given rows; all of them when there are no more.

    `events` is (n,) of 0 and 1. The share of events is kept to the nearest row. Nested: with the
    same seed, a smaller draw is part of every larger one.
    """
    if rows >= len(events):
        return np.arange(len(events))
    draw = np.random.default_rng(seed)
    happened, others = (draw.permutation(np.flatnonzero(events == outcome)) for outcome in (1, 0))
    # Rounded so, neither count ever falls as `rows` grows, which is what makes the draws nested.
    wanted = int(np.floor(rows * len(happened) / len(events) + 0.5))
    return np.sort(np.concatenate([happened[:wanted], others[: rows - wanted]]))


def cut_training(parts: Parts, events: NDArray[Any], rows: int, seed: int) -> Parts:
    """`parts` with the training part cut to `rows` rows, stratified by the outcome and nested; the
    others are `unused`.

    Shapes: parts and events (n,). Validation and test stay as they are, so every size is judged on
    the same rows. Raises DataError when training has fewer rows, or when the cut would hold fewer
    than two events or non-events.
    """
    training = np.flatnonzero(parts == "train")
    if rows > len(training):
        raise DataError(f"split.train_rows: {rows}, but the training part has {len(training)} rows; ask for fewer")
    kept = training[stratified_rows(events[training], rows, seed)]
    happened = int(events[kept].sum())
    if min(happened, rows - happened) < MIN_OUTCOMES:
        raise DataError(
            f"split.train_rows: {rows} training rows hold {happened} events; expected {MIN_OUTCOMES} events and "
            f"{MIN_OUTCOMES} non-events at least; ask for more rows"
        )
    cut = parts.copy()
    cut[np.setdiff1d(training, kept)] = UNUSED
    return cut
