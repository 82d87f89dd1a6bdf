"""Clinical metrics as pure functions of `y_true`, `y_prob` and optional row weights.

Shapes: y_true (n,) of 0 and 1; y_prob (n,) in [0, 1]; weight (n,) or (replicates, n), at least 0,
default all 1. The result is a float, or (replicates,) with one value for each row of weights: a
bootstrap is a matrix of counts, and every metric is computed for all replicates at once. Undefined
is NaN here, and null with a reason in `metrics.json`.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cardiotune.models import logistic

Array = NDArray[np.float64]

RIDGE = 1e-8
"""Penalty of the calibration curve as a share of all rows: none to speak of, unless a curve would
run to infinity."""


def _weights(y_true: Array, weight: Array | None) -> Array:
    return np.ones(len(y_true)) if weight is None else np.asarray(weight, dtype=float)


def _ratio(above: Array, below: Array) -> Array:
    """above / below, NaN where below is 0."""
    quotient = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
    return np.asarray(quotient)


# --------------------------------------------------------------------------------------------------
# discrimination


def auroc(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Area under the ROC curve, 0 to 1: P(risk of an event > risk of a non-event), ties counted
    half.

    Hanley & McNeil, Radiology 1982;143:29. NaN with one outcome only.
    """
    events, others = _by_score(y_true, y_prob, weight)
    below = np.cumsum(others, axis=-1) - others
    wins = (events * (below + others / 2)).sum(-1)
    return np.minimum(_ratio(wins, events.sum(-1) * others.sum(-1)), 1)  # but for rounding it never is above


