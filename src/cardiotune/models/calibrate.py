"""From a model's logits to probabilities that mean what they say.

A calibrator is fitted on rows that the model was not trained on and that are not the test part, and
is kept as JSON: numbers only, so that it can be read, checked and applied anywhere. It never
changes how rows are ranked (isotonic may tie some).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from cardiotune.errors import DataError, ModelError
from cardiotune.models.logistic import most_probable, sigmoid

Array = NDArray[np.float64]
Method = Literal["none", "temperature", "platt", "isotonic", "beta"]
Update = Literal["intercept", "logistic"]
SLOPE_SD = 0.2
"""Standard deviation of the normal prior on a slope, whose mean is 1: forty rows hardly move it,
thousands decide it."""
MIN_OUTCOMES = 5
"""Fewer events, or non-events, cannot calibrate anything."""
LARGEST = 1e15
"""No intercept, slope or logit of a calibrator is larger."""
NUMBERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "temperature": ("slope",),
    "platt": ("intercept", "slope"),
    "intercept": ("intercept", "slope"),
    "logistic": ("intercept", "slope"),
    "beta": ("intercept", "slope_log_p", "slope_log_1_p"),
    "isotonic": ("logits", "risks"),
}
"""Method -> the numbers that it is made of, as they stand in JSON."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """How logits become probabilities. Numbers that are not of its method are those that change
    nothing."""

    method: Method | Update = "none"
    intercept: float = 0.0
    slope: float = 1.0
    slope_log_p: float = 1.0
    """Of log p."""
    slope_log_1_p: float = 1.0
    """Of -log(1 - p)."""
    logits: tuple[float, ...] = ()
    """Isotonic: where the steps are, rising."""
    risks: tuple[float, ...] = ()
    """Isotonic: the probability at each, from 0 to 1, rising; straight lines between them."""

    def as_json(self) -> dict[str, Any]:
        """`{"method": ..., ...}` and the method's own numbers."""
        own = {name: getattr(self, name) for name in NUMBERS[self.method]}
        return {"method": self.method} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in own.items()
        }


def fit(logits: Array, y_true: Array, method: Method, weight: Array | None = None) -> Calibrator:
    """Fit on held-out rows. logits: (rows,), not yet calibrated; y_true: (rows,) of 0 and 1; weight
    (rows,): how much each row counts, by default 1.

    temperature: one slope (Guo et al., ICML 2017). platt: intercept and slope on the logit (Platt
    1999). beta: intercept and a slope each for log p and log(1 - p) (Kull et al., AISTATS 2017).
    isotonic: a monotone step function, joined by straight lines (Zadrozny & Elkan, KDD 2002); it
    wants many rows. Slopes have a prior around 1 (`SLOPE_SD`) and are at least 0. Raises DataError
    with fewer than five events or non-events.
    """
    events = int(y_true.sum())
    if method != "none" and min(events, len(y_true) - events) < MIN_OUTCOMES:
        raise DataError(
            f"calibration needs {MIN_OUTCOMES} events and {MIN_OUTCOMES} non-events in the validation part, found {events} "
            f"and {len(y_true) - events}; use more rows, or evaluation.calibration=none"
        )
    if method == "none":
        return Calibrator()
    if method == "isotonic":
        return _isotonic(logits, y_true, weight)
    if method == "temperature":
        (slope,) = _maximum_a_posteriori(logits[:, None], y_true, weight, intercept=False)
        return Calibrator(method, slope=slope)
    if method == "platt":
        intercept, slope = _maximum_a_posteriori(logits[:, None], y_true, weight)
        return Calibrator(method, intercept, slope)
    intercept, above, below = _maximum_a_posteriori(_beta_terms(logits), y_true, weight)
    return Calibrator(method, intercept, slope_log_p=above, slope_log_1_p=below)


def apply(calibrator: Calibrator, logits: Array) -> Array:
    """(rows,) calibrated probabilities of logits (rows,). Raises ModelError for a calibrator that
    is not ours, and for what is no probability, as of logits that are not finite."""
    _check(calibrator.as_json())
    if calibrator.method == "isotonic":
        return in_range(np.interp(logits, calibrator.logits, calibrator.risks))
    if calibrator.method == "beta":
        slopes = np.array([calibrator.slope_log_p, calibrator.slope_log_1_p])
        return in_range(sigmoid(calibrator.intercept + _beta_terms(logits) @ slopes))
    return in_range(sigmoid(calibrator.intercept + calibrator.slope * logits))


def from_json(content: Any, file: object = "calibration") -> Calibrator:
    """The calibrator read from `file`, if `fit` or `update` can have made it; else ModelError.

    Its numbers are finite, and no higher logit gets a lower risk: slopes are not negative, isotonic
    risks rise, from 0 to 1. Keys that are not of its method are passed over.
    """
    _check(content, file)
    own: dict[str, Any] = {name: content[name] for name in NUMBERS[content["method"]]}
    if content["method"] == "isotonic":
        own = {name: tuple(values) for name, values in own.items()}
    return Calibrator(content["method"], **own)


