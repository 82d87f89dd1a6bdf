"""Curves and bins behind the figures: pure functions of outcomes and risks. They are drawn, never reported as metrics."""

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation.intervals import TAIL, bootstrap_counts

Array = NDArray[np.float64]

MIN_GROUP_ROWS = 15
"""A calibration group has about this many rows at least, so that few rows give few groups."""
BAND_REPLICATES = 200
BAND_GRID = np.linspace(0, 1, 101)
"""Where the ROC band is computed: values of 1 - specificity."""
MOST_POINTS = 400
"""Points of a curve that are drawn; more cannot be seen and would make the page heavy."""
RISK_BINS = np.linspace(0, 1, 21)


def roc(y_true: Array, risk: Array) -> tuple[Array, Array]:
    """1 - specificity and sensitivity, (points,) each, from (0, 0) to (1, 1). Needs both outcomes."""
    from sklearn.metrics import roc_curve

    false_alarms, found, _ = roc_curve(y_true, risk)
    return _thin(false_alarms, found)


def precision_recall(y_true: Array, risk: Array) -> tuple[Array, Array]:
    """Recall and precision, (points,) each, recall falling from 1 to 0. Needs an event."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(y_true, risk, drop_intermediate=True)
    return _thin(recall, precision)


def _thin(x: Array, y: Array) -> tuple[Array, Array]:
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


def roc_band(y_true: Array, risk: Array, seed: int = 0) -> tuple[Array, Array]:
    """Lower and upper 95 % limit of the sensitivity at each value of `BAND_GRID`, (101,) each.

    Pointwise percentiles over bootstrap replicates (vertical averaging: Fawcett, Pattern Recognit Lett 2006;27:861).
    Replicates with one outcome only are left out.
    """
    order = np.argsort(-risk, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(risk[order]) < 0, True])  # last row of each distinct risk
    happened = y_true[order]
    curves = []
    for counts in bootstrap_counts(y_true, BAND_REPLICATES, seed):
        weight = counts[:, order]
        found = np.cumsum(weight * happened, axis=1)[:, ends]
        alarms = np.cumsum(weight * (1 - happened), axis=1)[:, ends]
        both = (found[:, -1] > 0) & (alarms[:, -1] > 0)
        for hits, misses in zip(found[both], alarms[both], strict=True):
            curves.append(np.interp(BAND_GRID, np.r_[0, misses / misses[-1]], np.r_[0, hits / hits[-1]]))
    low, high = np.quantile(curves, [TAIL, 1 - TAIL], axis=0)
    return low, high


def calibration_points(y_true: Array, risk: Array) -> tuple[Array, Array, Array, Array]:
    """(groups,) each: mean risk, share of events, and the share's 95 % Wilson interval. Equal risks share a group."""
    from statsmodels.stats.proportion import proportion_confint

    groups = int(np.clip(len(risk) // MIN_GROUP_ROWS, 2, 10))
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1]))
    _, group = np.unique(np.searchsorted(edges, risk, side="right"), return_inverse=True)
    rows, events = np.bincount(group), np.bincount(group, y_true)
    mean, share = np.bincount(group, risk) / rows, events / rows
    low, high = proportion_confint(events, rows, method="wilson")
    # At a share of 0 or 1, rounding may put a bound on its wrong side by one part in 10^16.
    return mean, share, np.minimum(low, share), np.maximum(high, share)


def risk_counts(y_true: Array, risk: Array) -> tuple[Array, Array]:
    """Rows with and without the event in each of the bins of `RISK_BINS`, (20,) each."""
    with_event, without = (np.histogram(risk[y_true == outcome], RISK_BINS)[0].astype(float) for outcome in (1, 0))
    return with_event, without
