"""Decision thresholds by stated rule, fixed on the validation part before the test part is looked
at."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cardiotune.errors import DataError
from cardiotune.settings import TaskConfig, Threshold

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NamedThreshold:
    """A threshold that is known by name."""

    name: str
    value: float
    """The risk, 0 to 1, at and above which a row is flagged."""
    folds: Mapping[str, float] = field(default_factory=dict)
    """In a cross-validation, where every fold has found its own: `fold_key` -> it; `value` is then
    their median."""

    def as_json(self) -> dict[str, Any]:
        """`{"name", "value"}`, and `folds` where they differ."""
        entry: dict[str, Any] = {"name": self.name, "value": self.value}
        return {**entry, "folds": dict(self.folds)} if self.folds else entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "NamedThreshold":
        """Of `{"name", "value"}`; other keys but `folds` are passed over."""
        return cls(entry["name"], entry["value"], entry.get("folds", {}))


def fold_key(repeat: int, fold: int) -> str:
    """`repeat 1, fold 2`, as files have it."""
    return f"repeat {repeat}, fold {fold}"


def of_folds(name: str, values: Mapping[str, float]) -> NamedThreshold:
    """A threshold that every fold has found for itself: `fold_key` -> its value."""
    own = dict(values) if len(set(values.values())) > 1 else {}
    return NamedThreshold(name, statistics.median(values.values()), own)


class Settled(NamedTuple):
    """A task with its threshold, and where that is from."""

    task: TaskConfig
    source: Literal["given", "cost", "prevalence"]


def settle(task: TaskConfig, events: Array, weight: Array | None = None) -> Settled:
    """The task with a threshold: that of the settings, else the share of events, to two digits.

    events (rows,) 0 or 1 of the training part, or NaN where unknown; weight (rows,) how much each
    counts. DataError where there is no share between 0 and 1.
    """
    if (cost := task.of_cost) is not None:
        return Settled(task.model_copy(update={"threshold": cost}), "cost")
    if task.threshold is not None:
        return Settled(task, "given")
    known = np.isfinite(events)
    share = float(np.average(events[known], weights=None if weight is None else weight[known])) if known.any() else 0.0
    if not 0 < share < 1:
        raise DataError("rows of one outcome alone say nothing of where to flag a patient; give task.threshold")
    return Settled(task.model_copy(update={"threshold": float(f"{min(share, 0.99):.2g}")}), "prevalence")


def fix(rules: Sequence[Threshold], y_true: Array, y_prob: Array, weight: Array | None = None) -> list[NamedThreshold]:
    """The threshold of each rule. y_true, y_prob: (rows,) of the validation part; all of one
    model. weight (rows,): how much each row counts, by default 1.

    A named value is taken as it is. `sensitivity`: the highest threshold at which at least `at` of
    the events are flagged. `youden`: the highest sensitivity + specificity - 1 (Youden, Cancer
    1950;3:32). `net_benefit`: the highest net benefit when a false positive weighs at / (1 - at) of
    a true one (Vickers & Elkin, Med Decis Making 2006;26:565). Of thresholds that are equally good,
    the highest. Takes n log n.
    """
    counted = np.ones(len(y_true)) if weight is None else weight
    return [NamedThreshold(rule.label, _value(rule, y_true, y_prob, counted)) for rule in rules]


def _value(rule: Threshold, y_true: Array, y_prob: Array, weight: Array) -> float:
    if rule.value is not None:
        return rule.value
    order = np.argsort(-y_prob, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(y_prob[order]) < 0, True])  # of the rows that share a risk
    candidates = y_prob[order][last]
    happened, not_happened = weight * y_true, weight * (1 - y_true)
    found, false = np.cumsum(happened[order])[last], np.cumsum(not_happened[order])[last]
    events, others = happened.sum(), not_happened.sum()

    def best(values: Array) -> float:
        """The highest threshold of those that are best, but for rounding, which must not decide
        between them."""
        return float(candidates[np.argmax(values >= values.max() - 1e-12 * max(1.0, events, others))])

    if rule.rule == "sensitivity":
        return float(candidates[np.argmax(found >= (rule.at or 0) * events * (1 - 1e-12))])
    if rule.rule == "youden":
        return best(found / max(events, 1) - false / max(others, 1))
    odds = (rule.at or 0.5) / (1 - (rule.at or 0.5))
    return best(found - odds * false)
