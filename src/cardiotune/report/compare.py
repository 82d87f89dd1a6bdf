"""Runs side by side on the same test rows, with paired differences to the first."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cardiotune.comparators import IN_WORDS, main_model
from cardiotune.data.small_counts import told_events
from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.evaluation.catalogue import values
from cardiotune.evaluation.estimates import difference, estimate
from cardiotune.evaluation.intervals import affordable, bootstrap_counts
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import UNDEFINED, Estimate, Estimates, Part
from cardiotune.files import read_json
from cardiotune.models.predictions import read_predictions
from cardiotune.report.wording import events, in_order, metric_words, model_words, number, reads, span
from cardiotune.runs import RunFolder

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Risks = dict[str, dict[str, float]]
"""Model -> row_id -> risk, of the test rows with a known outcome."""
Weights = dict[str, float]
"""row_id -> how much the row counts; 1 but for a cohort with weights of censoring."""

COMPARED = ("auroc", "auprc", "brier", "log_loss", "calibration_slope", "calibration_intercept")
SUBTRACTED = ("auroc", "auprc", "brier", "log_loss")
"""Compared by difference: of calibration slope and intercept the distance to the best value counts,
not the sign."""


def compare(
    runs: Sequence[RunFolder],
    all_models: bool = False,
    common: bool = False,
    replicates: int | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Each run's main model (or all of its models) on the test rows that the runs share, joined by
    row id.

    Returns `{"schema_version", "n", "n_events", "common", "interval", "first", "entries": [{"run",
    "model", "metrics": {m: {"value", "ci"}}, "differences": {m: {"value", "ci"}}}]}`. Differences
    are an entry's minus the first's, on the same bootstrap replicates; the first entry has none.
    The main model is that of a run's report (`Comparator.main`). Row ids agree between runs on the
    same file. Rows of one patient, as any of the runs has them, are resampled together. Replicates,
    seed and kind of bootstrap are by default those of the first run's `metrics.json`; what a run's
    own says of all of its test rows is taken over, so that one quantity has one interval.

    Raises ConfigError for fewer than two different runs, ModelError for predictions that are
    damaged, DataError when the test rows differ (unless `common`, which takes those that all
    share), when they share none, or when a row's outcome or weight differs. Rows of a cohort with
    weights of censoring count by them; the result then says `"weights": "ipcw"`.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare: got {len(runs)} run, expected two or more; name their folders")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("compare: a run is named twice; name different run folders")
    names = _names(runs)
    read = [_read(run) for run in runs]
    told = [read_json(run.checked(run.metrics)) for run in runs]
    ids = _shared(names, [own.outcomes for own in read], common)
    weight = _shared_weights(ids, [own.weights for own in read])
    y_true = np.array([read[0].outcomes[row_id] for row_id in ids], float)
    clusters = _joined([[own.clusters.get(row_id) for row_id in ids] for own in read])
    candidates = []
    for name, own, judged in zip(names, read, told, strict=True):
        chosen = in_order(list(own.risks)) if all_models else [main_model(own.risks)]
        test = judged.get("parts", {}).get("test") if len(ids) == len(own.outcomes) else None
        whole = Part.from_json(test).models if test else {}
        for model in chosen:
            risk = np.array([own.risks[model][row_id] for row_id in ids], float)
            unread = ~np.isin(risk, (0, 1)) if model in IN_WORDS else None
            rows = Judged(y_true, risk, 0.5, None if (weight == 1).all() else weight, clusters, unread)
            candidates.append(_Candidate(name, model, rows, whole.get(model, {})))
    if clusters is None and any("cluster" in str(judged.get("interval", {}).get("method")) for judged in told):
        log.warning(
            "compare: rows of one patient are resampled one by one here, though the runs keep them together; the intervals are "
            "too narrow; make the predictions anew with `cardiotune predict`, so that they tell who belongs together"
        )
    settings = told[0].get("interval", {})
    replicates = affordable(replicates or settings.get("replicates", 1000), len(ids))
    seed = settings.get("seed", 0) if seed is None else seed
    stratified = str(settings.get("method")).startswith("stratified")
    kind = f"{'stratified ' if stratified else ''}{'' if clusters is None else 'cluster '}"
    return {
        "schema_version": 1,
        "n": len(ids),
        "n_events": told_events(len(ids), int(y_true.sum())),
        "common": common,
        **({} if (weight == 1).all() else {"weights": "ipcw"}),
        "interval": {
            "level": 0.95,
            "method": f"paired {kind}bootstrap, percentile",
            "replicates": replicates,
            "seed": seed,
        },
        "first": {"run": candidates[0].run, "model": candidates[0].model},
        "entries": _judge(candidates, replicates, seed, stratified),
    }


class _Read(NamedTuple):
    """The test rows with a known outcome of one run."""

    outcomes: dict[str, int]
    risks: Risks
    weights: Weights
    clusters: dict[str, int]
    """row_id -> number that rows of one patient share; empty where no two rows belong together."""


class _Candidate(NamedTuple):
    """One model of a run on the shared rows."""

    run: str
    model: str
    rows: Judged
    told: Estimates
    """What the run's own `metrics.json` says of it; empty where other rows are judged here."""


