"""Leaks that only what a run left behind shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cardiotune.audit.ceilings import above, believable
from cardiotune.audit.findings import Checks, Finding, Severity
from cardiotune.audit.table import FEW
from cardiotune.data.split import PARTS
from cardiotune.models.predictions import Prediction


@dataclass(frozen=True, slots=True)
class Results:
    """What a run left."""

    rows: Sequence[Prediction]
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    judged: Sequence[Iterable[str]] = ()
    """Columns of each table with rows in the test part: a public one is recognised by them."""
    known_ceiling: float | None = None
    """AUROC that no honest model exceeds, where the config names it."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """Content of `calibration.json`: what calibrators and thresholds say of themselves."""
    tokens: Mapping[str, int] | None = None
    """That block of `cohort.json`; None without a language model."""


CHECKS = Checks[Results]()


@CHECKS.add
def shared_predictions(results: Results) -> list[Finding]:
    """Row ids in two parts."""
    parts: dict[str, set[str]] = {}
    for row in results.rows:
        parts.setdefault(row.row_id, set()).add(row.part)
    shared = sum(len(held) > 1 for held in parts.values())
    text = f"{shared} row ids of the predictions stand in more than one part"
    return [Finding("shared_ids", "leak", text, {"rows": shared})] if shared else []


@CHECKS.add
def too_good(results: Results) -> list[Finding]:
    """Models that rank the test part better than is believable, or than the validation part."""
    ceiling = believable(results.judged, results.known_ceiling)
    parts = results.metrics["parts"]
    test = parts.get("test", {"n": 0, "n_events": 0, "models": {}})
    # None where one of them is below ten.
    if test["n_events"] is None or min(test["n_events"], test["n"] - test["n_events"]) < FEW:
        return []
    found = []
    for model, judged in test["models"].items():
        low = _interval(judged["auroc"])[0]
        found += above(model, judged["auroc"]["value"], low, ceiling)
        watched = parts.get("validation", {}).get("models", {}).get(model)
        if watched and low is not None and (top := _interval(watched["auroc"])[1]) is not None and low > top:
            text = f"{model} ranks the test part better than the validation part (the intervals of AUROC do not touch)"
            gap = {"test": judged["auroc"]["value"], "validation": watched["auroc"]["value"]}
            found.append(Finding("test_above_validation", "warning", f"{text}; are test rows in training?", gap))
    return found


def _interval(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    low, high = entry.get("ci") or (None, None)
    return low, high


@CHECKS.add
def calibration_parts(results: Results) -> list[Finding]:
    """Whether calibrator and threshold, wherever `fitted_on` or `chosen_on` stands in their JSON,
    name validation."""
    return _calibration_parts(results.calibration)


def _calibration_parts(calibration: Mapping[str, Any]) -> list[Finding]:
    found = []
    for key, value in calibration.items():
        if isinstance(value, Mapping):
            found += _calibration_parts(value)
        elif key in ("fitted_on", "chosen_on") and value != "validation":
            severity: Severity = "leak" if value == "test" else "warning"
            part = value if value in PARTS else "another part"
            text = f"a calibrator or threshold was {key.replace('_', ' ')} {part}; expected validation"
            found.append(Finding("calibration_part", severity, text, {"part": part}))
    return found


@CHECKS.add
def cut_prompts(results: Results) -> list[Finding]:
    """Whether a prompt is longer than the limit."""
    if not results.tokens:
        return []
    longest, limit = int(results.tokens["longest"]), int(results.tokens["limit"])
    numbers = {"longest": longest, "limit": limit}
    if longest > limit:
        text = f"the longest prompt has {longest} tokens, the limit is {limit}: what is over it was cut or refused"
        return [Finding("truncated_prompts", "warning", text, numbers)]
    text = f"no prompt was cut: the longest has {longest} tokens, the limit is {limit}"
    return [Finding("truncated_prompts", "note", text, numbers)]
