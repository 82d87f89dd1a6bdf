"""Curves and bins behind the figures: pure functions of outcomes and risks. They are drawn, never
reported as metrics."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve
from statsmodels.stats.proportion import proportion_confint

from cardiotune.data.small_counts import is_small
from cardiotune.evaluation.intervals import ROUNDING, TAIL, affordable, bootstrap_counts, worth
from cardiotune.evaluation.metrics import RIDGE
from cardiotune.models import logistic

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
"""Where an axis of risks may end: fifths of it make round ticks, and usual thresholds lie between
two bins."""
OUTLIERS = 0.01
"""Share of the risks that may lie beyond either end of what is drawn."""


def roc(y_true: Array, risk: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """1 - specificity and sensitivity, (points,) each, from (0, 0) to (1, 1). Needs both outcomes.
    `weight` (n,): how much each row counts.
    """
    false_alarms, found, _ = roc_curve(y_true, risk, sample_weight=weight)
    return _thin(false_alarms, found)


def precision_recall(y_true: Array, risk: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Recall and precision, (points,) each, recall falling from 1 to 0. Needs an event. `weight`
    (n,) as in `roc`."""
    precision, recall, _ = precision_recall_curve(y_true, risk, drop_intermediate=True, sample_weight=weight)
    return _thin(recall, precision)


def _thin(x: Array, y: Array) -> tuple[Array, Array]:
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


class Resampling(NamedTuple):
    """How a band's rows are resampled: as those of the tables are, whose first replicates a band
    has."""

    seed: int = 0
    stratified: bool = False
    weight: Array | None = None
    """(n,) how much each row counts; None when all count the same."""
    clusters: NDArray[np.int_] | None = None
    """(n,) number of each row's patient; None when no two rows belong together."""

    def counts(self, y_true: Array) -> Iterable[Array]:
        """Row counts (some replicates, n) at a time; none where all rows are of one patient."""
        if self.clusters is not None and len(np.unique(self.clusters)) == 1:
            return ()
        number = None if self.clusters is None else np.unique(self.clusters, return_inverse=True)[1]
        replicates = affordable(BAND_REPLICATES, len(y_true))
        return bootstrap_counts(y_true, replicates, self.seed, self.stratified, number)


ALIKE = Resampling()
"""Rows that count the same and have nothing to do with each other."""


def _limits(curves: Sequence[Array], estimate: Array) -> tuple[Array, Array]:
    """Pointwise 95 % limits (points,) of curves (points,) each; they hold the estimate. NaN where
    they have no width."""
    if not len(curves):
        return np.full(len(estimate), np.nan), np.full(len(estimate), np.nan)
    low, high = np.nanquantile(curves, [TAIL, 1 - TAIL], axis=0)
    low, high = np.minimum(low, estimate), np.maximum(high, estimate)
    flat = ~(high - low > ROUNDING)
    return np.where(flat, np.nan, low), np.where(flat, np.nan, high)


def roc_band(y_true: Array, risk: Array, drawn_as: Resampling = ALIKE) -> tuple[Array, Array]:
    """Lower and upper 95 % limit of the sensitivity at each value of `BAND_GRID`, (101,) each.

    Pointwise percentiles over bootstrap replicates (vertical averaging: Fawcett, Pattern Recognit
    Lett 2006;27:861). Replicates with one outcome only are left out. NaN where the limits are the
    same, as at the upper right corner.
    """
    drawn = np.ones(len(risk)) if drawn_as.weight is None else drawn_as.weight
    order = np.argsort(-risk, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(risk[order]) < 0, True])  # last row of each distinct risk
    happened = y_true[order]
    curves = []
    for counts in (np.ones((1, len(risk))), *drawn_as.counts(y_true)):  # first the estimate
        counted = (counts * drawn)[:, order]
        found = np.cumsum(counted * happened, axis=1)[:, ends]
        alarms = np.cumsum(counted * (1 - happened), axis=1)[:, ends]
        both = (found[:, -1] > 0) & (alarms[:, -1] > 0)
        for hits, misses in zip(found[both], alarms[both], strict=True):
            curves.append(np.interp(BAND_GRID, np.r_[0, misses / misses[-1]], np.r_[0, hits / hits[-1]]))
    return _limits(curves[1:], curves[0])


