"""A number of `metrics.json` with its interval, or null with a reason. No interval is without
width."""

import numpy as np

from cardiotune.evaluation import formulas
from cardiotune.evaluation.catalogue import METRICS, Kind, named
from cardiotune.evaluation.formulas import ONE_CLUSTER, SAME_RISK
from cardiotune.evaluation.intervals import Interval, around, percentile_interval, symmetric_interval, wilson
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import Estimate
from cardiotune.evaluation.metrics import Array

NO_INTERVAL = "undefined in more than 2.5 % of the bootstrap replicates, so no interval"
SAME = "the same in every bootstrap replicate, so no interval"
ALIKE = "the two models are the same in every bootstrap replicate, so no interval"
NO_PROBABILITY = "answers in words carry no probability"
"""The model whose answers are parsed: its 1 and 0 are no probabilities, and any other number stands
for no answer."""
*_MOST, _LAST = (metric.words for metric in METRICS if metric.symmetric)
EXCEPTIONS = (
    f"Wilson for shares of independent rows; for {', '.join(_MOST)} and {_LAST}, whose replicates are biased upwards, the "
    "estimate plus and minus its larger distance to a percentile; by formula where no replicate differs"
)
"""Which intervals are not percentiles of the bootstrap."""


def estimate(metric: str, value: float, sample: Array, rows: Judged) -> Estimate:
    """A metric of these rows, by its name, with its interval from the bootstrap replicates `sample`
    (replicates,).

    Percentiles; for what EXCEPTIONS says, another interval. Null with a reason where value or
    interval are undefined. An interval holds its estimate and has a width.
    """
    if not np.isfinite(value):
        return undefined(why_undefined(metric, rows))
    record = named(metric)
    if record.share_of is not None and rows.independent:
        size = int(rows.base(record.share_of).sum())
        return with_interval(value, wilson(round(value * size), size))
    if rows.one_cluster(rows.everyone):
        return with_interval(value, None, ONE_CLUSTER)
    ci = symmetric_interval(value, sample) if record.symmetric else percentile_interval(sample)
    if ci is None:
        return with_interval(value, None, NO_INTERVAL)
    if around(value, ci) is None:
        found = _by_formula(metric, value, rows)
        return with_interval(value, None, found) if isinstance(found, str) else with_interval(value, found)
    return with_interval(value, ci)


def _by_formula(metric: str, value: float, rows: Judged) -> Interval | str:
    """The interval where no replicate differs from the value; else why there is none."""
    record, found = named(metric), None
    if record.share_of is not None:
        found = formulas.share(value, rows, record.share_of)
    elif record.formula is not None:
        found = record.formula(value, rows)
    return found or (SAME_RISK if rows.constant else SAME)


def difference(value: float, sample: Array) -> Estimate:
    """A difference of two models on the same rows, with its paired percentile interval; sample
    (replicates,)."""
    if not np.isfinite(value):
        return undefined("undefined for one of the two models")
    ci = percentile_interval(sample)
    return with_interval(value, ci, NO_INTERVAL if ci is None else ALIKE)


def with_interval(value: float, ci: Interval | None, reason: str = SAME) -> Estimate:
    """A defined value, the interval widened to hold it; without an interval or a width also the
    reason."""
    held = None if ci is None else around(value, ci)
    return Estimate(value, held, reason if held is None else None)


def undefined(reason: str) -> Estimate:
    """The entry of what cannot be said."""
    return Estimate(None, None, reason)


def why_undefined(metric: str, rows: Judged) -> str:
    """Why `metric` has no value for these rows, in words."""
    record = named(metric)
    if rows.unread is not None and record.kind is not Kind.THRESHOLD:
        return NO_PROBABILITY
    if rows.one_outcome and record.one_outcome_explains:
        return "only one outcome in these rows"
    return record.undefined if isinstance(record.undefined, str) else record.undefined(rows)
