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

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.small_counts import FEW
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.estimates import NO_INTERVAL, SAME, Judged, estimate, undefined, with_interval
from cardiotune.evaluation.intervals import NORMAL_QUANTILE, around, bootstrap_counts, percentile_interval
from cardiotune.evaluation.metrics import Array

Codes = NDArray[np.int_]
CENSORED, EVENT, COMPETING = 0, 1, 2
REPLICATES = 200
"""The most bootstrap replicates behind the interval of a C-index."""
PAIR_CELLS = 20_000_000
"""Pairs that are compared at a time."""
METRICS = {
    name: metric
    for name, metric in (metrics.RANKED | metrics.PROBABILITY | metrics.OVERALL | metrics.CURVE).items()
    if name
    in ("auroc", "brier", "scaled_brier", "calibration_intercept", "calibration_slope", "observed_expected", "ici")
}
"""What is judged with weights; each takes `y_true`, `y_prob` and `weight`."""


class Followed(NamedTuple):
    """One participant's days from baseline to the end of follow-up, above 0, and what ended it: 0,
    1 or 2 as above."""

    time_days: float
    status: int


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
    time, status = _checked(time_days, status)
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
    time, status = _checked(time_days, status)
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


def _checked(time_days: Array, status: Codes) -> tuple[Array, Codes]:
    time, codes = np.asarray(time_days, float), np.asarray(status)
    if not (time > 0).all():
        raise DataError(
            f"follow-up: {int((~(time > 0)).sum())} rows have no time above 0; exclude them from the cohort"
        )
    strange = int((~np.isin(codes, (CENSORED, EVENT, COMPETING))).sum())
    if strange:
        raise DataError(
            f"follow-up: {strange} rows have a status other than 0 censored, 1 event, 2 death from another cause"
        )
    return time, codes.astype(int)


def describe_weights(weight: Array, n_rows: int | None) -> dict[str, float | None]:
    """Rows whose outcome is known, the largest weight, and how many equally weighted rows these are
    worth (Kish).

    weight (rows,), 0 where the outcome is not known; `n_rows` are all that were at risk; None where
    this is not known, or not told.
    """
    return {
        "n": n_rows,
        "n_known": int((weight > 0).sum()),
        "largest_weight": float(weight.max()),
        "effective_n": float(weight.sum() ** 2 / (weight**2).sum()),
    }


# --------------------------------------------------------------------------------------------------
# metrics


