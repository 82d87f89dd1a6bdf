"""Intervals by formula, for the metrics whose bootstrap may show no variation.

Each takes the value and the rows, and gives an interval, why there is none, or None where it has
nothing to say.
"""

import numpy as np

from cardiotune.evaluation import metrics
from cardiotune.evaluation.intervals import Interval, auroc_interval, ratio_interval, wilson
from cardiotune.evaluation.judged import Base, Judged

ONE_CLUSTER = "all rows are of one patient (or group), who says nothing about others, so no interval"
SAME_RISK = "the model gives every row the same risk, so no interval"
NOBODY_FLAGGED = "no row is flagged at this threshold, which is a net benefit of 0, so no interval"

Found = Interval | str | None


def share(value: float, rows: Judged, of: Base) -> Found:
    """Wilson's, of so many rows as these are worth."""
    base = rows.base(of)
    return ONE_CLUSTER if rows.one_cluster(base) else wilson(value * rows.size(base), rows.size(base))


def auroc(value: float, rows: Judged) -> Found:
    """Newcombe's, of use at 0 and 1."""
    if _one_cluster_an_outcome(rows):
        return ONE_CLUSTER
    if rows.constant:
        return SAME_RISK
    return auroc_interval(value, rows.size(rows.event), rows.size(~rows.event))


def auprc(value: float, rows: Judged) -> Found:
    """At 1: that of the share of events among as many at the top."""
    if _one_cluster_an_outcome(rows):
        return ONE_CLUSTER
    if value == 1 and not rows.event.all():
        return wilson(rows.size(rows.event), rows.size(rows.event))
    return None


def observed_expected(value: float, rows: Judged) -> Found:
    """That of a share over the mean risk."""
    if value != 0 and not rows.constant:
        return None
    mean, size = np.average(rows.risk, weights=rows.weight), rows.size(rows.everyone)
    low, high = wilson(value * mean * size, size)
    return float(low / mean), float(high / mean)


def f1(value: float, rows: Judged) -> Found:
    """Of the rows that are flagged or have the event, share s are both: F1 = 2 s / (1 + s)."""
    either = rows.flagged | rows.event
    if rows.one_cluster(either):
        return ONE_CLUSTER
    low, high = wilson(value / (2 - value) * rows.size(either), rows.size(either))
    return 2 * low / (1 + low), 2 * high / (1 + high)


def lr_positive(value: float, rows: Judged) -> Found:
    """Of sensitivity over 1 - specificity."""
    cells = rows.table()
    return _ratio(rows, float(metrics.recall.of(cells)), float(1 - metrics.specificity.of(cells)))


def lr_negative(value: float, rows: Judged) -> Found:
    """Of 1 - sensitivity over specificity."""
    cells = rows.table()
    return _ratio(rows, float(1 - metrics.recall.of(cells)), float(metrics.specificity.of(cells)))


def net_benefit(value: float, rows: Judged) -> Found:
    """None where nobody is flagged, which always is a net benefit of 0."""
    return None if rows.flagged.any() else NOBODY_FLAGGED


def _ratio(rows: Judged, of_events: float, of_others: float) -> Found:
    if _one_cluster_an_outcome(rows):
        return ONE_CLUSTER
    return ratio_interval((of_events, rows.size(rows.event)), (of_others, rows.size(~rows.event)))


def _one_cluster_an_outcome(rows: Judged) -> bool:
    return any(rows.one_cluster(outcome) for outcome in (rows.event, ~rows.event))


def no_slope(rows: Judged) -> str:
    """Why a calibration slope has no value."""
    return "the model gives every row the same risk" if rows.constant else "the risks part the outcomes completely"
