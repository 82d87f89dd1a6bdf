"""Cross-validated rows: how much wider an interval is for the fits and the draws of folds behind
it, and how steady a patient's risk is.

The bootstrap of patients takes the models as given. That is the variance of a cross-validated mean
about the mean performance of its own models (Bayle et al., NeurIPS 2020; of the AUROC: LeDell,
Petersen & van der Laan, Electron J Stat 2015;9:1583). Two things are added to it: rows of one fold
share a fit, which the delete-a-group jackknife with folds as groups shows (Kott, J Off Stat
2001;17:521), and folds might have been drawn otherwise, which repeats show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.small_counts import FEW, is_small
from cardiotune.evaluation.catalogue import Range
from cardiotune.evaluation.estimates import with_interval
from cardiotune.evaluation.judgement import Band, Estimate, Stability
from cardiotune.evaluation.metrics import Array

MOST_BANDS = 20
"""Bands of rising risk in an instability plot."""
BAND_ROWS = 30
"""Patients of one band at least."""
BAND = (0.025, 0.975)
"""Percentiles between which a band lies (Riley & Collins 2023)."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """One model's risks of all rows in one repeat, each by the fit that never saw the row; (rows,)
    each."""

    risk: Array
    fold: NDArray[np.int_]
    flags: Sequence[Array | None] = field(default_factory=tuple)
    """By the place of a described threshold: 1 where the risk reaches that of the row's fold, else
    0; None where the threshold is one for all folds."""

    def without(self) -> Array:
        """(folds, rows) weights that leave out one fold each."""
        return np.stack([self.fold != number for number in np.unique(self.fold)]).astype(float)


@dataclass(frozen=True, slots=True)
class Spread:
    """What one quantity is in each repeat, (repeats, ...), and in each without one of its folds,
    (repeats, folds, ...)."""

    each: Array
    without: Array

    def __sub__(self, other: "Spread") -> "Spread":
        """Of a difference, over the repeats that both have."""
        shared = min(len(self.each), len(other.each))
        return Spread(self.each[:shared] - other.each[:shared], self.without[:shared] - other.without[:shared])

    def widening(self, sample: Array) -> Array:
        """How many times wider than the bootstrap's `sample` (replicates, ...) the interval is; 1
        or more, 1 where the variances are not defined.

        Square root of the larger of the variances over patients and over folds, plus that between
        repeats over their number; by the first.
        """
        number, folds = self.without.shape[:2]
        with np.errstate(all="ignore"):
            over_patients = _variance(sample)
            centred = self.without - self.without.mean(axis=1, keepdims=True)
            over_folds = ((folds - 1) / folds * (centred**2).sum(axis=1)).mean(axis=0)
            between = self.each.var(axis=0, ddof=1) / number if number > 1 else 0.0
            total = np.fmax(over_patients, over_folds) + np.nan_to_num(between)
            factor = np.sqrt(total / over_patients)
        return np.where(np.isfinite(factor), np.maximum(factor, 1.0), 1.0)


def _variance(sample: Array) -> Array:
    """Of the replicates (replicates, ...) that are defined."""
    known = np.isfinite(sample)
    number = known.sum(axis=0)
    mean = np.where(known, sample, 0).sum(axis=0) / number
    return np.asarray(np.where(known, (sample - mean) ** 2, 0).sum(axis=0) / (number - 1))


def wider(entry: Estimate, factor: float, within: Range) -> Estimate:
    """The estimate with an interval so many times as wide to either side, cut at the ends of its
    range."""
    if entry.value is None or entry.ci is None or factor == 1:
        return entry
    low, high = (entry.value + factor * (end - entry.value) for end in entry.ci)
    low = low if within.low is None else max(low, within.low)
    high = high if within.high is None else min(high, within.high)
    held = with_interval(entry.value, (low, high))
    return replace(entry, ci=held.ci)


def stability(repeats: Sequence[Repeat], threshold: float) -> Stability | None:
    """How the risks of the same patients differ between repeats; None of fewer than two. Riley &
    Collins, Biom J 2023;65:2200302, with refits on other folds in the place of bootstrap models."""
    if len(repeats) < 2:
        return None
    risks = np.stack([repeat.risk for repeat in repeats])
    flagged = risks >= threshold
    moved = int((flagged.any(axis=0) & ~flagged.all(axis=0)).sum())
    others = np.abs(risks[1:] - risks[0])
    rows = risks.shape[1]
    small = is_small(moved) or is_small(rows - moved)
    return Stability(
        repeats=len(repeats),
        threshold=threshold,
        changed=None if small else moved / rows,
        mean_change=float(others.mean()),
        p95_change=float(np.quantile(others.max(axis=0), 0.95)),
        bands=_bands(risks),
    )


def _bands(risks: Array) -> list[Band]:
    """By rising risk in the first repeat: where the risks of the same patients lie in the
    others."""
    rows = risks.shape[1]
    order = np.argsort(risks[0], kind="stable")
    number = min(MOST_BANDS, rows // max(BAND_ROWS, FEW))
    bands = []
    for places in np.array_split(order, number) if number else ():
        low, middle, high = np.quantile(risks[1:, places], [BAND[0], 0.5, BAND[1]])
        bands.append(Band(float(risks[0, places].mean()), float(low), float(middle), float(high)))
    return bands