def judge_censored(
    time_days: Array,
    status: Codes,
    y_prob: Array,
    horizon_days: float,
    strata: Sequence[Any] | NDArray[Any] | None = None,
    thresholds: Sequence[float] = (),
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """METRICS and the net benefit at `thresholds`, each `{"value", "ci"}`; null with a reason where
    undefined.

    Intervals are the bootstrap's, with the weights estimated anew in each replicate.
    """
    found = at_horizon(time_days, status, horizon_days, strata)
    samples: dict[str, list[Array]] = {}
    for weight in _resampled(time_days, status, horizon_days, strata, replicates, seed):
        for name, values in _values(found.y_true, y_prob, weight, thresholds).items():
            samples.setdefault(name, []).append(np.atleast_1d(values))
    known = found.weight > 0
    return {
        name: estimate(
            name.partition(" ")[0],
            float(np.squeeze(value)),
            np.concatenate(samples[name]),
            Judged(
                found.y_true[known],
                y_prob[known],
                float(name.rpartition(" ")[2]) if " at " in name else 0.5,
                found.weight[known],
            ),
        )
        for name, value in _values(found.y_true, y_prob, found.weight, thresholds).items()
    }


def _resampled(
    time_days: Array, status: Codes, horizon_days: float, strata: Any, replicates: int, seed: int
) -> Iterator[Array]:
    """Weights (some replicates, n) at a time."""
    for counts in bootstrap_counts(np.asarray(status == EVENT, float), replicates, seed):
        yield at_horizon(time_days, status, horizon_days, strata, counts).weight


def _values(y_true: Array, y_prob: Array, weight: Array, thresholds: Sequence[float]) -> dict[str, Array]:
    values = {name: metric(y_true, y_prob, weight) for name, metric in METRICS.items()}
    worth = {f"net_benefit at {t:g}": metrics.net_benefit(y_true, y_prob, weight, threshold=t) for t in thresholds}
    return values | worth


# --------------------------------------------------------------------------------------------------
# with the survival library


def c_index(time_days: Array, status: Codes, y_prob: Array, horizon_days: float) -> float:
    """Harrell's C, 0 to 1: of pairs whose order is known by the horizon, the share where the higher
    risk comes first.

    Harrell et al., JAMA 1982;247:2543, by lifelines. Other deaths count as censored on their day.
    It depends on how follow-up ended, unlike the weighted AUROC. NaN when no pair can be ordered.
    """
    time, status = _checked(time_days, status)
    happened = (status == EVENT) & (time <= horizon_days)
    concordance = _lifelines("utils").concordance_index
    try:
        return float(concordance(np.minimum(time, horizon_days), -np.asarray(y_prob), happened))
    except ZeroDivisionError:
        return float("nan")


def c_index_entry(
    time_days: Array, status: Codes, y_prob: Array, horizon_days: float, resamples: Iterable[Array]
) -> dict[str, Any]:
    """The C-index as `{"value", "ci"}`; null with a reason where it is undefined or the survival
    library is missing.

    resamples: counts of the rows, (some replicates, n) at a time, for the percentile interval.
    """
    try:
        value = c_index(time_days, status, y_prob, horizon_days)
    except ConfigError as error:
        return undefined(str(error))
    if not np.isfinite(value):
        return undefined("no pair of participants whose order is known by the horizon")
    sample = np.concatenate([_c_of(time_days, status, y_prob, horizon_days, counts) for counts in resamples])
    ci = percentile_interval(sample)
    return with_interval(value, ci, NO_INTERVAL if ci is None else SAME)


def _c_of(time_days: Array, status: Codes, y_prob: Array, horizon_days: float, counts: Array) -> Array:
    """(replicates,) `c_index` of rows that count `counts` (replicates, n) times, all replicates by
    one matrix product.

    The library takes one sample at a time, which is minutes for a thousand of a large cohort.
    """
    happened = np.flatnonzero((status == EVENT) & (time_days <= horizon_days))
    others = counts.T.astype(np.float32)
    pairs, concordant = np.zeros(len(counts)), np.zeros(len(counts))
    for some in np.array_split(happened, max(1, len(happened) * len(time_days) // PAIR_CELLS)):
        when, risk = time_days[some, None], y_prob[some, None]
        later = (time_days > when) | ((time_days == when) & (status != EVENT))
        ours = later * ((risk > y_prob) + 0.5 * (risk == y_prob))
        drawn = counts[:, some]
        pairs += (drawn * (later.astype(np.float32) @ others).T).sum(1)
        concordant += (drawn * (ours.astype(np.float32) @ others).T).sum(1)
    return np.asarray(np.divide(concordant, pairs, out=np.full(len(counts), np.nan), where=pairs > 0))


def observed_entry(time_days: Array, status: Codes, y_prob: Array, horizon_days: float) -> dict[str, Any]:
    """`{"groups": observed_by_risk}`; null with a reason with too few events or without the
    survival library."""
    try:
        return {"groups": observed_by_risk(time_days, status, y_prob, horizon_days)}
    except (ConfigError, DataError) as error:
        return {"groups": None, "reason": str(error)}


def observed_by_risk(
    time_days: Array, status: Codes, y_prob: Array, horizon_days: float, groups: int = 10
) -> list[dict[str, float | int | None]]:
    """Mean risk and observed risk in groups of rising risk: `{"n", "n_events", "risk", "observed",
    "ci"}` each.

    Observed is 1 - Kaplan-Meier at the horizon with its log-log interval (lifelines), or the
    Aalen-Johansen cumulative incidence with a normal one (statsmodels) when there are deaths from
    other causes. There are fewer than `groups` groups where one would have fewer than ten events,
    or others: no small count may be told.
    """
    time, status = _checked(time_days, status)
    status, time = np.where(time > horizon_days, CENSORED, status), np.minimum(time, horizon_days)
    group = _risk_groups(np.asarray(y_prob, float), status == EVENT, groups)
    return [
        {
            "n": int(rows.sum()),
            "n_events": int((status[rows] == EVENT).sum()),
            "risk": float(np.mean(y_prob[rows])),
            **_observed(time[rows], status[rows], horizon_days),
        }
        for rows in (group == number for number in range(group.max() + 1))
    ]


def _risk_groups(y_prob: Array, happened: NDArray[np.bool_], most: int) -> Codes:
    """Number of each row's group by quantiles of the risk, from 0; as many groups as have enough
    events and others."""
    if min(happened.sum(), (~happened).sum()) < FEW:
        raise DataError(f"calibration by risk needs {FEW} events and {FEW} others, found {int(happened.sum())} events")
    for groups in range(most, 1, -1):
        edges = np.unique(np.quantile(y_prob, np.linspace(0, 1, groups + 1)[1:-1]))
        _, group = np.unique(np.searchsorted(edges, y_prob, side="right"), return_inverse=True)
        if min(np.bincount(group, happened).min(), np.bincount(group, ~happened).min()) >= FEW:
            return np.asarray(group)
    return np.zeros(len(y_prob), int)


def _observed(time: Array, status: Codes, horizon_days: float) -> dict[str, Any]:
    if (status == COMPETING).any():
        from statsmodels.duration.survfunc import CumIncidenceRight

        curve = CumIncidenceRight(time, status)
        share, error = curve.cinc[0][-1], curve.cinc_se[0][-1]
        half = NORMAL_QUANTILE * error
        return _share_entry(float(share), float(max(0, share - half)), float(min(1, share + half)))
    fitted = _lifelines().KaplanMeierFitter().fit(time, status == EVENT)
    low, high = fitted.confidence_interval_survival_function_.to_numpy()[-1]
    return _share_entry(float(1 - fitted.predict(horizon_days)), float(1 - high), float(1 - low))


def _share_entry(share: float, low: float, high: float) -> dict[str, Any]:
    """Null in the place of an interval without width, or of none, as where all have had the
    event."""
    ci = around(share, (low, high)) if np.isfinite([low, high]).all() else None
    return {"observed": share, "ci": ci and list(ci)}


def _lifelines(module: str = "") -> Any:
    """The survival library, which is an extra."""
    import importlib

    try:
        return importlib.import_module("lifelines" + (f".{module}" if module else ""))
    except ImportError:
        raise ConfigError("lifelines is not installed; get it with: pip install 'cardiotune[survival]'") from None
