"""Every metric once: what it is called, which way is better, where it may lie, how its interval is
made, and its function.

A new metric is a function in `metrics.py` and a record here. `metrics.json`, its schema, the tables
of the report and all words follow from the record.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cardiotune.evaluation import formulas, metrics, survival
from cardiotune.evaluation.judged import Base, Judged
from cardiotune.evaluation.metrics import Array, AtThreshold


class Better(StrEnum):
    """Which way is better, in words."""

    HIGHER = "higher is better"
    LOWER = "lower is better"
    ONE = "1 is best"
    ZERO = "0 is best"
    NEITHER = "neither end is better"


class Kind(Enum):
    """What a metric judges, which says how it is computed."""

    RANKING = "how well the risks rank the rows"
    PROBABILITY = "how good the probabilities are"
    CURVE = "distance from the calibration curve; `metrics.calibration_errors` gives all of them"
    THRESHOLD = "flagged and unflagged rows at a threshold"
    TIME = "times to the event, the censored included"


class Range(NamedTuple):
    """Where value and interval lie, the ends included; None is no bound."""

    low: float | None
    high: float | None


ANY, SHARE, AT_LEAST_0, AT_MOST_1 = Range(None, None), Range(0, 1), Range(0, None), Range(None, 1)


@dataclass(frozen=True, slots=True)
class Metric:
    """All that is said of a metric."""

    name: str
    """Its key in `metrics.json`."""
    words: str
    """What tables call it."""
    better: Better
    kind: Kind
    range: Range
    of: Callable[..., Array | float]
    """Of `y_true`, `y_prob`, `weight`, and at a threshold of that too; by its `Table` where it is
    an `AtThreshold`. Its docstring is the description in the schema."""
    short: str = ""
    """What narrow tables call it; by default `words`."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Other keys that it has in some sections of `metrics.json`, and their words."""
    only_in: Literal["", "thresholds", "subgroups", "censoring"] = ""
    """The section of `metrics.json` that alone has it; by default every model has it."""
    share_of: Base | None = None
    """The rows of which it is a share: Wilson's interval, where rows are independent."""
    symmetric: bool = False
    """Whether the interval is the estimate plus and minus its larger distance to a percentile, for
    a distance that chance only makes larger; else it is from percentile to percentile."""
    formula: Callable[[float, Judged], formulas.Found] | None = None
    """The interval where no replicate of the bootstrap differs."""
    one_outcome_explains: bool = True
    """Whether rows of one outcome explain that it has no value; else `undefined` does."""
    undefined: str | Callable[[Judged], str] = "not defined for these rows"
    """Why it may have no value though the rows have both outcomes."""
    digits: int = 3
    """Decimals in tables."""
    explained: str = ""
    """What a glossary says; metrics with the same text share a line."""
    hub: str = ""
    """Its id on the Hugging Face hub, for the model card; empty where it does not stand there."""

    @property
    def brief(self) -> str:
        """What narrow tables call it."""
        return self.short or self.words

    @property
    def description(self) -> str:
        """What it is, best and source, of one value; what is NaN in Python is null in a file."""
        return " ".join((inspect.getdoc(self.of) or "").split()).replace("NaN", "Null")


DISTANCES = (
    "mean, median, 90th percentile and maximum of the distance between risk and smoothed observed share "
    "(Austin & Steyerberg 2019)"
)
RATIOS = "likelihood ratios of being flagged and of not being flagged"

