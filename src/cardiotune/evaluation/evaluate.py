"""predictions.jsonl -> metrics.json. Every model is judged by the same code, on the same rows and resamples."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.errors import DataError
from cardiotune.evaluation import metrics

CLASSICAL = ("logistic_regression", "lightgbm")
DIFFERENCES = ("auroc", "log_loss", "brier", "accuracy")
LOWER_IS_BETTER = ("log_loss", "brier")
SCHEMA_VERSION = 1


def evaluate_predictions(rows: list[dict[str, Any]], replicates: int, seed: int) -> dict[str, Any]:
    """The content of `metrics.json`: a part's size, every model's metrics with 95 % intervals, differences, verdict."""
    parts: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["y_true"] is not None:
            parts[row["part"]][row["model"]].append(row)
    if not parts:
        raise DataError("no row with a known outcome to evaluate")
    judged = {part: _judge_part(part, models, replicates, seed) for part, models in parts.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "interval": {
            "level": 0.95,
            "method": "stratified bootstrap, percentile",
            "replicates": replicates,
            "seed": seed,
        },
        "parts": judged,
    }


def _judge_part(part: str, models: dict[str, list[dict[str, Any]]], replicates: int, seed: int) -> dict[str, Any]:
    reference = next(iter(models.values()))
    ids = [row["row_id"] for row in reference]
    y_true = np.array([row["y_true"] for row in reference], float)
    for name, rows in models.items():
        if [row["row_id"] for row in rows] != ids or [row["y_true"] for row in rows] != list(y_true):
            raise DataError(f"predictions: model {name} does not cover the same rows of part {part} as the others")
    risks = {name: np.array([row["y_prob"] for row in rows]) for name, rows in models.items()}
    thresholds = {name: float(rows[0]["threshold"]) for name, rows in models.items()}
    drawn: dict[str, dict[str, list[NDArray[np.float64]]]] = {name: defaultdict(list) for name in models}
    for counts in metrics.bootstrap_counts(y_true, replicates, seed):
        for name, risk in risks.items():
            for metric, values in metrics.all_metrics(y_true, risk, counts, threshold=thresholds[name]).items():
                drawn[name][metric].append(values)
    samples = {name: {m: np.concatenate(v) for m, v in by_metric.items()} for name, by_metric in drawn.items()}
    points = {n: metrics.all_metrics(y_true, risk, threshold=thresholds[n]) for n, risk in risks.items()}
    judged: dict[str, Any] = {
        "n": len(y_true),
        "n_events": int(y_true.sum()),
        "models": {
            name: {m: _entry(m, float(points[name][m]), samples[name][m], y_true, risks[name]) for m in metrics.NAMES}
            for name in models
        },
    }
    if "tuned" in models:
        judged["differences"] = {
            other: {m: _difference(points, samples, other, m) for m in DIFFERENCES}
            for other in models
            if other != "tuned"
        }
        judged["verdict"] = verdict(judged)
    return judged


def _entry(
    metric: str,
    value: float,
    sample: NDArray[np.float64],
    y_true: NDArray[np.float64],
    risk: NDArray[np.float64],
) -> dict[str, Any]:
    """`{"value", "ci"}`; null with a reason where undefined."""
    if not np.isfinite(value):
        return {"value": None, "ci": None, "reason": _why_undefined(metric, y_true, risk)}
    ci = metrics.interval(sample)
    entry: dict[str, Any] = {"value": value, "ci": None if ci is None else list(ci)}
    if ci is None:
        entry["reason"] = "undefined in more than 5 % of the bootstrap replicates, so no interval"
    return entry


def _why_undefined(metric: str, y_true: NDArray[np.float64], risk: NDArray[np.float64]) -> str:
    if y_true.min() == y_true.max():
        return "only one outcome in these rows"
    if metric == "precision":
        return "no row is flagged at this threshold"
    if metric == "calibration_slope" and np.ptp(risk) == 0:
        return "the model gives every row the same risk"
    return "the risks part the outcomes completely" if metric == "calibration_slope" else "not defined for these rows"


def _difference(
    points: dict[str, dict[str, NDArray[np.float64]]],
    samples: dict[str, dict[str, NDArray[np.float64]]],
    other: str,
    metric: str,
) -> dict[str, Any]:
    """Tuned minus other, with a paired bootstrap interval."""
    value = float(points["tuned"][metric] - points[other][metric])
    if not np.isfinite(value):
        return {"value": None, "ci": None, "reason": "undefined for one of the two models"}
    ci = metrics.interval(samples["tuned"][metric] - samples[other][metric])
    return {"value": value, "ci": None if ci is None else list(ci)}


def verdict(part: dict[str, Any]) -> dict[str, Any]:
    """Is the tuned language model worth it? Against the classical model with the highest AUROC on these rows.

    `decision`: `better`, `worse`, `no_difference_shown` or `no_comparison`; `text`: the same in plain words.
    """
    models = {n: m["auroc"]["value"] for n, m in part["models"].items() if n in CLASSICAL and m["auroc"]["value"]}
    if not models or part["models"]["tuned"]["auroc"]["value"] is None:
        return {
            "decision": "no_comparison",
            "text": "No classical model was run beside the tuned model, so nothing is shown.",
        }
    rival = max(models, key=lambda name: models[name])
    auroc, loss = part["differences"][rival]["auroc"], part["differences"][rival]["log_loss"]
    decision = _decide(auroc["ci"], loss["ci"])
    named = rival.replace("_", " ")
    found = f"AUROC {auroc['value']:+.3f}{_span(auroc['ci'])}, log-loss {loss['value']:+.3f}{_span(loss['ci'])}"
    text = {
        "better": f"The tuned language model beats {named}: {found}.",
        "worse": f"The tuned language model is not worth it here: {named} is better ({found} for the language model).",
        "no_difference_shown": (
            f"The tuned language model is not shown to be worth it here: it does not differ clearly from {named} "
            f"({found}), and {named} is far cheaper to fit, run and explain."
        ),
    }[decision]
    if part["n"] < 200:
        text += f" With only {part['n']} test rows the intervals are wide: read this as a first look."
    return {"decision": decision, "against": rival, "text": text}


def _decide(auroc: list[float] | None, loss: list[float] | None) -> str:
    """Better in ranking and not worse in probability, or the other way round, each by its interval."""
    if auroc is None or loss is None:
        return "no_difference_shown"
    if (auroc[0] > 0 and loss[0] <= 0) or (loss[1] < 0 and auroc[1] >= 0):
        return "better"
    if (auroc[1] < 0 and loss[1] >= 0) or (loss[0] > 0 and auroc[0] <= 0):
        return "worse"
    return "no_difference_shown"


def _span(ci: list[float] | None) -> str:
    return "" if ci is None else f" (95 % CI {ci[0]:+.3f} to {ci[1]:+.3f})"