def calibration_points(
    y_true: Array, risk: Array, weight: Array | None = None, clusters: NDArray[np.int_] | None = None
) -> tuple[Array, Array, Array, Array]:
    """(groups,) each: mean risk, share of events, and the share's 95 % Wilson interval. Equal risks
    share a group.

    Neighbouring groups are taken together until each has ten events and ten others, or none; where
    all rows together have fewer there is no group. With `weight` (n,) mean and share are weighted,
    and the interval is that of so many equally weighted rows as these are worth (Kish 1965, Survey
    Sampling, section 11.7); with `clusters` (n,), rows of one patient count as one.
    """
    groups = int(np.clip(len(risk) // MIN_GROUP_ROWS, 2, 10))
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1]))
    _, group = np.unique(np.searchsorted(edges, risk, side="right"), return_inverse=True)
    rows = np.array([np.bincount(group, y_true == outcome) for outcome in (1, 0)])
    group = merged(rows)[group]
    if any(map(is_small, rows.sum(1))):
        return (np.empty(0),) * 4
    counted = np.ones(len(risk)) if weight is None else weight
    total = np.bincount(group, counted)
    mean, share = np.bincount(group, risk * counted) / total, np.bincount(group, y_true * counted) / total
    sizes = np.array([worth(counted, clusters, group == number) for number in range(len(total))])
    low, high = proportion_confint(share * sizes, sizes, method="wilson")
    # At a share of 0 or 1, rounding may put a bound on its wrong side by one part in 10^16.
    return mean, share, np.minimum(low, share), np.maximum(high, share)


def calibration_curve(y_true: Array, risk: Array, at: Array, weight: Array | None = None) -> Array:
    """Smoothed share of events at each risk of `at`: (points,), or (replicates, points) with
    weights (replicates, n); of (n,) weights too it is (points,).

    The curve that `metrics.calibration_errors` measures from, with the same knots and the same fit:
    its mean distance from the risks of all rows is the ICI. NaN with one outcome.
    """
    weights = np.atleast_2d(np.ones(len(y_true)) if weight is None else weight)
    log_odds = logistic.logit(risk)
    knots = logistic.knots(y_true, log_odds)
    both = (weights @ y_true > 0) & (weights @ (1 - y_true) > 0)
    design = logistic.natural_spline(log_odds, knots)
    fitted = logistic.coefficients(design, np.zeros(len(y_true)), y_true, weights, both, RIDGE)
    shares = logistic.sigmoid(fitted @ logistic.natural_spline(logistic.logit(at), knots).T)
    return shares if weight is not None and weight.ndim == 2 else shares[0]


def calibration_band(y_true: Array, risk: Array, at: Array, drawn_as: Resampling = ALIKE) -> tuple[Array, Array]:
    """Lower and upper 95 % limit of the calibration curve at each risk of `at`, (points,) each.
    Needs both outcomes.

    Pointwise percentiles over bootstrap replicates; the knots stay where all rows put them.
    Replicates with one outcome are left out. NaN where the limits are the same.
    """
    counted = np.ones(len(risk)) if drawn_as.weight is None else drawn_as.weight
    resamples = drawn_as.counts(y_true)
    drawn = [curve for counts in resamples for curve in calibration_curve(y_true, risk, at, counts * counted)]
    return _limits(drawn, calibration_curve(y_true, risk, at, drawn_as.weight))


def curve_risks(risk: Array) -> Array:
    """Where a calibration curve is drawn, (51,): evenly between the ends of the bulk of the risks,
    which are no row's own."""
    low, high = np.quantile(risk, [OUTLIERS, 1 - OUTLIERS])
    return np.linspace(low, high, CURVE_POINTS)


