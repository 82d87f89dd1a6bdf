"""The training loss and class imbalance, in one place.

Weights and oversampling act on the training part only. Together they multiply the odds that the
model learns by a known number m; `odds_multiplier` gives it and `corrected` takes it out of a logit
again, so that a probability stays one. Saerens et al., Neural Computation 2002;14:21; Elkan, IJCAI
2001, theorem 2.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.errors import DataError
from cardiotune.settings import Imbalance


def mean_log_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, rows: int) -> torch.Tensor:
    """Weighted sum of the rows' log-losses divided by `rows`, the rows of the whole optimizer step.

    logits, targets, weights: (rows of this forward pass,); targets from 0 to 1, mostly the events.
    Dividing by the step's rows, not the pass's, makes the gradient the same however the step is cut
    into passes and processes.
    """
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
    return losses / rows


@dataclass(frozen=True)
class Balance:
    """How the training part is drawn and weighted."""

    rows: NDArray[np.int_]
    """Row numbers of the training part, some of them repeated: (drawn rows,)."""
    weights: tuple[float, float]
    """Loss weight of a row without and with the event."""
    odds_multiplier: float
    """m: by how much the odds that the model learns are too high."""


def balance(events: NDArray[np.int_], imbalance: Imbalance, seed: int) -> Balance:
    """Oversample and weight the training part. events: (rows,) of 0 and 1, both present."""
    rows = np.arange(len(events))
    counts = np.bincount(events, minlength=2)
    drawn = counts.copy()
    if imbalance.oversample:
        label, wanted = _wanted(counts, imbalance)
        own = np.flatnonzero(events == label)
        whole, rest = divmod(wanted, len(own))
        extra = np.random.default_rng(seed).choice(own, rest, replace=False)
        rows = np.concatenate([np.flatnonzero(events != label), np.tile(own, whole), extra])
        drawn[label] = wanted
    if imbalance.class_weights == "balanced":
        weights = (len(rows) / (2 * drawn[0]), len(rows) / (2 * drawn[1]))
    else:
        weights = (1.0, 1.0) if imbalance.class_weights == "none" else imbalance.class_weights
    growth = (drawn[1] / counts[1]) / (drawn[0] / counts[0])
    return Balance(np.sort(rows), (float(weights[0]), float(weights[1])), float(growth * weights[1] / weights[0]))


def _wanted(counts: NDArray[np.int_], imbalance: Imbalance) -> tuple[int, int]:
    """The label that is oversampled, and how many rows of it are wanted."""
    oversample = imbalance.oversample
    assert oversample is not None
    if oversample.to_prevalence is None:
        return oversample.label, round(counts[oversample.label] * oversample.times)
    wanted = round(counts[0] * oversample.to_prevalence / (1 - oversample.to_prevalence))
    if wanted < counts[1]:
        raise DataError(
            f"imbalance.oversample.to_prevalence = {oversample.to_prevalence}: the training part already has a higher "
            f"one ({counts[1] / counts.sum():.2f}); oversampling only adds rows"
        )
    return 1, wanted


def corrected(logits: NDArray[np.float64], odds_multiplier: float) -> NDArray[np.float64]:
    """Logits without what weights and oversampling added: log m is taken off."""
    return np.asarray(logits - np.log(odds_multiplier))