def _joined(clusters: list[list[int | None]]) -> NDArray[np.int_] | None:
    """(rows,) numbers of what belongs together in any of the runs; None when no two rows do."""
    size = len(clusters[0])
    links, nodes = [], size
    for own in clusters:
        known = [(row, number) for row, number in enumerate(own) if number is not None]
        places = {number: nodes + place for place, number in enumerate(dict.fromkeys(number for _, number in known))}
        links += [(row, places[number]) for row, number in known]
        nodes += len(places)
    rows, ends = np.array(links, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, ends)), (nodes, nodes))
    number = np.unique(connected_components(graph, directed=False)[1][:size], return_inverse=True)[1]
    return number if number.max() + 1 < size else None


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Folder names; whole paths where two are the same."""
    short = [run.path.resolve().name for run in runs]
    return [str(run.path) if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]


def _read(run: RunFolder) -> _Read:
    outcomes: dict[str, int] = {}
    clusters: dict[str, int] = {}
    weights: Weights = {}
    risks: Risks = {}
    try:
        for row in read_predictions(run):
            if row.part == "test" and row.y_true is not None:
                outcomes[row.row_id] = row.y_true
                weights[row.row_id] = 1.0 if row.weight is None else row.weight
                risks.setdefault(row.model, {})[row.row_id] = row.y_prob
                if row.cluster is not None:
                    clusters[row.row_id] = row.cluster
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
    return _Read(outcomes, risks, weights, clusters)


def _shared_weights(ids: list[str], weights: list[Weights]) -> Array:
    """(rows,) weights of the shared rows; DataError when runs differ in them, as with another
    horizon or rule."""
    first, *others = (np.array([own[row_id] for row_id in ids]) for own in weights)
    if not all(np.allclose(first, other) for other in others):
        raise DataError(
            "compare: the runs weigh the shared rows in different ways; compare runs with the same data.ukb.censored, horizon "
            "and release"
        )
    return first


def _shared(names: list[str], outcomes: list[dict[str, int]], common: bool) -> list[str]:
    """Row ids that all runs have, in the first one's order."""
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
    return [row_id for row_id in outcomes[0] if row_id in shared]  # the replicates are then those of the first run


def _judge(candidates: list[_Candidate], replicates: int, seed: int, stratified: bool) -> list[dict[str, Any]]:
    first = candidates[0].rows
    weight = np.ones(len(first.y_true)) if first.weight is None else first.weight
    drawn: list[dict[str, list[Array]]] = [{metric: [] for metric in COMPARED} for _ in candidates]
    for counts in bootstrap_counts(first.y_true, replicates, seed, stratified, first.clusters):
        for candidate, samples in zip(candidates, drawn, strict=True):
            for metric, found in values(COMPARED, candidate.rows, counts * weight).items():
                samples[metric].append(found)
    sampled = [{metric: np.concatenate(parts) for metric, parts in own.items()} for own in drawn]
    points = [{m: v.item() for m, v in values(COMPARED, one.rows, weight).items()} for one in candidates]
    entries: list[dict[str, Any]] = []
    for candidate, point, sample in zip(candidates, points, sampled, strict=True):
        entry: dict[str, Any] = {
            "run": candidate.run,
            "model": candidate.model,
            "metrics": {m: _entry(candidate, m, point[m], sample[m]) for m in COMPARED},
        }
        if entries:
            entry["differences"] = {
                m: difference(point[m] - points[0][m], sample[m] - sampled[0][m]).as_json() for m in SUBTRACTED
            }
        entries.append(entry)
    return entries


def _entry(candidate: _Candidate, metric: str, value: float, sample: Array) -> dict[str, Any]:
    """The estimate, with the interval of the run's own report where that judges the same rows."""
    told = candidate.told.get(metric, UNDEFINED)
    same = told.value is not None and np.isclose(told.value, value, rtol=1e-9, atol=1e-12)
    return Estimate.as_json(told if same else estimate(metric, value, sample, candidate.rows))


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
    rows = [["run", "model", *(metric_words(metric)[0] for metric in SUBTRACTED)]]
    for entry in result["entries"][1:]:
        found = entry["differences"]
        cells = [
            f"{number(found[m]['value'], '+')} ({span(found[m]['ci'], '+') or 'no interval'}) "
            f"{reads(m, found[m]['ci'], who='')}"
            for m in SUBTRACTED
        ]
        rows.append([entry["run"], model_words(entry["model"]), *cells])
    return "\n".join([*lines, *_aligned(rows)]) + "\n"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
