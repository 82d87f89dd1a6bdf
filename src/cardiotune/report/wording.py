"""How models, metrics and numbers are named in everything that a person reads."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from cardiotune.comparators import COMPARATORS
from cardiotune.evaluation.catalogue import NAMES, Better, named
from cardiotune.evaluation.judgement import Estimate

KEY_METRICS = (
    "auroc",
    "auprc",
    "brier",
    "log_loss",
    "calibration_slope",
    "calibration_intercept",
    "observed_expected",
    "ici",
)
"""What is read first; the others stand behind a click."""
_FIRST = (*KEY_METRICS, "accuracy", "recall", "specificity", "precision")
SHOWN = (*_FIRST, *(name for name in NAMES if name not in _FIRST))
"""What tables have of a model, in the order in which they are shown."""


def model_words(model: str) -> str:
    """A model's name in words; one that is not known is spelt out."""
    record = COMPARATORS.get(model)
    return record.words if record else model.replace("_", " ").capitalize()


def listed(words: Iterable[str]) -> str:
    """`A, B and C`."""
    *first, last = list(words)
    return f"{', '.join(first)} and {last}" if first else last


def in_order(models: Iterable[str]) -> list[str]:
    """Models in the order in which they are shown, unknown ones last."""
    known = {record.name: (record.shown, place) for place, record in enumerate(COMPARATORS.values())}
    return sorted(models, key=lambda name: known.get(name, (math.inf, 0)))


def metric_words(metric: str) -> tuple[str, str]:
    """A metric's name, and which way is better."""
    record = named(metric)
    return record.words, record.better


def percent(share: float) -> str:
    """`54 %`."""
    return f"{100 * share:.0f} %"


def events(n: int | None, n_events: int | None, weighted: float | None = None) -> str:
    """`36 events (54 %)`. `weighted`: their share by weights of censoring; the share as counted
    would be of nobody. None is a count that is not told.
    """
    if n_events is None:
        return "events not told (a small count)"
    if weighted is not None:
        return f"{n_events} events (IPCW-weighted {100 * weighted:.1f} %)"
    return f"{n_events} events" + (f" ({percent(n_events / n)})" if n else "")


def number(value: float | None, sign: str = "", digits: int = 3) -> str:
    """So many decimals, or a dash for what is not defined."""
    return "–" if value is None else format(value, f"{sign}z.{digits}f")


def span(ci: Sequence[float] | None, sign: str = "", digits: int = 3) -> str | None:
    """`0.801 to 0.931`; as many further decimals as it takes for the two to differ. None for an
    interval without width."""
    if ci is None or ci[0] == ci[1]:
        return None
    for decimals in range(digits, 17):
        low, high = (format(end, f"{sign}z.{decimals}f") for end in ci)
        if low != high:
            return f"{low} to {high}"
    return None


def estimate(entry: Estimate, sign: str = "") -> str:
    """An entry of `metrics.json` as `0.870 (0.801 to 0.931)`."""
    ci = span(entry.ci, sign)
    return number(entry.value, sign) + (f" ({ci})" if ci else "")


def reads(metric: str, ci: Sequence[float] | None, who: str = "tuned") -> str:
    """A difference in words, first minus other: clear only when its interval leaves out 0."""
    if ci is None or ci[0] <= 0 <= ci[1]:
        return "not clear"
    better = (ci[1] < 0) == (named(metric).better is Better.LOWER)
    return f"{who} {'better' if better else 'worse'}".strip()


def step_words(summary: dict[str, Any]) -> str:
    """Which step of a training was kept, and why."""
    kept = f"step {summary['selected_step']} kept for its validation {summary['selected_on'].replace('_', '-')}"
    lost = ", ".join(map(str, summary.get("better_steps_lost", [])))
    return f"{kept} (of those that were left: the better step {lost} was damaged on disk)" if lost else kept


def capitalized(text: str) -> str:
    """The text with its first letter, and no other, made a capital."""
    return text[:1].upper() + text[1:]


def plain(value: Any) -> Any:
    """A value that cannot end a table cell or open a tag in Markdown. `Markup` is a finished piece
    and stays."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"\s*\n\s*", " ", value).replace("|", r"\|").replace("<", "&lt;")
