"""Calibrated risks adapted to a new site, and what that is worth there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from cardiotune.evaluation import catalogue
from cardiotune.models import calibrate
from cardiotune.models.logistic import logit

Array = NDArray[np.float64]
FOLDS = 10


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A calibrator for calibrated risks, fitted on all rows, and metrics without and with it."""

    calibrator: calibrate.Calibrator
    before: dict[str, float | None]
    """Log-loss, Brier score, calibration intercept and slope; None where undefined."""
    after: dict[str, float | None]
    """Of ten folds, each with a calibrator fitted on the others, so no row judges itself."""


def adapt(
    risks: Array, y_true: Array, method: calibrate.Update, weight: Array | None = None, seed: int = 0
) -> Recalibration:
    """Adapt risks (rows,) to the outcomes y_true (rows,) of 0 and 1. weight (rows,): how much each
    row counts, by default 1. `seed` parts the folds. DataError with too few rows of an outcome.
    """
    logits = logit(risks)
    whole = calibrate.update(logits, y_true, method, weight)
    after = np.empty_like(logits)
    folds = StratifiedKFold(int(min(FOLDS, y_true.sum(), (1 - y_true).sum())), shuffle=True, random_state=seed)
    for others, held in folds.split(logits, y_true):
        fitted = calibrate.update(logits[others], y_true[others], method, None if weight is None else weight[others])
        after[held] = calibrate.apply(fitted, logits[held])
    return Recalibration(whole, _judged(y_true, risks, weight), _judged(y_true, after, weight))


def _judged(y_true: Array, risks: Array, weight: Array | None) -> dict[str, float | None]:
    found = {name: float(np.asarray(catalogue.named(name).of(y_true, risks, weight)).item()) for name in catalogue.RAW}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}
