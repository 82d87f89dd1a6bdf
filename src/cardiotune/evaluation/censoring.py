"""Metrics at a horizon when some participants were not followed so long: weights, and what a
survival library adds.

Arrays are (n,): `time_days` from baseline to the end of follow-up, above 0; `status` what ended it:
0 censored, 1 the event, 2 death from another cause; `y_prob` the risk of the event by
`horizon_days`. Whoever died of another cause before the horizon can no longer have the event, so
counts as without it: the risk that is judged is the absolute one, in the presence of other deaths.
Code such deaths as 0 to judge the risk in a world without them.

Graf et al., Stat Med 1999;18:2529. Uno et al., J Am Stat Assoc 2007;102:527. Blanche et al., Stat
Med 2013;32:5381 (with competing deaths). The weights hold if censoring has nothing to do with the
event; `strata` lets it differ between groups, such as nations whose records end on different days.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.catalogue import values
from cardiotune.evaluation.estimates import NO_INTERVAL, SAME, estimate, undefined, with_interval
from cardiotune.evaluation.intervals import bootstrap_counts, percentile_interval
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import Estimate, Times, WeightsTold
from cardiotune.evaluation.metrics import Array
from cardiotune.evaluation.survival import (
    CENSORED,
    EVENT,
    Codes,
    c_index,
    c_index_of,
    checked,
    observed_by_risk,
)

JUDGED = (
    "auroc",
    "brier",
    "calibration_intercept",
    "calibration_slope",
    "scaled_brier",
    "observed_expected",
    "ici",
)
"""What `judge_censored` judges; each takes `y_true`, `y_prob` and `weight`."""


class AtHorizon(NamedTuple):
    """The outcome at the horizon: `y_true` (n,) of 0 and 1, and `weight` (n,) or (replicates, n), 0
    where not known."""

    y_true: Array
    weight: Array


def at_horizon(
    time_days: Array,
    status: Codes,
    horizon_days: float,
    strata: Sequence[Any] | NDArray[Any] | None = None,
    counts: Array | None = None,
) -> AtHorizon:
    """Outcome by the horizon with inverse-probability-of-censoring weights, which sum to about n.

    Events by the horizon weigh 1 / G(t-), so do other deaths; those followed to the horizon 1 /
    G(horizon-); the censored
    0. G(t-) is the Kaplan-Meier estimate of not being censored before day t; a censoring on the day
       of an event counts
    as later. `counts` (replicates, n): how often a bootstrap drew each row; weights are estimated
    anew in each, and multiplied by it. DataError for a stratum where nobody was followed to the
    horizon: its future is not in the data.
    """
    time, status = checked(time_days, status)
    reached = time >= horizon_days
    status = np.where(time > horizon_days, CENSORED, status)
    time = np.minimum(time, horizon_days)
    known = (status != CENSORED) | reached
    groups = np.zeros(len(time), int) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    drawn = np.ones(len(time)) if counts is None else np.asarray(counts, float)
    weight = np.zeros(drawn.shape)
    for group in np.unique(groups):
        rows = groups == group
        if not reached[rows].any():
            raise DataError(
                f"nobody of stratum {group + 1} of {groups.max() + 1} was followed for {horizon_days:g} days, so no weight "
                "can stand for them; take a shorter horizon, no strata, or leave these participants out"
            )
        uncensored = _uncensored_before(time[rows], status[rows], drawn[..., rows])
        inverse = np.divide(drawn[..., rows], uncensored, out=np.zeros_like(uncensored), where=uncensored > 0)
        weight[..., rows] = inverse * known[rows]
    return AtHorizon((status == EVENT).astype(float), weight)


def censoring_survival(time_days: Array, status: Codes) -> Array:
    """(n,) G(t-): the estimated probability of not being censored before each participant's own
    last day."""
    time, status = checked(time_days, status)
    return _uncensored_before(time, status, np.ones(len(time)))


def _uncensored_before(time: Array, status: Codes, drawn: Array) -> Array:
    """Kaplan-Meier of censoring just before each row's day; `drawn` (..., n) says how often each
    row counts."""
    order = np.argsort(time, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(time[order]) > 0])
    day = np.empty(len(time), int)
    day[order] = np.cumsum(np.r_[0, np.diff(time[order]) > 0])

    def by_day(rows: Array) -> Array:
        return np.asarray(np.add.reduceat(rows[..., order], starts, axis=-1))

    censored, others = by_day(drawn * (status == CENSORED)), by_day(drawn * (status != CENSORED))
    still_there = np.cumsum((censored + others)[..., ::-1], axis=-1)[..., ::-1]
    at_risk = still_there - others  # who had the event that day was no longer there to be censored
    share = np.divide(censored, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
    after = np.cumprod(1 - share, axis=-1)
    before = np.concatenate([np.ones_like(after[..., :1]), after[..., :-1]], axis=-1)
    return np.asarray(before[..., day])


def describe_weights(weight: Array, n_rows: int | None) -> WeightsTold:
    """What the weights are worth. weight (rows,), 0 where the outcome is not known; `n_rows` are
    all that were at risk; None where this is not known, or not told."""
    return WeightsTold(
        n=n_rows,
        n_known=int((weight > 0).sum()),
        largest_weight=float(weight.max()),
        effective_n=float(weight.sum() ** 2 / (weight**2).sum()),
    )


# --------------------------------------------------------------------------------------------------
# metrics


def judge_censored(  # a call of the guide, whose arguments users name
    time_days: Array,
    status: Codes,
    y_prob: Array,
    horizon_days: float,
    strata: Sequence[Any] | NDArray[Any] | None = None,
    thresholds: Sequence[float] = (),
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Each of JUDGED, and `net_benefit at t` for each t of `thresholds`, with its interval; no
    value and a reason where undefined.

    Intervals are the bootstrap's, with the weights estimated anew in each replicate.
    """
    found = at_horizon(time_days, status, horizon_days, strata)
    known = found.weight > 0
    asked = [(name, name, 0.5) for name in JUDGED]
    asked += [(f"net_benefit at {threshold:g}", "net_benefit", threshold) for threshold in thresholds]

    def value(metric: str, threshold: float, weight: Array) -> Array:
        return values([metric], Judged(found.y_true, y_prob, threshold), weight)[metric]

    samples: dict[str, list[Array]] = {title: [] for title, _, _ in asked}
    for counts in bootstrap_counts(np.asarray(status == EVENT, float), replicates, seed):
        weight = at_horizon(time_days, status, horizon_days, strata, counts).weight
        for title, metric, threshold in asked:
            samples[title].append(value(metric, threshold, weight))
    return {
        title: estimate(
            metric,
            float(value(metric, threshold, found.weight)),
            np.concatenate(samples[title]),
            Judged(found.y_true[known], y_prob[known], threshold, found.weight[known]),
        )
        for title, metric, threshold in asked
    }


