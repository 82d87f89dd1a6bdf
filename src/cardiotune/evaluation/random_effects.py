"""What a metric is over tables, hospitals or sites: the random-effects mean, and where that of a
further one is expected to lie."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t

from cardiotune.evaluation.intervals import TAIL
from cardiotune.evaluation.judgement import Estimate, Mean
from cardiotune.evaluation.metrics import Array


class Scale(NamedTuple):
    """Where a metric's estimates spread evenly about their mean."""

    to: Callable[[float], float]
    back: Callable[[float], float]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


METRICS = ("auroc", "observed_expected", "calibration_slope")
"""Of which there is a mean over tables."""
PLAIN = Scale(float, float)
SCALES = {"auroc": Scale(_logit, _share), "observed_expected": Scale(math.log, math.exp)}
"""Debray et al., Stat Methods Med Res 2019;28:2768: AUROC by its logit, O:E by its logarithm; other
metrics as they are."""


def across(metric: str, estimates: Sequence[Estimate]) -> Mean:
    """The random-effects mean of independent estimates of a metric.

    Standard errors are taken from the 95 % intervals, the variance between tables by restricted
    maximum likelihood, the mean's interval after Knapp and Hartung (Stat Med 2003;22:2693), I^2
    after Higgins and Thompson (Stat Med 2002;21:1539), and the prediction interval with t of k - 1
    degrees of freedom: `rma(method = "REML", test = "knha")` and `predict` of R's metafor. Where
    the estimates differ no more than their own errors explain, Knapp and Hartung's interval may
    shrink to nothing: there it is never narrower than without them. Estimates without an interval,
    or at the end of their scale, are passed over.
    """
    scale = SCALES.get(metric, PLAIN)
    found = [pair for one in estimates if (pair := _on_scale(one, scale))]
    number = len(found)
    if number < 2:
        return Mean(None, None, None, number)
    values, errors = (np.array(column) for column in zip(*found, strict=True))
    between = _between(values, errors**2)
    weights = 1 / (errors**2 + between)
    mean = float(np.average(values, weights=weights))
    spread = float((weights * (values - mean) ** 2).sum()) / (number - 1)
    error = math.sqrt((spread if between else max(spread, 1.0)) / float(weights.sum()))
    quantile = float(t.ppf(1 - TAIL, number - 1))
    wide, far = quantile * error, quantile * math.sqrt(between + error**2)
    return Mean(
        scale.back(mean),
        (scale.back(mean - wide), scale.back(mean + wide)),
        (scale.back(mean - far), scale.back(mean + far)) if number > 2 else None,
        number,
        between / (between + _within(errors**2)),
    )


def _between(values: Array, variances: Array) -> float:
    """Variance between tables by restricted maximum likelihood, 0 at least; values and their
    variances (k,). Viechtbauer, J Educ Behav Stat 2005;30:261, section 3."""

    def slope(between: float) -> float:
        """Twice the derivative of the restricted log-likelihood."""
        weights = 1 / (variances + between)
        away = values - np.average(values, weights=weights)
        return float((weights**2 * away**2).sum() - weights.sum() + (weights**2).sum() / weights.sum())

    if slope(0.0) <= 0:
        return 0.0
    high = float(np.ptp(values) ** 2)
    while slope(high) > 0:
        high *= 2
    return float(brentq(slope, 0.0, high, xtol=1e-14))


def _within(variances: Array) -> float:
    """The variance of a typical table's estimate, which I^2 compares with that between tables."""
    weights = 1 / variances
    return float((len(weights) - 1) / (weights.sum() - (weights**2).sum() / weights.sum()))


def _on_scale(one: Estimate, scale: Scale) -> tuple[float, float] | None:
    """Value and standard error; None where there are none."""
    if one.value is None or one.ci is None:
        return None
    try:
        low, high = scale.to(one.ci[0]), scale.to(one.ci[1])
        value = scale.to(one.value)
    except (ValueError, ZeroDivisionError):  # an end of the scale, such as an AUROC of 1
        return None
    error = (high - low) / (2 * float(norm.ppf(1 - TAIL)))
    return (value, error) if error > 0 else None
