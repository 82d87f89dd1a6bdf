"""The rows that a model is judged on."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation import metrics
from cardiotune.evaluation.intervals import worth
from cardiotune.evaluation.metrics import Array

Base = Literal["everyone", "events", "others", "flagged", "unflagged"]
"""The rows of which a metric is a share."""


@dataclass(frozen=True)
class Judged:
    """The rows that one model is judged on, (n,) each, and all that an interval needs beside the
    bootstrap."""

    y_true: Array
    risk: Array
    threshold: float = 0.5
    weight: Array | None = None
    """How much each row counts; None when all count the same."""
    clusters: NDArray[np.int_] | None = None
    """Number of each row's cluster; None when no two rows belong together."""
    unread: NDArray[np.bool_] | None = None
    """Whether an answer in words could not be parsed; None for a model that gives probabilities."""

    def at(self, threshold: float) -> "Judged":
        """The same rows at another threshold."""
        return replace(self, threshold=threshold)

    def among(self, rows: NDArray[np.int_]) -> "Judged":
        """Only the rows in these places, in their order."""
        given = {name: getattr(self, name) for name in ("y_true", "risk", "weight", "clusters", "unread")}
        return replace(self, **{name: values[rows] for name, values in given.items() if values is not None})

    @property
    def independent(self) -> bool:
        """Whether rows are alike and have nothing to do with each other, as Wilson's and DeLong's
        intervals take them."""
        return self.clusters is None and self.weight is None

    @cached_property
    def flagged(self) -> NDArray[np.bool_]:
        """(n,) whether a row's risk reaches the threshold."""
        return np.asarray(self.risk >= self.threshold)

    @property
    def event(self) -> NDArray[np.bool_]:
        """(n,) whether a row has the event."""
        return np.asarray(self.y_true == 1)

    @property
    def everyone(self) -> NDArray[np.bool_]:
        """(n,) all rows."""
        return np.ones(len(self.y_true), bool)

    @property
    def constant(self) -> bool:
        """Whether all rows have the same risk."""
        return bool(np.ptp(self.risk) == 0)

    @property
    def one_outcome(self) -> bool:
        """Whether all rows have the event, or none."""
        return bool(self.y_true.min() == self.y_true.max())

    def base(self, rows: Base) -> NDArray[np.bool_]:
        """(n,) which rows these are."""
        return {
            "everyone": self.everyone,
            "events": self.event,
            "others": ~self.event,
            "flagged": self.flagged,
            "unflagged": ~self.flagged if self.unread is None else ~self.flagged & ~self.unread,
        }[rows]

    def table(self) -> metrics.Table:
        """The rows by outcome and by whether they are flagged."""
        return metrics.table(self.y_true, self.risk, self.weight, threshold=self.threshold, unread=self.unread)

    def size(self, rows: NDArray[np.bool_]) -> float:
        """How many independent rows these are worth."""
        return float(rows.sum()) if self.independent else worth(self.weight, self.clusters, rows)

    def one_cluster(self, rows: NDArray[np.bool_]) -> bool:
        """Whether these rows belong together, all of them."""
        return self.clusters is not None and len(np.unique(self.clusters[rows])) == 1
