"""Runs side by side on the same test rows, with paired differences to the first."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.small_counts import told_events
from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.estimates import undefined, with_interval
from cardiotune.evaluation.intervals import bootstrap_counts, percentile_interval
from cardiotune.evaluation.predict import read_predictions
from cardiotune.evaluation.wording import events, in_order, metric_words, model_words, number, reads, span
from cardiotune.runs import RunFolder, read_json

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Risks = dict[str, dict[str, float]]
"""Model -> row_id -> risk, of the test rows with a known outcome."""
Weights = dict[str, float]
"""row_id -> how much the row counts; 1 but for a cohort with weights of censoring."""

COMPARED: dict[str, metrics.Metric] = {
    "auroc": metrics.auroc,
    "auprc": metrics.auprc,
    "brier": metrics.brier,
    "log_loss": metrics.log_loss,
    "calibration_slope": metrics.calibration_slope,
    "calibration_intercept": metrics.calibration_intercept,
}
DIFFERENCES = ("auroc", "auprc", "brier", "log_loss")
"""Compared by difference: of calibration slope and intercept the distance to the best value counts, not the sign."""


def compare(
    runs: Sequence[RunFolder],
    all_models: bool = False,
    common: bool = False,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Each run's main model (or all of its models) on the test rows that the runs share, joined by row id.

    Returns `{"schema_version", "n", "n_events", "common", "interval", "first", "entries": [{"run", "model", "metrics": {m:
    {"value", "ci"}}, "differences": {m: {"value", "ci"}}}]}`. Differences are an entry's minus the first's, on the same
    bootstrap replicates; the first entry has none. The main model is the tuned one or, without it, the one with the
    highest AUROC. Row ids agree between runs on the same file.

    Raises ConfigError for fewer than two different runs, ModelError for predictions that are damaged, DataError when the test
    rows differ (unless `common`, which takes those that all share), when they share none, or when a row's outcome or weight
    differs. Rows of a cohort with weights of censoring count by them; the result then says `"weights": "ipcw"`.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare: got {len(runs)} run, expected two or more; name their folders")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("compare: a run is named twice; name different run folders")
    names = _names(runs)
    read = [_read(run) for run in runs]
    ids = _shared(names, [outcomes for outcomes, _, _ in read], common)
    weight = _shared_weights(ids, [weights for _, _, weights in read])
    y_true = np.array([read[0][0][row_id] for row_id in ids], float)
    candidates = []
    for name, (_, risks, _) in zip(names, read, strict=True):
        aligned = {model: np.array([own[row_id] for row_id in ids], float) for model, own in risks.items()}
        chosen = in_order(list(aligned)) if all_models else [_main(y_true, aligned, weight)]
        candidates += [(name, model, aligned[model]) for model in chosen]
    if not all(map(_independent, runs)):
        log.warning(
            "compare: rows of one patient are resampled one by one here, though the runs keep them together; the intervals are "
            "too narrow"
        )
    return {
        "schema_version": 1,
        "n": len(ids),
        "n_events": told_events(len(ids), int(y_true.sum())),
        "common": common,
        **({} if (weight == 1).all() else {"weights": "ipcw"}),
        "interval": {"level": 0.95, "method": "paired bootstrap, percentile", "replicates": replicates, "seed": seed},
        "first": {"run": candidates[0][0], "model": candidates[0][1]},
        "entries": _judge(y_true, candidates, weight, replicates, seed),
    }


def _independent(run: RunFolder) -> bool:
    """Whether the run took its rows as independent; with patients of several rows, intervals here are too narrow."""
    judged = read_json(run.checked(run.metrics))
    return "cluster" not in str(judged.get("interval", {}).get("method", ""))


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Folder names; whole paths where two are the same."""
    short = [run.path.resolve().name for run in runs]
    return [str(run.path) if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]


def _read(run: RunFolder) -> tuple[dict[str, int], Risks, Weights]:
    """Outcomes by row id, risks by model, and weights, of the test rows with a known outcome."""
    outcomes: dict[str, int] = {}
    weights: Weights = {}
    risks: Risks = {}
    try:
        for row in read_predictions(run):
            if row["part"] == "test" and row["y_true"] is not None:
                outcomes[row["row_id"]] = row["y_true"]
                weights[row["row_id"]] = float(row.get("weight", 1.0))
                risks.setdefault(row["model"], {})[row["row_id"]] = row["y_prob"]
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{run.predictions}: damaged; make the predictions anew with `cardiotune predict {run.path}`"
        ) from None
    if not outcomes:
        raise DataError(f"{run.predictions}: no test row with a known outcome, so there is nothing to compare")
    partial = [model for model, own in risks.items() if len(own) < len(outcomes)]
    if partial:
        raise DataError(
            f"{run.predictions}: {', '.join(partial)} does not cover all {len(outcomes)} test rows; make the predictions "
            f"anew with `cardiotune predict {run.path}`"
        )
    return outcomes, risks, weights


