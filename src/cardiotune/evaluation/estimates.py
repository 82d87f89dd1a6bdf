"""A number of `metrics.json`: `{"value", "ci"}`, or null with a reason."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation.intervals import Interval, percentile_interval, wilson

Array = NDArray[np.float64]

NO_INTERVAL = "undefined in more than 2.5 % of the bootstrap replicates, so no interval"


def estimate(metric: str, value: float, sample: Array, y_true: Array, risk: Array) -> dict[str, Any]:
    """`{"value", "ci"}` with the percentile interval of `sample` (replicates,); null with a reason where undefined."""
    if not np.isfinite(value):
        return undefined(why_undefined(metric, y_true, risk))
    return with_interval(value, percentile_interval(sample))


def with_interval(value: float, ci: Interval | None) -> dict[str, Any]:
    """`{"value", "ci"}` of a defined value; without an interval also the reason."""
    if ci is None:
        return {"value": value, "ci": None, "reason": NO_INTERVAL}
    return {"value": value, "ci": list(ci)}


def share(metric: str, count: float, size: float, y_true: Array, risk: Array) -> dict[str, Any]:
    """count / size with Wilson's interval; null with a reason when size is 0."""
    if size == 0:
        return undefined(why_undefined(metric, y_true, risk))
    return with_interval(count / size, wilson(int(count), int(size)))


def undefined(reason: str) -> dict[str, Any]:
    """The entry of what cannot be said."""
    return {"value": None, "ci": None, "reason": reason}


def why_undefined(metric: str, y_true: Array, risk: Array) -> str:
    """Why `metric` has no value for these rows (n,), in words."""
    if metric in ("precision", "ppv"):
        return "no row is flagged at this threshold"
    if metric == "npv":
        return "every row is flagged at this threshold"
    if metric == "observed_expected":
        return "the model gives every row a risk of 0"
    if metric == "net_benefit":
        return "a threshold of 1 weighs a false positive without bound"
    if y_true.min() == y_true.max():
        return "only one outcome in these rows"
    if metric == "lr_positive":
        return "no row without the event is flagged at this threshold, so the ratio has no bound"
    if metric == "lr_negative":
        return "every row without the event is flagged at this threshold, so the ratio has no bound"
    if metric == "calibration_slope":
        constant = np.ptp(risk) == 0
        return "the model gives every row the same risk" if constant else "the risks part the outcomes completely"
    return "not defined for these rows"
