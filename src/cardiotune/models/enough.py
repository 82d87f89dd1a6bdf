"""How many values a row must tell before its risk says more than the prevalence: learned on the
validation part, for models that are to read tables of other columns."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from cardiotune.data.prepare import Prepared, Source
from cardiotune.data.serialize import serialize_rows
from cardiotune.settings import SerializeConfig

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
FEWEST = "fewest_columns"
"""Key of `calibration.json`."""
ROWS = 200
"""Validation rows that it is learned on at most; each is scored a few times."""


def fewest_columns(
    risks_of: Callable[[list[str]], Array], prepared: Prepared, serialize: SerializeConfig, seed: int
) -> int:
    """The smallest number of random recorded columns with which validation rows, told without the
    others, get a lower log-loss than by the prevalence of the training part.

    Found by bisection, as if more columns never told less. One more than there are columns where
    not even all of them do. `risks_of`: texts -> calibrated risks.
    """
    events, weights = prepared.cohort.events, prepared.cohort.weights
    training, held = prepared.rows("train"), prepared.rows("validation")
    draw = np.random.default_rng(seed)
    sample = np.sort(draw.choice(held, ROWS, replace=False)) if len(held) > ROWS else held
    told = [Sampled.of(source, sample, draw) for source in prepared.sources]
    weight = None if weights is None else weights[sample]

    def loss(risks: Array) -> float:
        return float(log_loss(events[sample], risks, sample_weight=weight, labels=[0, 1]))

    share = float(np.average(events[training], weights=None if weights is None else weights[training]))
    bound = loss(np.full(len(sample), share))

    def enough(columns: int) -> bool:
        texts = [text for one in told for text in one.texts(columns, serialize)]
        return loss(risks_of(texts)) < bound

    low, high = 0, max(one.most for one in told)
    if not len(sample) or not enough(high):
        log.warning("the model's risks are no better than the prevalence on validation rows: every row abstains")
        return max(len(source.order) for source in prepared.sources) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Sampled:
    """Rows of one table, each with its columns in a random order, the recorded ones first."""

    source: Source
    frame: pl.DataFrame
    rank: NDArray[np.int_]
    """(rows, columns of the text) place of each column in its row's order."""

    @classmethod
    def of(cls, source: Source, sample: NDArray[np.int_], draw: np.random.Generator) -> "Sampled":
        """Those of the sampled rows that are of this table."""
        frame = source.frame[np.flatnonzero(np.isin(source.rows, sample))]
        there = frame.select(pl.col(source.order).is_not_null()).to_numpy()
        return cls(source, frame, np.argsort(np.argsort(draw.random(there.shape) - there, axis=1), axis=1))

    @property
    def most(self) -> int:
        """Columns that are recorded in the row that has most of them."""
        there = pl.sum_horizontal(pl.col(self.source.order).is_not_null())
        return int(self.frame.select(there.max()).item() or 0)

    def texts(self, columns: int, serialize: SerializeConfig) -> list[str]:
        """Texts of the rows with so many of their recorded columns each."""
        kept = [
            pl.when(pl.Series(self.rank[:, place] < columns)).then(pl.col(name)).alias(name)
            for place, name in enumerate(self.source.order)
        ]
        only = serialize.model_copy(update={"missing": "omit"})
        return serialize_rows(self.frame.with_columns(kept), self.source.order, self.source.data, only)
