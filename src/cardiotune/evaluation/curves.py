"""Curves and bins behind the figures: pure functions of outcomes and risks. They are drawn, never reported as metrics."""

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation import logistic
from cardiotune.evaluation.intervals import TAIL, bootstrap_counts
from cardiotune.evaluation.metrics import RIDGE

Array = NDArray[np.float64]

MIN_GROUP_ROWS = 15
"""A calibration group has about this many rows at least, so that few rows give few groups."""
BAND_REPLICATES = 200
BAND_GRID = np.linspace(0, 1, 101)
"""Where the ROC band is computed: values of 1 - specificity."""
MOST_POINTS = 400
"""Points of a curve that are drawn; more cannot be seen and would make the page heavy."""
RISK_BINS = np.linspace(0, 1, 21)
CURVE_POINTS = 51
AXIS_ENDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Where an axis of risks may end: fifths of it make round ticks, and usual thresholds lie between two bins."""
OUTLIERS = 0.01
"""Share of the risks that may lie beyond either end of what is drawn."""


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


def calibration_curve(y_true: Array, risk: Array, at: Array, weight: Array | None = None) -> Array:
    """Smoothed share of events at each risk of `at`: (points,), or (replicates, points) with weights (replicates, n).

    The curve that `metrics.calibration_errors` measures from, with the same knots and the same fit: its mean distance
    from the risks of all rows is the ICI. NaN with one outcome.
    """
    weights = np.ones((1, len(y_true))) if weight is None else weight
    log_odds = logistic.logit(risk)
    knots = logistic.knots(y_true, log_odds)
    both = (weights @ y_true > 0) & (weights @ (1 - y_true) > 0)
    design = logistic.natural_spline(log_odds, knots)
    fitted = logistic.fit(design, np.zeros(len(y_true)), y_true, weights, both, RIDGE)
    shares = logistic.sigmoid(fitted @ logistic.natural_spline(logistic.logit(at), knots).T)
    return shares[0] if weight is None else shares


def calibration_band(y_true: Array, risk: Array, at: Array, seed: int = 0) -> tuple[Array, Array]:
    """Lower and upper 95 % limit of the calibration curve at each risk of `at`, (points,) each. Needs both outcomes.

    Pointwise percentiles over bootstrap replicates; the knots stay where all rows put them. Replicates with one outcome
    are left out.
    """
    drawn = [calibration_curve(y_true, risk, at, counts) for counts in bootstrap_counts(y_true, BAND_REPLICATES, seed)]
    low, high = np.nanquantile(np.concatenate(drawn), [TAIL, 1 - TAIL], axis=0)
    return low, high


def curve_risks(risk: Array) -> Array:
    """Where a calibration curve is drawn, (51,): evenly between the ends of the bulk of the risks, which are no row's own."""
    low, high = np.quantile(risk, [OUTLIERS, 1 - OUTLIERS])
    return np.linspace(low, high, CURVE_POINTS)


def axis_end(risks: Iterable[Array]) -> float:
    """Where an axis that shows all these can end: 1, or less when an event is so rare that nearly all risks are low."""
    highest = max(float(np.quantile(risk, 1 - OUTLIERS)) for risk in risks)
    return next(end for end in AXIS_ENDS if highest <= end)


def risk_counts(y_true: Array, risk: Array, end: float = 1.0) -> tuple[Array, Array]:
    """Rows with and without the event in each of the bins of `RISK_BINS`, drawn together to end at `end`; (20,) each."""
    with_event, without = (
        np.histogram(risk[y_true == outcome], RISK_BINS * end)[0].astype(float) for outcome in (1, 0)
    )
    return with_event, without


def by_training_rows(points: list[dict[str, Any]], metric: str) -> dict[str, dict[float, list[float]]]:
    """Model -> training rows -> the defined values of the seeds; rows ascending.

    points: those of `learning_curve.json`. Seeds of one size may differ by a few rows: the size stands at their median.
    """
    rows: dict[Any, list[int]] = {}
    for point in points:
        rows.setdefault(point["size"], []).append(point["train_rows"])
    x = {size: statistics.median(counts) for size, counts in rows.items()}
    lines: dict[str, dict[float, list[float]]] = {}
    for point in sorted(points, key=lambda point: x[point["size"]]):
        values = lines.setdefault(point["model"], {}).setdefault(x[point["size"]], [])
        if point[metric] is not None:
            values.append(point[metric])
    return lines
