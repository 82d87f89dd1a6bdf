"""Logistic regression of the outcome on one predictor, for many rows of weights at once: a line or
a smooth curve."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
MAX_STEP = 20.0
NEWTON_STEPS = 100
HALVINGS = 100
NEAR_END = 64
"""Rows at either end of a predictor that are looked at before all are."""
KNOT_QUANTILES = {5: (0.05, 0.275, 0.5, 0.725, 0.95), 4: (0.05, 0.35, 0.65, 0.95), 3: (0.1, 0.5, 0.9)}
"""Harrell, Regression Modeling Strategies 2015, table 2.3."""
KNOT_EVENTS = {5: 100, 4: 50, 3: 20}
"""Rows of the rarer outcome that a curve of so many knots asks for; with fewer it is a straight
line."""


def coefficients(
    design: Array, offset: Array, y_true: Array, weight: Array, defined: NDArray[np.bool_], ridge: float = 0.0
) -> Array:
    """(replicates, columns of the design) coefficients of a logistic regression; NaN where not
    `defined`.

    design (n, columns), offset (n,), y_true (n,) of 0 and 1, weight (replicates, n), defined
    (replicates,). `ridge` is the weight, as a share of all rows, of a quadratic penalty that keeps
    the coefficients finite. Every replicate starts from the fit to the unweighted rows, which is
    near.
    """
    fitted = np.full((len(weight), design.shape[1]), np.nan)
    if defined.any():
        start = np.zeros((1, design.shape[1]))
        if len(weight) > 1:
            start = _newton(design, offset, y_true, np.ones((1, len(y_true))), start, ridge)
        fitted[defined] = _newton(design, offset, y_true, weight[defined], start, ridge)
    return fitted


def _newton(design: Array, offset: Array, y_true: Array, weight: Array, start: Array, penalty: float) -> Array:
    """Maximum likelihood by Newton's method. A step that raises the loss is halved, without which
    it can cycle."""
    columns = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    total = weight.sum(-1)
    found = np.full((len(weight), columns), np.nan)
    left = np.arange(len(weight))  # the replicates that are not there yet
    penalties = penalty * total[:, None]
    coefficients = start  # (1, columns): one for all replicates until the first step
    risk, loss = _risk_and_loss(coefficients, design, offset, y_true, weight, penalties)
    for _ in range(NEWTON_STEPS):
        gradient = (weight * (y_true - risk)) @ design - penalties * coefficients
        curve = ((weight * (risk * (1 - risk))) @ products).reshape(-1, columns, columns)
        # Only against singularity: where all risks have rounded to 0 or 1 the curve is exactly
        # flat.
        ridge = penalties[:, 0] + np.maximum(1e-12 * np.trace(curve, axis1=1, axis2=2), 1e-30)
        curve += ridge[:, None, None] * np.eye(columns)
        step = np.linalg.solve(curve, gradient[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1)
        flat = (gradient * step).sum(-1) <= 1e-12 * total[left]  # no step can lower the loss any more
        there = longest <= 1e-6  # the error left is about the square of the step
        if penalty:  # the curve has converged where there are rows, which need not be at every knot
            there |= flat
        step *= np.minimum(1, MAX_STEP / np.maximum(longest, 1e-6))[:, None]
        if there.any():
            found[left[there]] = (coefficients + step)[there]
            if there.all():
                break
            go = ~there
            left, weight, penalties = left[go], weight[go], penalties[go]
            loss, step, flat = loss[go], step[go], flat[go]
            coefficients = np.broadcast_to(coefficients, (len(go), columns))[go]
        for _ in range(HALVINGS):
            risk, tried = _risk_and_loss(coefficients + step, design, offset, y_true, weight, penalties)
            worse = ~(tried <= loss * (1 + 1e-11))
            if not worse.any():
                break
            step[worse] /= 2
        coefficients, loss = coefficients + step, tried
    else:  # rounding can keep steps from getting small: any place where the loss is flat is a solution
        found[left[flat]] = coefficients[flat]
    return found


def _risk_and_loss(
    coefficients: Array, design: Array, offset: Array, y_true: Array, weight: Array, penalties: Array
) -> tuple[Array, Array]:
    """Risks (replicates, n), or (1, n) where all coefficients are the same, and penalised log-loss
    (replicates,)."""
    log_odds = coefficients @ design.T + offset
    small = np.exp(-np.abs(log_odds))
    risk = np.where(log_odds >= 0, 1, small) / (1 + small)
    loss = (weight * (np.maximum(log_odds, 0) - y_true * log_odds + np.log1p(small))).sum(-1)
    return risk, loss + (penalties * coefficients**2).sum(-1) / 2


def sigmoid(log_odds: Array) -> Array:
    """1 / (1 + exp(-log_odds)), without overflow."""
    small = np.exp(-np.abs(log_odds))
    return np.asarray(np.where(log_odds >= 0, 1, small) / (1 + small))


def off_0_and_1(risks: Array) -> Array:
    """Risks moved in from exactly 0 and 1 by the machine epsilon."""
    # In float32, 1 - EPSILON would be 1.
    return np.clip(np.asarray(risks, np.float64), EPSILON, 1 - EPSILON)


def logit(risks: Array) -> Array:
    """Log-odds; risks of exactly 0 or 1 are moved in by the machine epsilon."""
    inside = off_0_and_1(risks)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def most_probable(  # data, prior and bounds of one fit
    design: Array,
    offset: Array,
    y_true: Array,
    prior_mean: Array,
    precision: Array,
    bounds: Sequence[Any],
    weight: Array | None = None,
) -> Array:
    """(columns,) coefficients of the greatest posterior density, within bounds.

    design (n, columns), offset (n,), y_true (n,) of 0 and 1; the prior of each coefficient is
    normal with this mean and precision (columns,), flat where the precision is 0. The search starts
    from the mean. `weight` (n,): how often each row counts, by default once.
    """
    counted = np.ones(len(y_true)) if weight is None else weight

    def loss(weights: Array) -> tuple[float, Array]:
        log_odds, away = design @ weights + offset, weights - prior_mean
        value = np.logaddexp(0, log_odds) - y_true * log_odds
        slope = design.T @ (counted * (sigmoid(log_odds) - y_true))
        return float((counted * value).sum() + 0.5 * (precision * away**2).sum()), slope + precision * away

    options = {"ftol": 1e-14, "gtol": 1e-9}
    return np.asarray(minimize(loss, prior_mean, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)


def overlap(y_true: Array, predictor: Array, weight: Array) -> NDArray[np.bool_]:
    """(replicates,) False where no event has a lower predictor than some non-event, or the reverse
    (or one is lacking).

    The maximum-likelihood slope is finite only with overlap. Albert & Anderson, Biometrika
    1984;71:1.
    """

    def first(rows: NDArray[np.int_], none: float) -> Array:
        """(replicates,) the predictor of the first of these rows that is present, `none` without
        any."""
        found = np.full(len(weight), none)
        left = np.arange(len(weight))
        for some in np.split(rows, [NEAR_END]):  # nearly always one of the first, so that few columns are looked at
            if not len(left) or not len(some):
                break
            present = weight[np.ix_(left, some)] > 0
            there = present.any(-1)
            found[left[there]] = predictor[some[present[there].argmax(-1)]]
            left = left[~there]
        return found

    def extremes(outcome: int) -> tuple[Array, Array]:
        rows = np.flatnonzero(y_true == outcome)
        rows = rows[np.argsort(predictor[rows], kind="stable")]
        return first(rows, np.inf), first(rows[::-1], -np.inf)

    (low_0, high_0), (low_1, high_1) = extremes(0), extremes(1)
    return np.asarray((high_0 > low_1) & (high_1 > low_0))


def knots(y_true: Array, predictor: Array) -> Array:
    """Places of 5, 4 or 3 knots among the predictor's values, fewer with few events; 2 make a line,
    1 a constant."""
    rarer = min((y_true == 1).sum(), (y_true == 0).sum())
    for count, quantiles in KNOT_QUANTILES.items():
        if rarer >= KNOT_EVENTS[count]:
            found = np.unique(np.quantile(predictor, quantiles, method="inverted_cdf"))
            if len(found) > 1:  # fewer when many rows share a value
                return np.asarray(found)
    return np.unique([predictor.min(), predictor.max()])


def natural_spline(predictor: Array, places: Array) -> Array:
    """(n, knots) design of a natural cubic spline, a straight line beyond the outer knots.

    The coefficients are the curve's values at the knots, which keeps the design well-conditioned;
    the curves that it can draw are those of Harrell's restricted cubic spline (2015, section
    2.4.5).
    """
    if len(places) == 1:
        return np.ones((len(predictor), 1))
    curves = CubicSpline(places, np.eye(len(places)), bc_type="natural")
    inside = np.clip(predictor, places[0], places[-1])
    return np.asarray(curves(inside) + curves(inside, 1) * (predictor - inside)[:, None])
