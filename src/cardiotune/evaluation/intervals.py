"""95 % intervals: bootstrap (ordinary, stratified, of clusters), Wilson's for shares and DeLong's
for the AUROC.

An interval without width is no knowledge: where a bootstrap shows no variation, as at a sensitivity
of 1, there is either a formula that gives an interval (of a share, a ratio of two shares, an AUROC)
or none.
"""

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
MOST_CELLS = 50_000_000
"""Rows times replicates of one bootstrap, at most, as long as FEWEST_REPLICATES are left."""
FEWEST_REPLICATES = 200
ROUNDING = 1e-9
"""An interval that is narrower than this share of its larger end has no width but that of
rounding."""
SMALLEST = 1e-12
"""Nor has one that is narrower than this."""


# --------------------------------------------------------------------------------------------------
# bootstrap


def bootstrap_counts(
    y_true: Array, replicates: int, seed: int, stratified: bool = False, clusters: NDArray[np.int_] | None = None
) -> Iterator[Array]:
    """Bootstrap as row counts, (some replicates, n) at a time; `stratified` draws events and
    non-events apart.

    `clusters` (n,): number of each row's cluster (patient), from 0 without gaps; clusters are then
    drawn whole, as many as there are, and stratified means those with an event apart from those
    without. Efron & Tibshirani 1993, chapter 6; clusters: Davison & Hinkley 1997, section 3.8. The
    same seed gives the same replicates, so models on the same rows are paired. Stratified
    replicates of rows all have the same prevalence, so intervals of what depends on it are too
    narrow.
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


def affordable(replicates: int, rows: int) -> int:
    """As many of the `replicates` as can be afforded: all 1,000 up to 50,000 rows, at least
    FEWEST_REPLICATES."""
    return min(replicates, max(FEWEST_REPLICATES, MOST_CELLS // max(1, rows)))


def percentile_interval(values: Array) -> Interval | None:
    """Percentile interval, 95 %, wide enough whatever the undefined replicates might have been.

    values (replicates,). The undefined may lie beyond either end, so the percentiles of the others
    move outwards. None when over 2.5 % are undefined.
    """
    known = values[np.isfinite(values)]
    undefined = (len(values) - len(known)) / len(values)
    if undefined > TAIL:
        return None
    tail = (TAIL - undefined) / (1 - undefined)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def symmetric_interval(value: float, values: Array) -> Interval | None:
    """Estimate plus and minus its larger distance to a percentile of the bootstrap, of what lies
    from 0 to 1.

    For a distance, such as the ICI, that chance makes larger and never smaller: its replicates lie
    above the estimate as that lies above the truth, so that their percentiles are too high, often
    all above the estimate itself, and never reach
    0. `value` is the estimate, values (replicates,). None as `percentile_interval`.
    """
    found = percentile_interval(values)
    if found is None:
        return None
    distance = max(abs(end - value) for end in found)
    return max(0.0, value - distance), min(1.0, value + distance)


def around(value: float, ci: Interval) -> Interval | None:
    """The interval, widened to hold the estimate where the bootstrap's bias leaves it out; None
    without any width."""
    low, high = min(ci[0], value), max(ci[1], value)
    return (low, high) if high - low > max(SMALLEST, ROUNDING * max(abs(low), abs(high))) else None


def worth(
    weight: Array | None = None, clusters: NDArray[np.int_] | None = None, rows: NDArray[np.bool_] | None = None
) -> float:
    """How many independent rows of equal weight these are worth: Kish 1965, Survey Sampling,
    section 11.7.

    weight (n,), clusters (n,) numbers, rows (n,) those that are counted; at least one of them is
    given. What rows of one cluster add to each other is not known, so they count as one.
    """
    size = len(next(given for given in (weight, clusters, rows) if given is not None))
    total: Array = np.ones(size) if weight is None else weight
    if rows is not None:
        total = total[rows]
        clusters = None if clusters is None else clusters[rows]
    if clusters is not None:
        total = np.asarray(np.bincount(np.unique(clusters, return_inverse=True)[1], total), float)
    square = (total**2).sum()
    return float(total.sum() ** 2 / square) if square else 0.0


# --------------------------------------------------------------------------------------------------
# shares


def wilson(count: float, size: float) -> Interval:
    """Score interval of the share count / size, within 0 and 1; size at least 1. Wilson, J Am Stat
    Assoc 1927;22:209."""
    share, square = count / size, NORMAL_QUANTILE**2
    centre = share + square / (2 * size)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / size + square / (4 * size**2))
    low, high = ((centre + side * half) / (1 + square / size) for side in (-1, 1))
    # At either end the formula gives exactly 0 or 1, but for rounding.
    return (0.0 if count == 0 else low), (1.0 if count == size else high)


def ratio_interval(above: tuple[float, float], below: tuple[float, float]) -> Interval:
    """Interval of the ratio of two independent shares, `(share, size)` each, that of the second
    above 0.

    From Wilson's interval of each: Newcombe, Stat Methods Med Res 2016;25:1774 (MOVER-R).
    """
    (p, n), (q, m) = above, below
    (p_low, p_high), (q_low, q_high) = wilson(p * n, n), wilson(q * m, m)
    product = p * q

    def bound(side: int, near: float, far: float) -> float:
        square = product**2 - near * far * (2 * p - near) * (2 * q - far)
        return (product + side * math.sqrt(max(0.0, square))) / (far * (2 * q - far))

    return max(0.0, bound(-1, p_low, q_high)), bound(1, p_high, q_low)


# --------------------------------------------------------------------------------------------------
# AUROC


class DeLong(NamedTuple):
    """A difference in AUROC, its interval and the two-sided p-value."""

    difference: float
    ci: Interval
    p: float


def auroc_interval(value: float, events: float, others: float) -> Interval:
    """Score interval of an AUROC of 0 to 1 from its value and the numbers of events and others; of
    use at 0 and 1.

    Newcombe, Stat Med 2006;25:559, method 5: the values that lie within 1.96 of their own standard
    errors, which are Hanley & McNeil's with the mean of the two numbers for each.
    """
    mean = (events + others) / 2 - 1

    def near(area: float) -> bool:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        variance = area * (1 - area) * spread / (events * others)
        return (value - area) ** 2 <= NORMAL_QUANTILE**2 * variance

    def last(end: float) -> float:
        inside, outside = value, end
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if near(middle) else (inside, middle)
        return inside

    # At either end the standard error is 0: the search from there finds nothing but the end itself.
    return (0.0 if value == 0 else last(0.0)), (1.0 if value == 1 else last(1.0))


def delong_interval(y_true: Array, y_prob: Array) -> Interval | None:
    """AUROC +- 1.96 standard errors, cut at 0 and 1. DeLong et al., Biometrics 1988;44:837.

    None with fewer than two events or non-events, and when the estimated variance is 0 (outcomes
    parted completely, or constant risks): that would be an interval without width, which is no
    knowledge.
    """
    found = _components(y_true, y_prob)
    if found is None:
        return None
    value, variance = _mean_and_variance(*found)
    half = NORMAL_QUANTILE * math.sqrt(variance)
    return (max(0.0, value - half), min(1.0, value + half)) if variance > 0 else None


def delong_test(y_true: Array, first: Array, second: Array) -> DeLong | None:
    """AUROC of `first` minus that of `second`, two models' risks of the same rows. DeLong et al.
    1988, section 3.

    None as for the interval; so it is when both rank the rows alike.
    """
    ours, theirs = _components(y_true, first), _components(y_true, second)
    if ours is None or theirs is None:
        return None
    # The variance of the difference is that of the differences, row by row: no covariance has to be
    # taken off.
    value, variance = _mean_and_variance(ours[0] - theirs[0], ours[1] - theirs[1])
    if variance <= 0:
        return None
    error = math.sqrt(variance)
    half = NORMAL_QUANTILE * error
    return DeLong(value, (value - half, value + half), math.erfc(abs(value) / error / math.sqrt(2)))


def _components(y_true: Array, y_prob: Array) -> tuple[Array, Array] | None:
    """Structural components: of every event the share of non-events below it, of every non-event
    that of events above.

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
