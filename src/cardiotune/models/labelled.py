"""Rows of a table with outcomes and parts, as classical models learn from them, and the folds in
which the training part chooses its own settings."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cardiotune.data.cohort import WEIGHT
from cardiotune.data.split import Parts
from cardiotune.data.subsample import stratified_rows
from cardiotune.settings import DataConfig

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Events = NDArray[np.int_]
Folds = list[tuple[NDArray[np.int_], NDArray[np.int_]]]
"""(rows to fit on, rows held out) of each fold."""
FOLDS = 5
REPEATS, FEW_ROWS = 5, 1000
"""How often folds are drawn of fewer rows than these, for models that take no time."""
SEARCH_ROWS = 40_000
"""Training rows, at most, on which settings are tried; and rows of all folds together, so that one
search takes about as long from 8,000 rows (five folds) upwards (40,000: one)."""


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table with outcomes and parts, as a comparator learns from them and scores them."""

    frame: pl.DataFrame
    """The columns of the dictionary, typed; of a cohort with censoring `WEIGHT` too."""
    events: Events
    """(rows,) 0 or 1. Of the training part alone, and of validation for what is chosen on it."""
    parts: Parts
    """(rows,) as in `cardiotune.data.split`."""
    data: DataConfig
    seed: int = 0

    @cached_property
    def train(self) -> Mask:
        """(rows,) whether a row is learned from."""
        return np.asarray(self.parts == "train")

    @cached_property
    def weights(self) -> Array | None:
        """(rows,) how much each counts; None when all count the same."""
        return row_weights(self.frame)

    @cached_property
    def training(self) -> "Training":
        """The training part alone."""
        train = self.train
        return Training(
            self.frame.filter(pl.Series(train)),
            self.events[train],
            None if self.weights is None else self.weights[train],
            groups_of(self.frame, self.data, np.flatnonzero(train)),
            self.data,
            self.seed,
        )


@dataclass(frozen=True)
class Training:
    """All that a classical model learns from; every array is (training rows,)."""

    frame: pl.DataFrame
    events: Events
    weights: Array | None
    """How much each row counts; None when all count the same."""
    groups: NDArray[np.int_] | None
    """As `groups_of`."""
    data: DataConfig
    seed: int

    @cached_property
    def searched(self) -> NDArray[np.int_]:
        """Row numbers, ascending, of those on which settings are tried: all that count, or a
        stratified draw of `SEARCH_ROWS`."""
        counted = np.arange(len(self.events)) if self.weights is None else np.flatnonzero(self.weights)
        return np.asarray(counted[stratified_rows(self.events[counted], SEARCH_ROWS, self.seed)])

    @cached_property
    def folds(self) -> Folds:
        """Of the rows `searched`: five, of many rows the first of them; none where one would have
        one outcome alone to fit on."""
        return self._folds(self.seed)

    @cached_property
    def repeated_folds(self) -> Folds:
        """`folds`, and of few rows those by further seeds too, for one drawing of them tells
        little."""
        again = REPEATS if len(self.searched) < FEW_ROWS else 1
        return [pair for repeat in range(again) for pair in self._folds(self.seed + 1000 * repeat)]

    def _folds(self, seed: int) -> Folds:
        some = self.searched
        events = self.events[some]
        parted = folds(events, None if self.groups is None else self.groups[some], seed % 2**32)
        if any(len(np.unique(events[others])) < 2 for others, _ in parted):
            return []
        return parted[: max(1, SEARCH_ROWS // len(some))]

    @property
    def prevalence(self) -> float:
        """The (weighted) share of events."""
        return float(np.average(self.events, weights=self.weights))


def row_weights(frame: pl.DataFrame) -> Array | None:
    """(rows,) how much each counts; None when all count the same."""
    return frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None


def groups_of(frame: pl.DataFrame, data: DataConfig, rows: NDArray[np.int_]) -> NDArray[np.int_] | None:
    """(rows,) numbers that rows of one group, else of one patient, share; None where every row
    stands alone."""
    name = data.name_of("group") or data.name_of("id")
    if name is None or name not in frame.columns:
        return None
    own = frame[name].gather(rows)
    if own.n_unique() == len(own):
        return None
    return np.asarray(own.rank("dense").fill_null(0).to_numpy().astype(int))


def folds(events: Events, groups: NDArray[np.int_] | None, seed: int) -> Folds:
    """(rows to fit on, rows held out) of each fold; each row is held out once, and a group in one
    fold."""
    everything = np.arange(len(events))
    most = min(FOLDS, events.sum(), (1 - events).sum(), len(events) if groups is None else len(np.unique(groups)))
    if most < 2:
        return [(everything[:0], everything)]
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(kind(int(most), shuffle=True, random_state=seed).split(everything, events, groups))