def axis_end(risks: Iterable[Array]) -> float:
    """Where an axis that shows all these can end: 1, or less when an event is so rare that nearly
    all risks are low."""
    highest = max(float(np.quantile(risk, 1 - OUTLIERS)) for risk in risks)
    return next(end for end in AXIS_ENDS if highest <= end)


def merged(rows: Array) -> NDArray[np.int_]:
    """(bins,) the number of the wider bin that each of neighbouring bins falls in, so that no bin
    has a small count.

    rows (outcomes, bins). As many bins as can be; a small count of all rows stays small.
    """
    edges, held = [0], np.zeros(len(rows))
    for place in range(rows.shape[1]):
        held += rows[:, place]
        if not any(map(is_small, held)):
            edges.append(place + 1)
            held = np.zeros(len(rows))
    if held.any():  # the last bins go with as many of those before them as it takes
        while len(edges) > 1 and any(map(is_small, rows[:, edges[-1] :].sum(1))):
            edges.pop()
    ends = [*edges, rows.shape[1]] if edges[-1] < rows.shape[1] else edges
    return np.repeat(np.arange(len(ends) - 1), np.diff(ends))


class Histogram(NamedTuple):
    """Rows with and without the event in bins that may be of unequal width, none with a small
    count."""

    edges: Array
    """(bins + 1,)"""
    counts: tuple[Array, Array]
    """(bins,) rows, or sums of their weights; NaN where all rows of an outcome together are few."""
    heights: tuple[Array, Array]
    """(bins,) rows in a bin of the usual width: what is drawn, so that areas are rows."""


def histogram(y_true: Array, risk: Array, end: float = 1.0, weight: Array | None = None) -> Histogram:
    """The bins of `risk_counts`, neighbours taken together until each has ten rows of an outcome or
    none."""
    exact = np.array(risk_counts(y_true, risk, end))
    number = merged(exact)
    bins = RISK_BINS * end
    starts = np.r_[True, np.diff(number) > 0]
    edges = np.r_[bins[:-1][starts], bins[-1]]
    few = [any(map(is_small, np.bincount(number, rows))) for rows in exact]
    shown = exact if weight is None else np.array(risk_counts(y_true, risk, end, weight))
    with_event, without = (
        np.where(hide, np.nan, np.bincount(number, rows)) for rows, hide in zip(shown, few, strict=True)
    )
    wider = (bins[1] - bins[0]) / np.diff(edges)
    return Histogram(edges, (with_event, without), (with_event * wider, without * wider))


def risk_counts(y_true: Array, risk: Array, end: float = 1.0, weight: Array | None = None) -> tuple[Array, Array]:
    """Rows with and without the event in each of the bins of `RISK_BINS`, drawn together to end at
    `end`; (20,) each.

    With `weight` (n,) the sums of the weights.
    """
    counted = np.ones(len(risk)) if weight is None else weight
    with_event, without = (
        np.histogram(risk[y_true == outcome], RISK_BINS * end, weights=counted[y_true == outcome])[0]
        for outcome in (1, 0)
    )
    return with_event, without


def rows_of_sizes(points: Iterable[dict[str, Any]]) -> dict[int | str, float]:
    """Size -> its training rows. Seeds of one size may differ by a few rows: the size stands at
    their median.

    points: those of `learning_curve.json`.
    """
    rows: dict[int | str, list[int]] = {}
    for point in points:
        rows.setdefault(point["size"], []).append(point["train_rows"])
    return {size: statistics.median(counts) for size, counts in rows.items()}


def by_training_rows(points: list[dict[str, Any]], metric: str) -> dict[str, dict[float, list[float]]]:
    """Model -> training rows, as `rows_of_sizes` -> the defined values of the seeds; rows
    ascending."""
    x = rows_of_sizes(points)
    lines: dict[str, dict[float, list[float]]] = {}
    for point in sorted(points, key=lambda point: x[point["size"]]):
        values = lines.setdefault(point["model"], {}).setdefault(x[point["size"]], [])
        if point[metric] is not None:
            values.append(point[metric])
    return lines
