"""Follow-up of every participant: when it ended and why, what the label is, and who leaves the
cohort for which reason.

Day 0 is the baseline visit. Follow-up ends on the first of: the disease, death, loss to follow-up,
the last day of the nation's hospital records, the horizon. What comes after is not known, so it
does not count: no hospital code after a loss, no death after the records of Wales have ended.
"""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.config import read_yaml
from cardiotune.errors import ConfigError
from cardiotune.settings import UkbConfig, suggest

DAYS_A_YEAR = 365.25
CENSORED, EVENT, DIED = 0, 1, 2
Array = NDArray[np.float64]

LABEL, TIME, STATUS, WEIGHT, LEFT = "label", "time", "status", "weight", "left"
TOLD = "had the disease at baseline: told at the visit"
BEFORE = "had the disease at baseline: record before the day of the visit"
THAT_DAY = "had the disease at baseline: record on the day of the visit"
UNDATED = "record of the disease without a date"
NO_VISIT = "no date of the baseline visit"
NO_NATION = "no assessment centre that says the nation, so no end of its records"
NOT_FOLLOWED = "no follow-up after the baseline visit"
RECORDS_END = "hospital records of the nation end before the horizon (cases too)"
NOBODY = "nobody of the nation was followed to the horizon (cases too)"
LOST = "not followed to the horizon: lost to follow-up or records end"
STEPS = (NO_VISIT, NO_NATION, TOLD, BEFORE, THAT_DAY, UNDATED, NOT_FOLLOWED, RECORDS_END, NOBODY, LOST)
"""Reasons to leave, in order; a participant leaves for the first that applies."""


def horizon_days(settings: UkbConfig) -> int:
    """Whole days of the horizon: 3652 for ten years."""
    return int(settings.horizon_years * DAYS_A_YEAR)


def censoring_dates(settings: UkbConfig) -> dict[str, date]:
    """Last day of hospital records, by nation."""
    if settings.censoring_dates:
        return dict(settings.censoring_dates)
    known = read_yaml(Path(__file__).with_name("freezes.yaml"))
    if settings.freeze not in known:
        raise ConfigError(
            f"data.ukb.freeze: {settings.freeze} is not known; {suggest(settings.freeze, known)}, or give the dates of "
            "your release in data.ukb.censoring_dates"
        )
    return {nation: pl.Series([day]).str.to_date("%Y-%m-%d")[0] for nation, day in known[settings.freeze].items()}


def follow(people: pl.DataFrame, settings: UkbConfig) -> pl.DataFrame:
    """(rows, 5): `label` (1, 0, null: not known), `time` (days), `status`, `weight`, `left` (one of
    STEPS, or null).

    people: `visit`, `nation`, `disease`, `undated`, `told`, `death`, `lost`, `gone`; dates, but for
    the nation, the flags, and the reason of those who are no part of the cohort, which comes before
    all others.

    A record on the day of the visit makes a prevalent case: what happened in the morning may be why
    the afternoon's measurements are what they are. What was told at the visit is prevalent whatever
    year it bears, for it was told then.
    """
    days = horizon_days(settings)
    until = pl.col("nation").replace_strict(censoring_dates(settings), default=None, return_dtype=pl.Date)
    dates = {"disease": pl.col("disease"), "death": pl.col("death"), "lost": pl.col("lost"), "records": until}
    since = {name: (date - pl.col("visit")).dt.total_days() for name, date in dates.items()}
    frame = people.select("visit", "nation", "told", "undated", "gone", **since)
    frame = frame.with_columns(free=pl.min_horizontal("lost", "records", pl.lit(days)))
    event = (pl.col("disease") <= pl.min_horizontal("death", "free")).fill_null(False)
    died = ~event & (pl.col("death") <= pl.col("free")).fill_null(False)
    frame = frame.with_columns(
        status=pl.when(event).then(EVENT).when(died).then(DIED).otherwise(CENSORED),
        time=pl.when(event).then("disease").when(died).then("death").otherwise("free"),
    )
    if settings.other_deaths == "censored":
        frame = frame.with_columns(status=pl.col("status").replace({DIED: CENSORED}))
    no_event = (pl.col("status") == DIED) | (pl.col("time") >= days)
    label = pl.when(pl.col("status") == EVENT).then(1).when(no_event).then(0)
    frame = frame.with_columns(label=label, left=pl.coalesce("gone", _why_left()))
    return _handle_censored(frame, settings, days).select(LABEL, TIME, STATUS, WEIGHT, LEFT)


def _why_left() -> pl.Expr:
    """The first of the reasons that have nothing to do with how censoring is handled."""
    reasons = {
        NO_VISIT: pl.col("visit").is_null(),
        NO_NATION: pl.col("nation").is_null(),
        TOLD: pl.col("told"),
        BEFORE: pl.col("disease") < 0,
        THAT_DAY: pl.col("disease") == 0,
        UNDATED: pl.col("undated"),
        NOT_FOLLOWED: pl.col("time") <= 0,
    }
    return pl.coalesce(pl.when(holds.fill_null(False)).then(pl.lit(reason)) for reason, holds in reasons.items())


def _handle_censored(frame: pl.DataFrame, settings: UkbConfig, days: int) -> pl.DataFrame:
    """Adds weights, and the reasons of those whose outcome is not known.

    The end of a nation's records is known for everybody in advance, so cases leave with the rest:
    without them, a nation whose records end early would have cases alone. Weights are the inverse
    chance of not being censored before one's own end, within the nation; all who are at risk at
    baseline tell it, whatever part they fall in, for it is read from dates of loss and of releases
    and from no predictor.
    """
    nation = pl.col("nation")
    if settings.censored == "exclude":
        frame = _leave(frame, RECORDS_END, pl.col("records") < days).with_columns(weight=pl.lit(1.0))
    else:
        stay = pl.col("left").is_null()
        reached = (stay & (pl.col("time") >= days)).any().over(nation)
        frame = _leave(frame, NOBODY, ~reached)
        weights = np.zeros(frame.height)
        for name in frame["nation"].drop_nulls().unique():
            rows = frame.select((pl.col("left").is_null() & (nation == name)).fill_null(False)).to_series().to_numpy()
            time = frame["time"].to_numpy()[rows].astype(float)
            known = frame["label"].is_not_null().to_numpy()[rows]
            weights[rows] = known / uncensored_before(time, ~known)
        frame = frame.with_columns(weight=pl.Series(weights))
    return _leave(frame, LOST, pl.col("label").is_null())


def _leave(frame: pl.DataFrame, reason: str, holds: pl.Expr) -> pl.DataFrame:
    new = pl.col("left").is_null() & holds.fill_null(False)
    return frame.with_columns(left=pl.when(new).then(pl.lit(reason)).otherwise("left"))


def uncensored_before(time_days: Array, censored: NDArray[np.bool_]) -> Array:
    """(n,) Kaplan-Meier chance of not being censored before each participant's own last day, 0 to
    1.

    A censoring on the day of an event counts as later. Graf et al. 1999, Stat Med 18:2529.
    """
    days, place = np.unique(time_days, return_inverse=True)
    lost = np.bincount(place, censored, len(days))
    others = np.bincount(place, ~censored, len(days))
    there = np.cumsum((lost + others)[::-1])[::-1]
    at_risk = there - others
    share = np.divide(lost, at_risk, out=np.zeros(len(days)), where=at_risk > 0)
    before = np.concatenate([[1.0], np.cumprod(1 - share)[:-1]])
    return np.asarray(before[place])
