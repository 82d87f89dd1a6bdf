"""A number of `metrics.json`: `{"value", "ci"}`, or null with a reason. No interval is without
width."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation import metrics
from cardiotune.evaluation.intervals import (
    Interval,
    around,
    auroc_interval,
    percentile_interval,
    ratio_interval,
    symmetric_interval,
    wilson,
    worth,
)

Array = NDArray[np.float64]

NO_INTERVAL = "undefined in more than 2.5 % of the bootstrap replicates, so no interval"
SAME = "the same in every bootstrap replicate, so no interval"
ONE_CLUSTER = "all rows are of one patient (or group), who says nothing about others, so no interval"
SAME_RISK = "the model gives every row the same risk, so no interval"
NOBODY_FLAGGED = "no row is flagged at this threshold, which is a net benefit of 0, so no interval"
ALIKE = "the two models are the same in every bootstrap replicate, so no interval"
IN_WORDS = "answers in words carry no probability"
"""The model whose answers are parsed: its 1 and 0 are no probabilities, and any other number stands
for no answer."""
OTHER_NAMES = {"sensitivity": "recall", "ppv": "precision"}
EXCEPTIONS = (
    "Wilson for shares of independent rows; for ICI, E50, E90 and Emax, whose replicates are biased upwards, the estimate "
    "plus and minus its larger distance to a percentile; by formula where no replicate differs"
)
"""Which intervals are not percentiles of the bootstrap."""


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

    def base(self, metric: str) -> NDArray[np.bool_] | None:
        """(n,) the rows of which `metric` is a share; None if it is no share."""
        event, all_rows = self.y_true == 1, np.ones(len(self.y_true), bool)
        return {
            "accuracy": all_rows,
            "flagged": all_rows,
            "recall": event,
            "fnr": event,
            "specificity": ~event,
            "precision": self.flagged,
            "npv": ~self.flagged if self.unread is None else ~self.flagged & ~self.unread,
        }.get(OTHER_NAMES.get(metric, metric))

    def size(self, rows: NDArray[np.bool_]) -> float:
        """How many independent rows these are worth."""
        return float(rows.sum()) if self.independent else worth(self.weight, self.clusters, rows)

    def one_cluster(self, rows: NDArray[np.bool_]) -> bool:
        """Whether these rows belong together, all of them."""
        return self.clusters is not None and len(np.unique(self.clusters[rows])) == 1


def estimate(metric: str, value: float, sample: Array, rows: Judged) -> dict[str, Any]:
    """`{"value", "ci"}` of a metric of these rows, from its bootstrap replicates `sample`
    (replicates,).

    Percentiles; for what EXCEPTIONS says, another interval. Null with a reason where value or
    interval are undefined. An interval holds its estimate and has a width.
    """
    if not np.isfinite(value):
        return undefined(why_undefined(metric, rows))
    base = rows.base(metric)
    if base is not None and rows.independent:
        return with_interval(value, wilson(round(value * base.sum()), int(base.sum())))
    if rows.one_cluster(np.ones(len(rows.y_true), bool)):
        return with_interval(value, None, ONE_CLUSTER)
    ci = symmetric_interval(value, sample) if metric in metrics.CURVE else percentile_interval(sample)
    if ci is None:
        return with_interval(value, None, NO_INTERVAL)
    if around(value, ci) is None:
        found = _by_formula(metric, value, rows)
        return with_interval(value, None, found) if isinstance(found, str) else with_interval(value, found)
    return with_interval(value, ci)


def _by_formula(metric: str, value: float, rows: Judged) -> Interval | str:
    """The interval where no replicate differs from the value; else why there is none."""
    base, event = rows.base(metric), rows.y_true == 1
    everyone = np.ones(len(event), bool)
    if base is not None:
        return ONE_CLUSTER if rows.one_cluster(base) else wilson(value * rows.size(base), rows.size(base))
    if metric == "net_benefit" and not rows.flagged.any():
        return NOBODY_FLAGGED
    constant = np.ptp(rows.risk) == 0
    if metric in ("auroc", "auprc") and any(rows.one_cluster(outcome) for outcome in (event, ~event)):
        return ONE_CLUSTER
    if metric == "auroc":
        return SAME_RISK if constant else auroc_interval(value, rows.size(event), rows.size(~event))
    if metric == "auprc" and value == 1 and not event.all():  # the share of events among as many at the top
        return wilson(rows.size(event), rows.size(event))
    if metric == "observed_expected" and (value == 0 or constant):  # a share over the mean risk
        mean = np.average(rows.risk, weights=rows.weight)
        low, high = wilson(value * mean * rows.size(everyone), rows.size(everyone))
        return float(low / mean), float(high / mean)
    if metric == "f1":  # of the rows that are flagged or have the event, share s are both: F1 = 2 s / (1 + s)
        either = rows.flagged | event
        if rows.one_cluster(either):
            return ONE_CLUSTER
        low, high = wilson(value / (2 - value) * rows.size(either), rows.size(either))
        return 2 * low / (1 + low), 2 * high / (1 + high)
    if metric in ("lr_positive", "lr_negative"):
        if any(rows.one_cluster(outcome) for outcome in (event, ~event)):
            return ONE_CLUSTER
        cells = metrics.table(rows.y_true, rows.risk, rows.weight, threshold=rows.threshold, unread=rows.unread)
        above, below = metrics.recall.of(cells), metrics.specificity.of(cells)
        shares = (above, 1 - below) if metric == "lr_positive" else (1 - above, below)
        return ratio_interval((float(shares[0]), rows.size(event)), (float(shares[1]), rows.size(~event)))
    return SAME_RISK if constant else SAME


def difference(value: float, sample: Array) -> dict[str, Any]:
    """A difference of two models on the same rows, with its paired percentile interval; sample
    (replicates,)."""
    if not np.isfinite(value):
        return undefined("undefined for one of the two models")
    ci = percentile_interval(sample)
    return with_interval(value, ci, NO_INTERVAL if ci is None else ALIKE)


def with_interval(value: float, ci: Interval | None, reason: str = SAME) -> dict[str, Any]:
    """`{"value", "ci"}` of a defined value, the interval widened to hold it; without an interval or
    a width also the reason."""
    held = None if ci is None else around(value, ci)
    if held is None:
        return {"value": value, "ci": None, "reason": reason}
    return {"value": value, "ci": list(held)}


def undefined(reason: str) -> dict[str, Any]:
    """The entry of what cannot be said."""
    return {"value": None, "ci": None, "reason": reason}


def why_undefined(metric: str, rows: Judged) -> str:
    """Why `metric` has no value for these rows, in words."""
    name = OTHER_NAMES.get(metric, metric)
    if rows.unread is not None and name not in (*metrics.AT_THRESHOLD, "fnr", "net_benefit"):
        return IN_WORDS
    if name == "precision":
        return "no row is flagged at this threshold"
    if name == "npv":
        return "every row is flagged at this threshold"
    if name == "observed_expected":
        return "the model gives every row a risk of 0"
    if name == "net_benefit":
        return "a threshold of 1 weighs a false positive without bound"
    if rows.y_true.min() == rows.y_true.max():
        return "only one outcome in these rows"
    if name == "lr_positive":
        return "no row without the event is flagged at this threshold, so the ratio has no bound"
    if name == "lr_negative":
        return "every row without the event is flagged at this threshold, so the ratio has no bound"
    if name == "calibration_slope":
        constant = np.ptp(rows.risk) == 0
        return "the model gives every row the same risk" if constant else "the risks part the outcomes completely"
    return "not defined for these rows"
