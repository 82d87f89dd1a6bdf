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
NEGLIGIBLE = 0.0005
"""A smaller difference in AUROC or log-loss would be written as 0.000, and is no reason for a verdict."""
FEW_ROWS = 100
"""Fewer events, or fewer non-events, judge a model poorly. Collins et al., Stat Med 2016;35:214."""
SCHEMA_VERSION = 1
RAW_REPLICATES = 200
"""Bootstrap replicates behind the intervals of probabilities that are not the final ones."""
NO_INTERVAL = "undefined in more than 2.5 % of the bootstrap replicates, so no interval"


def evaluate_predictions(
    rows: list[dict[str, Any]], replicates: int, seed: int, stratified: bool = False
) -> dict[str, Any]:
    """The content of `metrics.json`: a part's size, every model's metrics with 95 % intervals, differences, verdict."""
    parts: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["y_true"] is not None:
            parts[row["part"]][row["model"]].append(row)
    if not parts:
        raise DataError("no row with a known outcome to evaluate")
    judged = {part: _judge_part(part, models, replicates, seed, stratified) for part, models in parts.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "interval": {
            "level": 0.95,
            "method": f"{'stratified' if stratified else 'ordinary'} bootstrap, percentile",
            "replicates": replicates,
            "seed": seed,
        },
        "parts": judged,
    }


def _judge_part(
    part: str, models: dict[str, list[dict[str, Any]]], replicates: int, seed: int, stratified: bool
) -> dict[str, Any]:
    y_true, risks, thresholds = _check_rows(part, models)
    raw = {name: np.array([row["y_prob_raw"] for row in rows], float) for name, rows in models.items()}
    raw = {name: risk for name, risk in raw.items() if not np.array_equal(risk, risks[name])}
    drawn: dict[str, dict[str, list[NDArray[np.float64]]]] = {name: defaultdict(list) for name in models}
    for counts in metrics.bootstrap_counts(y_true, replicates, seed, stratified):
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
    if raw:
        counts = np.concatenate(list(metrics.bootstrap_counts(y_true, RAW_REPLICATES, seed, stratified)))
        judged["raw"] = {name: _judge_raw(y_true, risk, counts) for name, risk in raw.items()}
    if "tuned" in models:
        judged["differences"] = {
            other: {m: _difference(points, samples, other, m) for m in DIFFERENCES}
            for other in models
            if other != "tuned"
        }
        if part == "test":  # the other parts had a hand in making the model
            judged["verdict"] = verdict(judged)
    return judged


def _judge_raw(y_true: NDArray[np.float64], risk: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[str, Any]:
    """How good the probabilities were before anything was done to them (they rank the rows as the final ones do)."""
    return {
        name: _entry(name, float(metric(y_true, risk).item()), metric(y_true, risk, counts), y_true, risk)
        for name, metric in metrics.PROBABILITY.items()
    }


def _check_rows(
    part: str, models: dict[str, list[dict[str, Any]]]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]], dict[str, float]]:
    """Outcomes (rows,), each model's risks (rows,) and threshold; DataError unless all models have the same rows."""
    keys = [(row["row_id"], row["y_true"]) for row in next(iter(models.values()))]
    if len({row_id for row_id, _ in keys}) < len(keys):
        raise DataError(f"predictions: a row_id stands twice in part {part} for the same model; keep one")
    y_true = np.array([outcome for _, outcome in keys], float)
    risks = {name: np.array([row["y_prob"] for row in rows], float) for name, rows in models.items()}
    for name, rows in models.items():
        if [(row["row_id"], row["y_true"]) for row in rows] != keys:
            raise DataError(
                f"predictions: model {name} does not cover the same rows of part {part} as the others, in the same "
                "order and with the same outcomes; make them anew with `cardiotune predict`"
            )
        if not np.isin(y_true, (0, 1)).all() or not np.all((risks[name] >= 0) & (risks[name] <= 1)):
            raise DataError(f"predictions: model {name}, part {part}: y_true must be 0, 1 or null, y_prob from 0 to 1")
        if len({row["threshold"] for row in rows}) > 1:
            raise DataError(f"predictions: model {name}, part {part}: rows have different thresholds; use one a model")
    return y_true, risks, {name: float(rows[0]["threshold"]) for name, rows in models.items()}


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
        entry["reason"] = NO_INTERVAL
    return entry


