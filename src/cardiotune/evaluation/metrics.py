"""Clinical metrics as pure functions of `y_true`, `y_prob` and optional row weights.

Shapes: y_true (n,) of 0 and 1; y_prob (n,) in [0, 1]; weight (n,) or (replicates, n), at least 0, default all 1. The
result is a float, or (replicates,) with one value for each row of weights: a bootstrap is a matrix of counts, and every
metric is computed for all replicates at once. Undefined is NaN here, and null with a reason in `metrics.json`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Metric = Callable[..., Array]

TAIL = 0.025
"""Share of the replicates below, and above, a 95 % interval."""
EPSILON = float(np.finfo(np.float64).eps)
MAX_STEP = 20.0
NEWTON_STEPS = 100
HALVINGS = 100
CHUNK_CELLS = 2_000_000
"""Rows times replicates that are held at a time."""


def _weights(y_true: Array, weight: Array | None) -> Array:
    return np.ones(len(y_true)) if weight is None else np.asarray(weight, dtype=float)


def _ratio(above: Array, below: Array) -> Array:
    """above / below, NaN where below is 0."""
    quotient = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
    return np.asarray(quotient)


# ---------------------------------------------------------------------------------------------------------------------
# discrimination


def auroc(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Area under the ROC curve, 0 to 1: P(risk of an event > risk of a non-event), ties counted half.

    Hanley & McNeil, Radiology 1982;143:29. NaN with one outcome only.
    """
    events, others = _by_score(y_true, y_prob, weight)
    below = np.cumsum(others, axis=-1) - others
    wins = (events * (below + others / 2)).sum(-1)
    return _ratio(wins, events.sum(-1) * others.sum(-1))


