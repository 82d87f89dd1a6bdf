"""95 % intervals: bootstrap (ordinary, stratified, of clusters), Wilson's for shares and DeLong's for the AUROC."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]

TAIL = 0.025
"""Share of the replicates below, and above, a 95 % interval."""
NORMAL_QUANTILE = 1.959963984540054
"""The standard normal distribution has a tail of 2.5 % beyond it."""
CHUNK_CELLS = 2_000_000
"""Rows times replicates that are held at a time."""


# ---------------------------------------------------------------------------------------------------------------------
# bootstrap


def bootstrap_counts(
    y_true: Array, replicates: int, seed: int, stratified: bool = False, clusters: NDArray[np.int_] | None = None
) -> Iterator[Array]:
    """Bootstrap as row counts, (some replicates, n) at a time; `stratified` draws events and non-events apart.

    `clusters` (n,): number of each row's cluster (patient), from 0 without gaps; clusters are then drawn whole, as many
    as there are, and stratified means those with an event apart from those without.
    Efron & Tibshirani 1993, chapter 6; clusters: Davison & Hinkley 1997, section 3.8. The same seed gives the same
    replicates, so models on the same rows are paired. Stratified replicates of rows all have the same prevalence, so
    intervals of what depends on it are too narrow.
    """
    draw = np.random.default_rng(seed)
    unit = np.arange(len(y_true)) if clusters is None else clusters
    units = int(unit.max()) + 1
    happened = np.bincount(unit, y_true, units) > 0
    strata = [np.flatnonzero(happened == outcome) for outcome in (False, True)] if stratified else [np.arange(units)]
    chunk = max(1, CHUNK_CELLS // max(1, len(y_true)))
    for first in range(0, replicates, chunk):
        counts = np.zeros((min(chunk, replicates - first), units))
        for replicate in counts:  # one after the other, so that the draw does not depend on the chunks
            for members in strata:
                if len(members):
                    drawn = draw.integers(len(members), size=len(members))
                    replicate[members] = np.bincount(drawn, minlength=len(members))
        yield counts if clusters is None else counts[:, unit]


def percentile_interval(values: Array) -> Interval | None:
    """Percentile interval, 95 %, wide enough whatever the undefined replicates might have been.

    values (replicates,). The undefined may lie beyond either end, so the percentiles of the others move outwards. None
    when over 2.5 % are undefined.
    """
    known = values[np.isfinite(values)]
    undefined = (len(values) - len(known)) / len(values)
    if undefined > TAIL:
        return None
    tail = (TAIL - undefined) / (1 - undefined)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------------------------------
# shares


def wilson(count: int, size: int) -> Interval:
    """Score interval of the share count / size, within 0 and 1; size at least 1. Wilson, J Am Stat Assoc 1927;22:209."""
    share, square = count / size, NORMAL_QUANTILE**2
    centre = share + square / (2 * size)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / size + square / (4 * size**2))
    low, high = ((centre + side * half) / (1 + square / size) for side in (-1, 1))
    # At either end the formula gives exactly 0 or 1, but for rounding.
    return (0.0 if count == 0 else low), (1.0 if count == size else high)


# ---------------------------------------------------------------------------------------------------------------------
# AUROC


class DeLong(NamedTuple):
    """A difference in AUROC, its interval and the two-sided p-value."""

    difference: float
    ci: Interval
    p: float


def delong_interval(y_true: Array, y_prob: Array) -> Interval | None:
    """AUROC +- 1.96 standard errors, cut at 0 and 1. DeLong et al., Biometrics 1988;44:837.

    None with fewer than two events or non-events, and when the estimated variance is 0 (outcomes parted completely, or
    constant risks): that would be an interval without width, which is no knowledge.
    """
    found = _components(y_true, y_prob)
    if found is None:
        return None
    value, variance = _mean_and_variance(*found)
    half = NORMAL_QUANTILE * math.sqrt(variance)
    return (max(0.0, value - half), min(1.0, value + half)) if variance > 0 else None


def delong_test(y_true: Array, first: Array, second: Array) -> DeLong | None:
    """AUROC of `first` minus that of `second`, two models' risks of the same rows. DeLong et al. 1988, section 3.

    None as for the interval; so it is when both rank the rows alike.
    """
    ours, theirs = _components(y_true, first), _components(y_true, second)
    if ours is None or theirs is None:
        return None
    # The variance of the difference is that of the differences, row by row: no covariance has to be taken off.
    value, variance = _mean_and_variance(ours[0] - theirs[0], ours[1] - theirs[1])
    if variance <= 0:
        return None
    error = math.sqrt(variance)
    half = NORMAL_QUANTILE * error
    return DeLong(value, (value - half, value + half), math.erfc(abs(value) / error / math.sqrt(2)))


def _components(y_true: Array, y_prob: Array) -> tuple[Array, Array] | None:
    """Structural components: of every event the share of non-events below it, of every non-event that of events above.

    From midranks in n log n: Sun & Xu, IEEE Signal Process Lett 2014;21:1389.
    """
    event = y_true == 1
    events, others = int(event.sum()), int((~event).sum())
    if min(events, others) < 2:
        return None
    ranks = _midranks(y_prob)
    below = (ranks[event] - _midranks(y_prob[event])) / others
    above = 1 - (ranks[~event] - _midranks(y_prob[~event])) / events
    return below, above


def _midranks(values: Array) -> Array:
    """Ranks from 1; the tied share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = np.cumsum(counts) - (counts - 1) / 2
    return ranks[place]


def _mean_and_variance(of_events: Array, of_others: Array) -> tuple[float, float]:
    variance = of_events.var(ddof=1) / len(of_events) + of_others.var(ddof=1) / len(of_others)
    return float(of_events.mean()), float(variance)