METRICS = (
    Metric("auroc", "AUROC", Better.HIGHER, Kind.RANKING, SHARE, metrics.auroc, formula=formulas.auroc, hub="roc_auc"),
    Metric("auprc", "AUPRC", Better.HIGHER, Kind.RANKING, SHARE, metrics.auprc, formula=formulas.auprc),
    Metric(
        "brier", "Brier score", Better.LOWER, Kind.PROBABILITY, SHARE, metrics.brier, short="Brier", hub="brier_score"
    ),
    Metric(
        "log_loss",
        "Log-loss",
        Better.LOWER,
        Kind.PROBABILITY,
        AT_LEAST_0,
        metrics.log_loss,
        short="log-loss",
        hub="log_loss",
    ),
    Metric(
        "calibration_intercept",
        "Calibration intercept",
        Better.ZERO,
        Kind.PROBABILITY,
        ANY,
        metrics.calibration_intercept,
        short="calibration intercept",
    ),
    Metric(
        "calibration_slope",
        "Calibration slope",
        Better.ONE,
        Kind.PROBABILITY,
        ANY,
        metrics.calibration_slope,
        short="slope",
        undefined=formulas.no_slope,
    ),
    Metric("scaled_brier", "Scaled Brier score", Better.HIGHER, Kind.PROBABILITY, AT_MOST_1, metrics.scaled_brier),
    Metric(
        "observed_expected",
        "O:E ratio",
        Better.ONE,
        Kind.PROBABILITY,
        AT_LEAST_0,
        metrics.observed_expected,
        formula=formulas.observed_expected,
        one_outcome_explains=False,
        undefined="the model gives every row a risk of 0",
        explained="observed events by expected events",
    ),
    Metric("ici", "ICI", Better.LOWER, Kind.CURVE, SHARE, metrics.ici, symmetric=True, explained=DISTANCES),
    Metric("e50", "E50", Better.LOWER, Kind.CURVE, SHARE, metrics.e50, symmetric=True, explained=DISTANCES),
    Metric("e90", "E90", Better.LOWER, Kind.CURVE, SHARE, metrics.e90, symmetric=True, explained=DISTANCES),
    Metric("emax", "Emax", Better.LOWER, Kind.CURVE, SHARE, metrics.emax, symmetric=True, explained=DISTANCES),
    Metric(
        "accuracy",
        "Accuracy",
        Better.HIGHER,
        Kind.THRESHOLD,
        SHARE,
        metrics.accuracy,
        short="accuracy",
        share_of="everyone",
        hub="accuracy",
    ),
    Metric(
        "precision",
        "PPV (precision)",
        Better.HIGHER,
        Kind.THRESHOLD,
        SHARE,
        metrics.precision,
        also={"ppv": "PPV"},
        share_of="flagged",
        one_outcome_explains=False,
        undefined="no row is flagged at this threshold",
    ),
    Metric(
        "npv",
        "NPV",
        Better.HIGHER,
        Kind.THRESHOLD,
        SHARE,
        metrics.npv,
        share_of="unflagged",
        one_outcome_explains=False,
        undefined="every row is flagged at this threshold",
    ),
    Metric(
        "recall",
        "Sensitivity (recall)",
        Better.HIGHER,
        Kind.THRESHOLD,
        SHARE,
        metrics.recall,
        also={"sensitivity": "Sensitivity"},
        share_of="events",
    ),
    Metric("specificity", "Specificity", Better.HIGHER, Kind.THRESHOLD, SHARE, metrics.specificity, share_of="others"),
    Metric(
        "lr_positive",
        "LR+",
        Better.HIGHER,
        Kind.THRESHOLD,
        AT_LEAST_0,
        metrics.lr_positive,
        formula=formulas.lr_positive,
        undefined="no row without the event is flagged at this threshold, so the ratio has no bound",
        explained=RATIOS,
    ),
    Metric(
        "lr_negative",
        "LR−",
        Better.LOWER,
        Kind.THRESHOLD,
        AT_LEAST_0,
        metrics.lr_negative,
        formula=formulas.lr_negative,
        undefined="every row without the event is flagged at this threshold, so the ratio has no bound",
        explained=RATIOS,
    ),
    Metric("flagged", "Flagged", Better.NEITHER, Kind.THRESHOLD, SHARE, metrics.flagged, share_of="everyone"),
    Metric("f1", "F1", Better.HIGHER, Kind.THRESHOLD, SHARE, metrics.f1, formula=formulas.f1),
    Metric("f1_weighted", "Weighted F1", Better.HIGHER, Kind.THRESHOLD, SHARE, metrics.f1_weighted),
    Metric(
        "fnr",
        "Missed events (FNR)",
        Better.LOWER,
        Kind.THRESHOLD,
        SHARE,
        metrics.fnr,
        only_in="subgroups",
        share_of="events",
    ),
    Metric(
        "net_benefit",
        "Net benefit",
        Better.HIGHER,
        Kind.THRESHOLD,
        AT_MOST_1,
        metrics.net_benefit,
        only_in="thresholds",
        formula=formulas.net_benefit,
        one_outcome_explains=False,
        undefined="a threshold of 1 weighs a false positive without bound",
        explained="true positives minus false positives weighted by the odds of the threshold, by all rows "
        "(Vickers & Elkin 2006)",
    ),
    Metric("c_index", "C-index", Better.HIGHER, Kind.TIME, SHARE, survival.c_index, only_in="censoring"),
)
"""In the order of `metrics.json`."""