def _shared_weights(ids: list[str], weights: list[Weights]) -> Array:
    """(rows,) weights of the shared rows; DataError when runs differ in them, as with another horizon or rule."""
    first, *others = (np.array([own[row_id] for row_id in ids]) for own in weights)
    if not all(np.allclose(first, other) for other in others):
        raise DataError(
            "compare: the runs weigh the shared rows in different ways; compare runs with the same data.ukb.censored, horizon "
            "and release"
        )
    return first


def _shared(names: list[str], outcomes: list[dict[str, int]], common: bool) -> list[str]:
    """Row ids that all runs have, in a fixed order."""
    shared = set.intersection(*(set(found) for found in outcomes))
    sizes = ", ".join(f"{name} {len(found)}" for name, found in zip(names, outcomes, strict=True))
    if not shared:
        raise DataError(
            f"compare: the runs share no test row ({sizes}); compare runs on the same table, split with the same seed "
            "(ids are hashed with the file, so a changed file has other ids)"
        )
    if not common and any(len(found) != len(shared) for found in outcomes):
        raise DataError(
            f"compare: the test rows differ: {sizes}, {len(shared)} of them shared; split with the same seed, or compare on "
            "the shared rows with common (--common)"
        )
    differ = sum(len({found[row_id] for found in outcomes}) > 1 for row_id in shared)
    if differ:
        raise DataError(
            f"compare: {differ} of {len(shared)} shared test rows have different outcomes in different runs; compare runs "
            "of the same outcome on the same table"
        )
    return sorted(shared)


def _main(y_true: Array, risks: dict[str, Array], weight: Array) -> str:
    if "tuned" in risks:
        return "tuned"
    return max(in_order(list(risks)), key=lambda model: _ranks(y_true, risks[model], weight))


def _ranks(y_true: Array, risk: Array, weight: Array) -> float:
    return float(np.nan_to_num(metrics.auroc(y_true, risk, weight)).item())


def _judge(
    y_true: Array, candidates: list[tuple[str, str, Array]], weight: Array, replicates: int, seed: int
) -> list[dict[str, Any]]:
    drawn: list[dict[str, list[Array]]] = [{metric: [] for metric in COMPARED} for _ in candidates]
    for counts in bootstrap_counts(y_true, replicates, seed):
        for (_, _, risk), samples in zip(candidates, drawn, strict=True):
            for metric, function in COMPARED.items():
                samples[metric].append(np.atleast_1d(function(y_true, risk, counts * weight)))
    sampled = [{metric: np.concatenate(parts) for metric, parts in own.items()} for own in drawn]
    points = [
        {metric: np.asarray(function(y_true, risk, weight)).item() for metric, function in COMPARED.items()}
        for _, _, risk in candidates
    ]
    entries: list[dict[str, Any]] = []
    for (run, model, _), point, sample in zip(candidates, points, sampled, strict=True):
        entry: dict[str, Any] = {
            "run": run,
            "model": model,
            "metrics": {m: _entry(point[m], sample[m]) for m in COMPARED},
        }
        if entries:
            entry["differences"] = {m: _entry(point[m] - points[0][m], sample[m] - sampled[0][m]) for m in DIFFERENCES}
        entries.append(entry)
    return entries


def _entry(value: float, sample: Array) -> dict[str, Any]:
    """`{"value", "ci"}`; null with a reason where undefined."""
    if not np.isfinite(value):
        return undefined("not defined for these rows and risks")
    return with_interval(value, percentile_interval(sample))


def as_text(result: dict[str, Any]) -> str:
    """The result of `compare` as plain text tables, for a terminal."""
    first = result["first"]
    head = f"{result['n']} test rows, {events(result['n'], result['n_events'])}"
    head += ", those that all runs share" if result["common"] else ""
    head += "; metrics weighted by inverse probability of censoring (IPCW)" if "weights" in result else ""
    rows = [["run", "model", *(metric_words(metric)[0] for metric in COMPARED)]]
    for entry in result["entries"]:
        cells = [number(entry["metrics"][m]["value"]) for m in COMPARED]
        rows.append([entry["run"], model_words(entry["model"]), *cells])
    lines = [head, "", *_aligned(rows), ""]
    lines += [f"minus {first['run']} ({model_words(first['model'])}), with the paired 95 % interval:", ""]
    rows = [["run", "model", *(metric_words(metric)[0] for metric in DIFFERENCES)]]
    for entry in result["entries"][1:]:
        found = entry["differences"]
        cells = [
            f"{number(found[m]['value'], '+')} ({span(found[m]['ci'], '+') or 'no interval'}) "
            f"{reads(m, found[m]['ci'], who='')}"
            for m in DIFFERENCES
        ]
        rows.append([entry["run"], model_words(entry["model"]), *cells])
    return "\n".join([*lines, *_aligned(rows)]) + "\n"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
