"""What a metric is over tables, hospitals or sites: the random-effects mean, and where that of a
further one is expected to lie."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t
from statsmodels.stats.meta_analysis import combine_effects

from cardiotune.evaluation.intervals import TAIL
from cardiotune.evaluation.judgement import Estimate, Mean


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

    Standard errors are taken from the 95 % intervals, the variance between tables after Paule and
    Mandel, the mean's interval after Hartung and Knapp (never narrower than without), and the
    prediction interval after Higgins, Thompson and Spiegelhalter (J R Stat Soc A 2009;172:137) with
    t of k - 2 degrees of freedom. Estimates without an interval, or at the end of their scale, are
    passed over.
    """
    scale = SCALES.get(metric, PLAIN)
    found = [pair for one in estimates if (pair := _on_scale(one, scale))]
    number = len(found)
    if number < 2:
        return Mean(None, None, None, number)
    values, errors = (np.array(column) for column in zip(*found, strict=True))
    with np.errstate(divide="ignore"):  # of its I^2, where all are equal
        combined = combine_effects(values, errors**2, method_re="iterated")
    mean = float(combined.mean_effect_re)
    error = max(float(combined.sd_eff_w_re_hksj), float(combined.sd_eff_w_re))
    wide = float(t.ppf(1 - TAIL, number - 1)) * error
    prediction = None
    if number > 2:
        far = float(t.ppf(1 - TAIL, number - 2)) * math.sqrt(max(float(combined.tau2), 0.0) + error**2)
        prediction = (scale.back(mean - far), scale.back(mean + far))
    return Mean(scale.back(mean), (scale.back(mean - wide), scale.back(mean + wide)), prediction, number)


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