def _check(content: Any, file: object = "calibration") -> None:
    if fault := _fault(content):
        raise ModelError(f"{file}: not a calibrator of this program ({fault}); restore it, or make it anew")


def _fault(content: Any) -> str:
    """What is wrong with a calibrator, in words; empty when nothing is."""
    if not isinstance(content, dict):
        return "no object with a method"
    method = content.get("method")
    if method == "isotonic":
        logits: Any = content.get("logits")
        risks: Any = content.get("risks")
        if not (_are_numbers(logits) and _are_numbers(risks) and 0 < len(logits) == len(risks)):
            return "isotonic needs as many logits as risks, all of them finite numbers"
        if (np.diff(logits) < 0).any() or (np.diff(risks) < 0).any() or risks[0] < 0 or risks[-1] > 1:
            return "isotonic logits and risks must rise, the risks from 0 to 1"
        return ""
    if not isinstance(method, str) or method not in NUMBERS:
        return "an unknown method"
    numbers = [content.get(name) for name in NUMBERS[method]]
    if not _are_numbers(numbers):
        return f"{method} needs {' and '.join(NUMBERS[method])}, finite numbers"
    if any(content[name] < 0 for name in NUMBERS[method] if name.startswith("slope")):
        return "a negative slope, which would turn the model's order round"
    return ""


def _are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers; true and false are none."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return False
    return all(type(value) in (int, float) and abs(value) <= LARGEST for value in values)


def in_range(risks: Array, whose: str = "risks") -> Array:
    """The risks (rows,), if each is a number from 0 to 1; else ModelError. No risk leaves the
    program another way."""
    wrong = len(risks) - int(np.count_nonzero((risks >= 0) & (risks <= 1)))  # NaN is neither
    if wrong:
        raise ModelError(
            f"{whose}: {wrong} of {len(risks)} are not a number from 0 to 1; the model or its calibrator is damaged, nothing "
            "is given out"
        )
    return risks


def update(logits: Array, y_true: Array, method: Update, weight: Array | None = None) -> Calibrator:
    """Adapt calibrated risks to a new site. logits: (rows,) of the calibrated risks; y_true:
    (rows,) of that site; weight (rows,): how much each row counts, by default 1.

    intercept: shift only. logistic: intercept and slope. Maximum likelihood, no prior: a
    recalibration study says what its rows say. Steyerberg 2019, Clinical Prediction Models, chapter
    20. DataError with too few rows of an outcome.
    """
    events = int(y_true.sum())
    if min(events, len(y_true) - events) < MIN_OUTCOMES:
        raise DataError(
            f"recalibration needs {MIN_OUTCOMES} events and {MIN_OUTCOMES} non-events, found {events} and "
            f"{len(y_true) - events}"
        )
    if method == "intercept":
        ones = np.ones((len(logits), 1))
        (shift,) = most_probable(ones, logits, y_true, np.zeros(1), np.zeros(1), [(None, None)], weight)
        return Calibrator(method, float(shift))
    intercept, slope = _maximum_a_posteriori(logits[:, None], y_true, weight, prior=False)
    return Calibrator(method, intercept, slope)


def _beta_terms(logits: Array) -> Array:
    """(rows, 2): log p and -log(1 - p)."""
    return np.column_stack([-np.logaddexp(0, -logits), np.logaddexp(0, logits)])


def _maximum_a_posteriori(
    terms: Array, y_true: Array, weight: Array | None, intercept: bool = True, prior: bool = True
) -> tuple[float, ...]:
    """Intercept (flat prior) and one slope a term, at least 0."""
    ones = [np.ones((len(terms), 1))] if intercept else []
    precision = np.r_[[0.0] * intercept, [prior / SLOPE_SD**2] * terms.shape[1]]
    start = np.r_[[0.0] * intercept, np.ones(terms.shape[1])]
    bounds = [(None, None)] * intercept + [(0.0, None)] * terms.shape[1]
    found = most_probable(np.hstack([*ones, terms]), np.zeros(len(terms)), y_true, start, precision, bounds, weight)
    return tuple(float(value) for value in found)


def _isotonic(logits: Array, y_true: Array, weight: Array | None) -> Calibrator:
    rising = IsotonicRegression(out_of_bounds="clip").fit(logits, y_true, sample_weight=weight)
    # Off 0 and 1: a group of rows without events does not prove that there never is one.
    margin = 1 / (len(y_true) + 2)
    risks = np.clip(rising.y_thresholds_, margin, 1 - margin)
    return Calibrator("isotonic", logits=tuple(rising.X_thresholds_.tolist()), risks=tuple(risks.tolist()))