_BY_NAME = {metric.name: metric for metric in METRICS}
_BY_NAME |= {name: replace(metric, words=words) for metric in METRICS for name, words in metric.also.items()}
NAMES = tuple(metric.name for metric in METRICS if not metric.only_in)
"""What `metrics.json` has of every model."""

# What its other sections have, under these keys and in this order.
THRESHOLDS = ("sensitivity", "specificity", "ppv", "npv", "flagged", "lr_positive", "lr_negative", "net_benefit")
SUBGROUPS = ("auroc", "observed_expected", "calibration_slope", "sensitivity", "fnr")
RAW = ("brier", "log_loss", "calibration_intercept", "calibration_slope")
"""Of probabilities before they were calibrated, which rank the rows as the final ones do."""
DIFFERENCES = ("auroc", "log_loss", "brier", "accuracy")


def named(name: str) -> Metric:
    """The metric with this key, or with this other key and its words. KeyError for no metric."""
    return _BY_NAME[name]


def of_kind(*kinds: Kind) -> dict[str, Metric]:
    """Key -> metric of these kinds, those that every model has."""
    return {name: _BY_NAME[name] for name in NAMES if _BY_NAME[name].kind in kinds}


def glossary() -> dict[str, str]:
    """Words of the metrics that need an explanation, those with the same together -> it."""
    lines: dict[str, list[str]] = {}
    for metric in METRICS:
        if metric.explained:
            lines.setdefault(metric.explained, []).append(metric.words)
    return {", ".join(words): text for text, words in lines.items()}


# --------------------------------------------------------------------------------------------------
# values


def values(names: Iterable[str], rows: Judged, weight: Array | None) -> dict[str, Array]:
    """Metrics of these rows by the names given, at the rows' threshold; shape () or (replicates,).

    `weight` (n,) or (replicates, n) counts in the place of the rows' own. Answers in words carry no
    probability: all but the metrics at a threshold are NaN, and an answer that could not be parsed
    is wrong. Those of the kinds CURVE and TIME have functions of their own.
    """
    cells = metrics.table(rows.y_true, rows.risk, weight, threshold=rows.threshold, unread=rows.unread)
    shape = np.shape(cells.tp)

    def value(metric: Metric) -> Array:
        if isinstance(metric.of, AtThreshold):
            return metric.of.of(cells)
        at = {"threshold": rows.threshold} if metric.kind is Kind.THRESHOLD else {}
        if rows.unread is not None and not at:
            return np.full(shape, np.nan)
        return np.asarray(metric.of(rows.y_true, rows.risk, weight, **at))

    return {name: np.reshape(value(named(name)), shape) for name in names}


def all_metrics(
    y_true: Array,
    y_prob: Array,
    weight: Array | None = None,
    *,
    threshold: float = 0.5,
    unread: NDArray[np.bool_] | None = None,
) -> dict[str, Array]:
    """Every metric that `metrics.json` has of a model, as `values`.

    `unread` (n,) is given for answers in words, and says which could not be parsed.
    """
    rows, curve = Judged(y_true, y_prob, threshold, unread=unread), of_kind(Kind.CURVE)
    found = values([name for name in NAMES if name not in curve], rows, weight)
    shape = np.shape(next(iter(found.values())))
    undefined = dict.fromkeys(curve, np.full(shape, np.nan))
    distances = metrics.calibration_errors(y_true, y_prob, weight) if unread is None else undefined
    found |= {name: np.reshape(distances[name], shape) for name in curve}
    return {name: found[name] for name in NAMES}