def auprc(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Average precision, 0 to 1: sum of precision times the step in recall, from high to low risk (no interpolation).

    A model without information has the prevalence. NaN without events.
    """
    events, others = _by_score(y_true, y_prob, weight)
    events, others = events[..., ::-1], others[..., ::-1]
    found = np.cumsum(events, axis=-1)
    flagged = found + np.cumsum(others, axis=-1)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return _ratio((events * precision).sum(-1), events.sum(-1))


def _by_score(y_true: Array, y_prob: Array, weight: Array | None) -> tuple[Array, Array]:
    """Weight of events and of non-events at each distinct risk, from low to high: (..., distinct risks)."""
    order = np.argsort(y_prob, kind="stable")
    weight = _weights(y_true, weight)[..., order]
    starts = np.flatnonzero(np.r_[True, np.diff(y_prob[order]) > 0])
    happened = y_true[order]
    events = np.add.reduceat(weight * happened, starts, axis=-1)
    others = np.add.reduceat(weight * (1 - happened), starts, axis=-1)
    return events, others


# ---------------------------------------------------------------------------------------------------------------------
# overall


def brier(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Mean squared error of the probabilities, 0 (best) to 1. Brier, Mon Weather Rev 1950;78:1."""
    weight = _weights(y_true, weight)
    return _ratio(weight @ (y_prob - y_true) ** 2, weight.sum(-1))


def log_loss(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Mean negative log-likelihood in nats, 0 (best) upwards; risks are kept off 0 and 1 by the machine epsilon."""
    weight = _weights(y_true, weight)
    risk = _off_0_and_1(y_prob)
    return _ratio(weight @ -(y_true * np.log(risk) + (1 - y_true) * np.log1p(-risk)), weight.sum(-1))


# ---------------------------------------------------------------------------------------------------------------------
# calibration


def calibration_intercept(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Calibration-in-the-large: intercept of a logistic regression on logit(y_prob) with the slope fixed at 1.

    Best 0; below 0 the risks are too high on the whole. Van Calster et al., BMC Med 2019;17:230. NaN with one outcome.
    """
    weight = np.atleast_2d(_weights(y_true, weight))
    defined = (weight @ y_true > 0) & (weight @ (1 - y_true) > 0)
    return _fit(np.ones((len(y_true), 1)), _log_odds(y_prob), y_true, weight, defined)[:, 0]


def calibration_slope(y_true: Array, y_prob: Array, weight: Array | None = None) -> Array:
    """Slope of a logistic regression of the outcome on logit(y_prob). Best 1; below 1 the risks are too extreme.

    Cox, Biometrika 1958;45:562. NaN with one outcome, with constant risks, or when the risks part the outcomes
    completely (the slope is then infinite).
    """
    weight, log_odds = np.atleast_2d(_weights(y_true, weight)), _log_odds(y_prob)
    scale = log_odds.std() or 1.0
    design = np.column_stack([np.ones(len(y_true)), (log_odds - log_odds.mean()) / scale])
    return _fit(design, np.zeros(len(y_true)), y_true, weight, _overlap(y_true, log_odds, weight))[:, 1] / scale


def _fit(design: Array, offset: Array, y_true: Array, weight: Array, defined: NDArray[np.bool_]) -> Array:
    """(replicates, columns of the design) coefficients of a logistic regression; NaN where not `defined`.

    Every replicate starts from the fit to the unweighted rows, which is near.
    """
    fitted = np.full((len(weight), design.shape[1]), np.nan)
    if defined.any():
        start = np.zeros((1, design.shape[1]))
        if len(weight) > 1:
            start = _newton(design, offset, y_true, np.ones((1, len(y_true))), start)
        fitted[defined] = _newton(design, offset, y_true, weight[defined], start)
    return fitted


def _newton(design: Array, offset: Array, y_true: Array, weight: Array, start: Array) -> Array:
    """Maximum likelihood by Newton's method. A step that raises the loss is halved, without which it can cycle."""
    columns = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    coefficients = start  # (1, columns): one for all replicates until the first step
    risk, loss = _risk_and_loss(coefficients, design, offset, y_true, weight)
    for _ in range(NEWTON_STEPS):
        gradient = (weight * (y_true - risk)) @ design
        curve = ((weight * (risk * (1 - risk))) @ products).reshape(-1, columns, columns)
        # Only against singularity: where all risks have rounded to 0 or 1 the curve is exactly flat.
        ridge = np.maximum(1e-12 * np.trace(curve, axis1=1, axis2=2), 1e-30)[:, None, None] * np.eye(columns)
        step = np.clip(np.linalg.solve(curve + ridge, gradient[:, :, None])[:, :, 0], -MAX_STEP, MAX_STEP)
        moving = np.abs(step).max(axis=1) > 1e-6
        if not moving.any():  # the error left is about the square of the step
            return np.asarray(coefficients + step)
        for _ in range(HALVINGS):
            risk, tried = _risk_and_loss(coefficients + step, design, offset, y_true, weight)
            worse = ~(tried <= loss * (1 + 1e-11))
            if not worse.any():
                break
            step[worse] /= 2
        coefficients, loss = coefficients + step, tried
    return np.where(moving[:, None], np.nan, coefficients)


def _risk_and_loss(
    coefficients: Array, design: Array, offset: Array, y_true: Array, weight: Array
) -> tuple[Array, Array]:
    """Risks (replicates, n), or (1, n) where all coefficients are the same, and log-loss sums (replicates,)."""
    log_odds = coefficients @ design.T + offset
    small = np.exp(-np.abs(log_odds))
    risk = np.where(log_odds >= 0, 1, small) / (1 + small)
    return risk, (weight * (np.maximum(log_odds, 0) - y_true * log_odds + np.log1p(small))).sum(-1)


def _overlap(y_true: Array, y_prob: Array, weight: Array) -> NDArray[np.bool_]:
    """(replicates,) False where no event has a lower risk than some non-event, or the reverse (or one is lacking).

    The maximum-likelihood slope is finite only with overlap. Albert & Anderson, Biometrika 1984;71:1.
    """

    def extremes(outcome: int) -> tuple[Array, Array]:
        rows = y_true == outcome
        present, risk = weight[:, rows] > 0, y_prob[rows]
        lowest = np.where(present, risk, np.inf).min(-1, initial=np.inf)
        return lowest, np.where(present, risk, -np.inf).max(-1, initial=-np.inf)

    (low_0, high_0), (low_1, high_1) = extremes(0), extremes(1)
    return np.asarray((high_0 > low_1) & (high_1 > low_0))


def _log_odds(y_prob: Array) -> Array:
    risk = _off_0_and_1(y_prob)
    return np.asarray(np.log(risk) - np.log1p(-risk))


def _off_0_and_1(y_prob: Array) -> Array:
    # In float32, 1 - EPSILON would be 1.
    return np.clip(np.asarray(y_prob, np.float64), EPSILON, 1 - EPSILON)


# ---------------------------------------------------------------------------------------------------------------------
# at a threshold


def _table(y_true: Array, y_prob: Array, weight: Array | None, threshold: float) -> tuple[Array, Array, Array, Array]:
    """True positives, false positives, false negatives, true negatives (weights)."""
    weight = _weights(y_true, weight)
    flagged = y_prob >= threshold
    cells = [
        (y_true == 1) & flagged,
        (y_true == 0) & flagged,
        (y_true == 1) & ~flagged,
        (y_true == 0) & ~flagged,
    ]
    tp, fp, fn, tn = (np.asarray(weight @ cell.astype(float)) for cell in cells)
    return tp, fp, fn, tn


def accuracy(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """Share of rows that are flagged (risk >= threshold) and have the event, or neither."""
    tp, fp, fn, tn = _table(y_true, y_prob, weight, threshold)
    return _ratio(tp + tn, tp + fp + fn + tn)


def precision(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """Positive predictive value: events among the flagged. NaN when none is flagged."""
    tp, fp, _, _ = _table(y_true, y_prob, weight, threshold)
    return _ratio(tp, tp + fp)


def recall(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """Sensitivity: flagged among the events. NaN without events."""
    tp, _, fn, _ = _table(y_true, y_prob, weight, threshold)
    return _ratio(tp, tp + fn)


def specificity(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """Unflagged among the non-events. NaN without non-events."""
    _, fp, _, tn = _table(y_true, y_prob, weight, threshold)
    return _ratio(tn, tn + fp)


def f1(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """Harmonic mean of precision and recall of the event. NaN when there is neither an event nor a flag."""
    tp, fp, fn, _ = _table(y_true, y_prob, weight, threshold)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def f1_weighted(y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5) -> Array:
    """F1 of the event and of the non-event, averaged by how many rows have each; an undefined F1 counts as 0."""
    tp, fp, fn, tn = _table(y_true, y_prob, weight, threshold)
    event = np.nan_to_num(_ratio(2 * tp, 2 * tp + fp + fn))
    other = np.nan_to_num(_ratio(2 * tn, 2 * tn + fp + fn))
    return _ratio((tp + fn) * event + (tn + fp) * other, tp + fp + fn + tn)


RANKED: dict[str, Metric] = {"auroc": auroc, "auprc": auprc}
PROBABILITY: dict[str, Metric] = {
    "brier": brier,
    "log_loss": log_loss,
    "calibration_intercept": calibration_intercept,
    "calibration_slope": calibration_slope,
}
AT_THRESHOLD: dict[str, Metric] = {
    "accuracy": accuracy,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "f1": f1,
    "f1_weighted": f1_weighted,
}
NAMES = (*RANKED, *PROBABILITY, *AT_THRESHOLD)


def all_metrics(
    y_true: Array, y_prob: Array, weight: Array | None = None, *, threshold: float = 0.5
) -> dict[str, Array]:
    """Every metric by name; shape () or (replicates,)."""
    values = {name: metric(y_true, y_prob, weight) for name, metric in (RANKED | PROBABILITY).items()}
    values |= {name: metric(y_true, y_prob, weight, threshold=threshold) for name, metric in AT_THRESHOLD.items()}
    shape = () if weight is None or np.ndim(weight) == 1 else (len(weight),)
    return {name: np.reshape(value, shape) for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# bootstrap


def bootstrap_counts(y_true: Array, replicates: int, seed: int, stratified: bool = False) -> Iterator[Array]:
    """Bootstrap as row counts, (some replicates, n) at a time; `stratified` draws events and non-events apart.

    Efron & Tibshirani 1993, chapter 6. The same seed gives the same replicates, so models on the same rows are paired.
    Stratified replicates all have the same prevalence, so intervals of what depends on it are too narrow.
    """
    draw = np.random.default_rng(seed)
    strata = [np.flatnonzero(y_true == outcome) for outcome in (0, 1)] if stratified else [np.arange(len(y_true))]
    chunk = max(1, CHUNK_CELLS // max(1, len(y_true)))
    for first in range(0, replicates, chunk):
        counts = np.zeros((min(chunk, replicates - first), len(y_true)))
        for replicate in counts:  # one after the other, so that the draw does not depend on the chunks
            for rows in strata:
                if len(rows):
                    drawn = draw.integers(len(rows), size=len(rows))
                    replicate[rows] = np.bincount(drawn, minlength=len(rows))
        yield counts


def interval(values: Array) -> tuple[float, float] | None:
    """Percentile interval, 95 %, wide enough whatever the undefined replicates might have been.

    They may lie beyond either end, so the percentiles of the others move outwards. None when over 2.5 % are undefined.
    """
    known = values[np.isfinite(values)]
    undefined = (len(values) - len(known)) / len(values)
    if undefined > TAIL:
        return None
    tail = (TAIL - undefined) / (1 - undefined)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
