"""What needs times to the event, and mostly the survival library: the C-index, and the observed
risk at a horizon.

Arrays are (n,), as in `cardiotune.evaluation.censoring`. lifelines is an extra; ConfigError says so
where it is missing.
"""

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from statsmodels.duration.survfunc import CumIncidenceRight

from cardiotune.data.small_counts import FEW
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.intervals import NORMAL_QUANTILE, Interval, around
from cardiotune.evaluation.judgement import RiskGroup
from cardiotune.evaluation.metrics import Array

Codes = NDArray[np.int_]
CENSORED, EVENT, COMPETING = 0, 1, 2
PAIR_CELLS = 20_000_000
"""Pairs that are compared at a time."""


class Followed(NamedTuple):
    """One participant's days from baseline to the end of follow-up, above 0, and what ended it: 0,
    1 or 2 as above."""

    time_days: float
    status: int


def checked(time_days: Array, status: Codes) -> tuple[Array, Codes]:
    """Times and statuses as numbers; DataError for a time that is not above 0, or another
    status."""
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


def c_index(time_days: Array, status: Codes, y_prob: Array, horizon_days: float) -> float:
    """Harrell's C, 0 to 1: of pairs whose order is known by the horizon, the share where the higher
    risk comes first.

    Harrell et al., JAMA 1982;247:2543, by lifelines. Other deaths count as censored on their day.
    It depends on how follow-up ended, unlike the weighted AUROC. NaN when no pair can be ordered.
    """
    time, status = checked(time_days, status)
    happened = (status == EVENT) & (time <= horizon_days)
    concordance = _lifelines("utils").concordance_index
    try:
        return float(concordance(np.minimum(time, horizon_days), -np.asarray(y_prob), happened))
    except ZeroDivisionError:
        return float("nan")


def c_index_of(time_days: Array, status: Codes, y_prob: Array, horizon_days: float, counts: Array) -> Array:
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


def observed_by_risk(
    time_days: Array, status: Codes, y_prob: Array, horizon_days: float, groups: int = 10
) -> list[RiskGroup]:
    """Mean risk and observed risk in groups of rising risk.

    Observed is 1 - Kaplan-Meier at the horizon with its log-log interval (lifelines), or the
    Aalen-Johansen cumulative incidence with a normal one (statsmodels) when there are deaths from
    other causes. There are fewer than `groups` groups where one would have fewer than ten events,
    or others: no small count may be told.
    """
    time, status = checked(time_days, status)
    status, time = np.where(time > horizon_days, CENSORED, status), np.minimum(time, horizon_days)
    group = _risk_groups(np.asarray(y_prob, float), status == EVENT, groups)
    found = []
    for rows in (group == number for number in range(group.max() + 1)):
        share, ci = _observed(time[rows], status[rows], horizon_days)
        events = int((status[rows] == EVENT).sum())
        found.append(RiskGroup(int(rows.sum()), events, float(np.mean(y_prob[rows])), share, ci))
    return found


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


def _observed(time: Array, status: Codes, horizon_days: float) -> tuple[float, Interval | None]:
    """Share of events by the horizon; no interval where it would have no width, or where there is
    none, as where all have had the event."""
    if (status == COMPETING).any():
        curve = CumIncidenceRight(time, status)
        share, half = float(curve.cinc[0][-1]), NORMAL_QUANTILE * curve.cinc_se[0][-1]
        low, high = float(max(0, share - half)), float(min(1, share + half))
    else:
        fitted = _lifelines().KaplanMeierFitter().fit(time, status == EVENT)
        below, above = fitted.confidence_interval_survival_function_.to_numpy()[-1]
        share, low, high = float(1 - fitted.predict(horizon_days)), float(1 - above), float(1 - below)
    return share, around(share, (low, high)) if np.isfinite([low, high]).all() else None


def _lifelines(module: str = "") -> Any:
    """The survival library, which is an extra."""
    try:
        return importlib.import_module("lifelines" + (f".{module}" if module else ""))
    except ImportError:
        raise ConfigError("lifelines is not installed; get it with: pip install 'cardiotune[survival]'") from None