def _why_undefined(metric: str, y_true: NDArray[np.float64], risk: NDArray[np.float64]) -> str:
    if metric == "precision":
        return "no row is flagged at this threshold"
    if y_true.min() == y_true.max():
        return "only one outcome in these rows"
    if metric == "calibration_slope":
        constant = np.ptp(risk) == 0
        return "the model gives every row the same risk" if constant else "the risks part the outcomes completely"
    return "not defined for these rows"


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
    if ci is None:
        return {"value": value, "ci": None, "reason": NO_INTERVAL}
    return {"value": value, "ci": list(ci)}


def verdict(part: dict[str, Any]) -> dict[str, Any]:
    """Is the tuned language model worth it? Against the classical model that is hardest to beat on these rows.

    `decision`: `better` (than every classical model), `worse` (than at least one), `no_difference_shown` or
    `no_comparison`; `against`: the classical model that decides it, the one with the highest AUROC where several do;
    `text`: the same in plain words.
    """
    rivals = [name for name in CLASSICAL if name in part["models"]]
    if not rivals:
        return _no_comparison("No classical model was run beside the tuned model, so nothing is shown.")
    if part["models"]["tuned"]["auroc"]["value"] is None:
        return _no_comparison("These rows hold one outcome only, so no comparison can be made.")
    decisions = {name: _decide(**_key_differences(part, name)) for name in rivals}
    order = ("worse", "no_difference_shown", "better")
    rival = min(rivals, key=lambda name: (order.index(decisions[name]), -part["models"][name]["auroc"]["value"]))
    decision, named = decisions[rival], {"lightgbm": "LightGBM"}.get(rival, rival.replace("_", " "))
    auroc, loss = _key_differences(part, rival).values()
    found = f"AUROC {auroc['value']:+.3f}{_span(auroc['ci'])}, log-loss {loss['value']:+.3f}{_span(loss['ci'])}"
    unclear = (
        f"its ranking and its probabilities point to different sides beside {named}"
        if _side(auroc) * _side(loss) > 0
        else f"it does not differ clearly from {named}"
    )
    text = {
        "better": f"The tuned language model beats {named}: {found}.",
        "worse": f"The tuned language model is not worth it here: {named} is better ({found} for the language model).",
        "no_difference_shown": (
            f"The tuned language model is not shown to be worth it here: {unclear} ({found}), and {named} is far "
            "cheaper to fit, run and explain."
        ),
    }[decision]
    if min(part["n_events"], part["n"] - part["n_events"]) < FEW_ROWS:
        text += (
            f" With only {part['n']} test rows, {part['n_events']} of them events, the intervals are wide: read this as "
            "a first look."
        )
    return {"decision": decision, "against": rival, "text": text}


def _no_comparison(text: str) -> dict[str, Any]:
    return {"decision": "no_comparison", "text": text}


def _key_differences(part: dict[str, Any], rival: str) -> dict[str, dict[str, Any]]:
    """What decides: ranking and probabilities."""
    return {metric: part["differences"][rival][metric] for metric in ("auroc", "log_loss")}


def _decide(auroc: dict[str, Any], log_loss: dict[str, Any]) -> str:
    """Better: clearly so in ranking or in probabilities, while the other does not even point to worse.

    Worse: clearly so in one, and not clearly better in the other. Doubt counts against the costlier language model.
    """
    ranking, probabilities = _side(auroc), -_side(log_loss)
    points_to_worse = auroc["value"] <= -NEGLIGIBLE or log_loss["value"] >= NEGLIGIBLE
    if max(ranking, probabilities) > 0 and not points_to_worse:
        return "better"
    if min(ranking, probabilities) < 0 and max(ranking, probabilities) <= 0:
        return "worse"
    return "no_difference_shown"


def _side(difference: dict[str, Any]) -> int:
    """1 when the difference is clearly above 0, by its interval, -1 when clearly below, 0 when it does not tell."""
    ci = difference["ci"]
    if ci is None or abs(difference["value"]) < NEGLIGIBLE:
        return 0
    return int(ci[0] > 0) - int(ci[1] < 0)


def _span(ci: list[float] | None) -> str:
    return "" if ci is None else f" (95 % CI {ci[0]:+.3f} to {ci[1]:+.3f})"