def judge_times(
    time_days: Array, status: Codes, y_prob: Array, horizon_days: float, resamples: Iterable[Array], tell_sizes: bool
) -> Times:
    """C-index and observed risk of one model; without them a reason, as where the survival library
    is missing.

    resamples: counts of the rows, (some replicates, n) at a time, for the interval of the C-index.
    `tell_sizes`: whether it may be told how many people are in the groups.
    """
    reason, groups = None, None
    try:
        groups = observed_by_risk(time_days, status, y_prob, horizon_days)
    except (ConfigError, DataError) as error:
        reason = str(error)
    if groups is not None and not tell_sizes:
        groups = [replace(group, n=None) for group in groups]
    return Times(_c_index(time_days, status, y_prob, horizon_days, resamples), groups, reason)


def _c_index(
    time_days: Array, status: Codes, y_prob: Array, horizon_days: float, resamples: Iterable[Array]
) -> Estimate:
    try:
        value = c_index(time_days, status, y_prob, horizon_days)
    except ConfigError as error:
        return undefined(str(error))
    if not np.isfinite(value):
        return undefined("no pair of participants whose order is known by the horizon")
    sample = np.concatenate([c_index_of(time_days, status, y_prob, horizon_days, counts) for counts in resamples])
    ci = percentile_interval(sample)
    return with_interval(value, ci, NO_INTERVAL if ci is None else SAME)


__all__ = [
    "CENSORED",
    "EVENT",
    "AtHorizon",
    "at_horizon",
    "c_index",
    "censoring_survival",
    "describe_weights",
    "judge_censored",
    "judge_times",
    "observed_by_risk",
]