def auprc(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Average precision, 0 to 1: sum of precision times the step in recall, from high to low risk
    (no interpolation).

    A model without information has the prevalence. NaN without events.
    """
    events, others = _by_score(y_true, y_prob, weight)
    events, others = events[..., ::-1], others[..., ::-1]
    found = np.cumsum(events, axis=-1)
    flagged = found + np.cumsum(others, axis=-1)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return _ratio((events * precision).sum(-1), events.sum(-1))


def _by_score(y_true: Array, y_prob: Array, weight: Array | None) -> tuple[Array, Array]:
    """Weight of events and of non-events at each distinct risk, from low to high: (..., distinct
    risks)."""
    weight = _weights(y_true, weight)
    if not (np.diff(y_prob) >= 0).all():
        order = np.argsort(y_prob, kind="stable")
        y_true, y_prob, weight = y_true[order], y_prob[order], weight[..., order]
    starts = np.flatnonzero(np.r_[True, np.diff(y_prob) > 0])
    happened = y_true
    events = np.add.reduceat(weight * happened, starts, axis=-1)
    others = np.add.reduceat(weight * (1 - happened), starts, axis=-1)
    return events, others


# --------------------------------------------------------------------------------------------------
# overall


def brier(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Mean squared error of the probabilities, 0 (best) to 1. Brier, Mon Weather Rev 1950;78:1."""
    weight = _weights(y_true, weight)
    return np.minimum(_ratio(weight @ (y_prob - y_true) ** 2, weight.sum(-1)), 1)  # but for rounding it never is above


def scaled_brier(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """1 - Brier score / Brier score of the prevalence: 1 best, 0 no better than the prevalence,
    below 0 worse.

    Steyerberg et al., Epidemiology 2010;21:128. NaN with one outcome.
    """
    weight = _weights(y_true, weight)
    events, others = weight @ y_true, weight @ (1 - y_true)
    return 1 - brier(y_true, y_prob, weight) * _ratio((events + others) ** 2, events * others)


def log_loss(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Mean negative log-likelihood in nats, 0 (best) upwards; risks are kept off 0 and 1 by the
    machine epsilon."""
    weight = _weights(y_true, weight)
    risk = logistic.off_0_and_1(y_prob)
    return _ratio(weight @ -(y_true * np.log(risk) + (1 - y_true) * np.log1p(-risk)), weight.sum(-1))


# --------------------------------------------------------------------------------------------------
# calibration


def observed_expected(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Events over the sum of the risks, 0 upwards. Best 1; below 1 the risks are too high on the
    whole.

    Debray et al., BMJ 2017;356:i6460. NaN when all risks are 0.
    """
    weight = _weights(y_true, weight)
    return _ratio(weight @ y_true, weight @ np.asarray(y_prob, np.float64))


def calibration_intercept(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Calibration-in-the-large: intercept of a logistic regression on logit(y_prob) with the slope
    fixed at 1.

    Best 0; below 0 the risks are too high on the whole. Van Calster et al., BMC Med 2019;17:230.
    NaN with one outcome.
    """
    weight = np.atleast_2d(_weights(y_true, weight))
    design = np.ones((len(y_true), 1))
    return logistic.coefficients(design, logistic.logit(y_prob), y_true, weight, _both_outcomes(y_true, weight))[:, 0]


def calibration_slope(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Slope of a logistic regression of the outcome on logit(y_prob). Best 1; below 1 the risks are
    too extreme.

    Cox, Biometrika 1958;45:562. NaN with one outcome, with constant risks, or when the risks part
    the outcomes completely (the slope is then infinite).
    """
    weight, log_odds = np.atleast_2d(_weights(y_true, weight)), logistic.logit(y_prob)
    scale = log_odds.std() or 1.0
    design = np.column_stack([np.ones(len(y_true)), (log_odds - log_odds.mean()) / scale])
    defined = logistic.overlap(y_true, log_odds, weight)
    return logistic.coefficients(design, np.zeros(len(y_true)), y_true, weight, defined)[:, 1] / scale


def calibration_errors(
    y_true: Array, y_prob: Array, weight: Array | None = None, knots: Array | None = None
) -> dict[str, Array]:
    """`ici`, `e50`, `e90`, `emax`: mean, median, 90th percentile and maximum of |y_prob - its
    calibration curve|.

    Austin & Steyerberg, Stat Med 2019;38:4051; 0 (best) to 1. The curve is their logistic
    regression on a restricted cubic spline of logit(y_prob), with 5 knots; 4, 3 or a straight line
    with fewer than 100, 50 or 20 rows of the rarer outcome. `knots` (on the logit scale) are placed
    by the unweighted rows, so that all bootstrap replicates have the same. Percentiles are the
    smallest error that this share of the rows does not exceed. NaN with one outcome.
    """
    weight, log_odds = np.atleast_2d(_weights(y_true, weight)), logistic.logit(y_prob)
    design = logistic.natural_spline(log_odds, logistic.knots(y_true, log_odds) if knots is None else knots)
    defined = _both_outcomes(y_true, weight)
    fitted = logistic.coefficients(design, np.zeros(len(y_true)), y_true, weight, defined, RIDGE)
    error = np.abs(logistic.sigmoid(fitted @ design.T) - y_prob)
    order = np.argsort(error, axis=-1, kind="stable")  # quick where the rows are in order of their risk
    error, sorted_weight = np.take_along_axis(error, order, -1), np.take_along_axis(weight, order, -1)
    reached = np.cumsum(sorted_weight, axis=-1)

    def percentile(share: float) -> Array:
        # The last digits of the sum must not decide between two neighbours.
        row = np.argmax(reached >= share * (1 - 1e-9) * reached[:, -1:], axis=-1)
        return np.asarray(np.where(defined, np.take_along_axis(error, row[:, None], -1)[:, 0], np.nan))

    mean = _ratio((sorted_weight * error).sum(-1), reached[:, -1])
    return {"ici": mean, "e50": percentile(0.5), "e90": percentile(0.9), "emax": percentile(1.0)}


def ici(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Integrated calibration index: mean |risk - calibration curve|, 0 (best) to 1; the curve is a
    logistic regression on a restricted cubic spline of logit(risk).

    Austin & Steyerberg, Stat Med 2019;38:4051. NaN with one outcome.
    """
    return calibration_errors(y_true, y_prob, weight)["ici"]


def e50(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Median |risk - calibration curve|, of the curve of the ICI."""
    return calibration_errors(y_true, y_prob, weight)["e50"]


def e90(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """90th percentile of |risk - calibration curve|, of the curve of the ICI."""
    return calibration_errors(y_true, y_prob, weight)["e90"]


def emax(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Largest |risk - calibration curve|, of the curve of the ICI."""
    return calibration_errors(y_true, y_prob, weight)["emax"]


def _both_outcomes(y_true: Array, weight: Array) -> NDArray[np.bool_]:
    return np.asarray((weight @ y_true > 0) & (weight @ (1 - y_true) > 0))


# --------------------------------------------------------------------------------------------------
# at a threshold


class Table(NamedTuple):
    """Weight of the true positives, false positives, false negatives and true negatives; each () or
    (replicates,)."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array
    unread_events: Array | float = 0.0
    """Of events whose answer could not be parsed: neither flagged nor not, and wrong. Only answers
    in words have some."""
    unread_others: Array | float = 0.0

    @property
    def total(self) -> Array:
        """All rows."""
        return np.asarray(self.tp + self.fp + self.fn + self.tn + self.unread_events + self.unread_others)


def table(
    y_true: Array,
    y_prob: Array,
    weight: Array | None = None,
    *,
    threshold: float = 0.5,
    unread: NDArray[np.bool_] | None = None,
) -> Table:
    """Rows by outcome and by whether they are flagged, which is a risk of at least `threshold`;
    `unread` (n,) are apart."""
    event, flagged = y_true == 1, y_prob >= threshold
    cells = [event & flagged, ~event & flagged, event & ~flagged, ~event & ~flagged]
    if unread is not None:
        cells = [cell & ~unread for cell in cells] + [event & unread, ~event & unread]
    return Table(*np.moveaxis(_weights(y_true, weight) @ np.column_stack(cells).astype(float), -1, 0))


class AtThreshold:
    """A metric of flagged and unflagged rows: of `y_true`, `y_prob`, `weight` and `threshold`, by
    way of its `Table`."""

    def __init__(self, formula: Callable[[Table], Array]) -> None:
        self.of = formula
        update_wrapper(self, formula)

    def __call__(self, y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
        """The metric at one threshold; a float, or (replicates,)."""
        return self.of(table(y_true, y_prob, weight, threshold=threshold))


@AtThreshold
def accuracy(cells: Table) -> Array:
    """Share of rows that are flagged (risk >= threshold) and have the event, or neither; an unread
    answer is wrong."""
    return _ratio(cells.tp + cells.tn, cells.total)


@AtThreshold
def precision(cells: Table) -> Array:
    """Positive predictive value: events among the flagged. NaN when none is flagged."""
    return _ratio(cells.tp, cells.tp + cells.fp)


@AtThreshold
def npv(cells: Table) -> Array:
    """Negative predictive value: non-events among the unflagged. NaN when all are flagged."""
    return _ratio(cells.tn, cells.tn + cells.fn)


@AtThreshold
def recall(cells: Table) -> Array:
    """Sensitivity: flagged among the events. NaN without events."""
    return _ratio(cells.tp, cells.tp + cells.fn + cells.unread_events)


@AtThreshold
def specificity(cells: Table) -> Array:
    """Unflagged among the non-events. NaN without non-events."""
    return _ratio(cells.tn, cells.tn + cells.fp + cells.unread_others)


@AtThreshold
def fnr(cells: Table) -> Array:
    """False-negative rate: unflagged or unread among the events, 1 - sensitivity. NaN without
    events."""
    return _ratio(cells.fn + cells.unread_events, cells.tp + cells.fn + cells.unread_events)


@AtThreshold
def lr_positive(cells: Table) -> Array:
    """Positive likelihood ratio, sensitivity / (1 - specificity): how much a flag raises the odds;
    1 is no information.

    Deeks & Altman, BMJ 2004;329:168. NaN with one outcome, and when no non-event is flagged (it has
    no bound then).
    """
    wrong = cells.fp + cells.unread_others
    return _ratio(recall.of(cells), _ratio(wrong, wrong + cells.tn))


@AtThreshold
def lr_negative(cells: Table) -> Array:
    """Negative likelihood ratio, (1 - sensitivity) / specificity: how much no flag lowers the odds;
    1: no information.

    Deeks & Altman, BMJ 2004;329:168. NaN with one outcome, and when every non-event is flagged.
    """
    return _ratio(fnr.of(cells), specificity.of(cells))


@AtThreshold
def flagged(cells: Table) -> Array:
    """Share of rows whose risk reaches the threshold."""
    return _ratio(cells.tp + cells.fp, cells.total)


@AtThreshold
def f1(cells: Table) -> Array:
    """Harmonic mean of precision and recall of the event. NaN when there is neither an event nor a
    flag."""
    return _ratio(2 * cells.tp, 2 * cells.tp + cells.fp + cells.fn + cells.unread_events)


@AtThreshold
def f1_weighted(cells: Table) -> Array:
    """F1 of the event and of the non-event, averaged by how many rows have each; an undefined F1
    counts as 0."""
    tp, fp, fn, tn, unread_events, unread_others = cells
    events, others = tp + fn + unread_events, tn + fp + unread_others
    event = np.nan_to_num(_ratio(2 * tp, tp + fp + events))
    other = np.nan_to_num(_ratio(2 * tn, tn + fn + others))
    return _ratio(events * event + others * other, events + others)


def net_benefit(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """True positives less false positives at the threshold's odds, per row; at most the prevalence,
    0 flags nobody.

    Vickers & Elkin, Med Decis Making 2006;26:565. NaN at a threshold of 1, where a false positive
    costs without bound.
    """
    return decision_curve(y_true, y_prob, weight, thresholds=np.array([threshold]))[..., 0]


def decision_curve(y_true: Array, y_prob: Array, weight: Array | None = None, *, thresholds: Array) -> Array:
    """Net benefit at each of `thresholds` (m,): shape (m,) or (replicates, m). Risks of 1 flag
    everybody."""
    weight, below_1 = _weights(y_true, weight), np.asarray(thresholds) < 1
    odds = np.divide(thresholds, 1 - thresholds, out=np.full(len(thresholds), np.nan), where=below_1)
    places, column = np.unique(thresholds, return_inverse=True)
    reached = np.searchsorted(places, y_prob, side="right")  # (n,) how many of the thresholds a risk reaches
    cell = reached + (len(places) + 1) * (y_true == 1)
    rows_to_cells = csr_array((np.ones(len(cell)), (np.arange(len(cell)), cell)), (len(cell), 2 * len(places) + 2))
    held = (weight @ rows_to_cells).reshape(*weight.shape[:-1], 2, len(places) + 1)  # weight by outcome and reached
    flagged = np.cumsum(held[..., :0:-1], axis=-1)[..., ::-1][..., column]  # (..., outcomes, m)
    total = flagged[..., 1, :] - odds * flagged[..., 0, :]
    return np.minimum(_ratio(total, np.broadcast_to(weight.sum(-1)[..., None], total.shape)), 1)
