"""Cross-validation: the runs of its folds, and what they left put together, so that every row has
in each repeat the risk that it got as a test row."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from cardiotune.comparators import ON_LANGUAGE
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.split import cluster_numbers
from cardiotune.errors import DataError
from cardiotune.files import read_json
from cardiotune.models.predictions import Prediction, read_predictions
from cardiotune.models.thresholds import NamedThreshold, fold_key, of_folds
from cardiotune.runs import RunFolder
from cardiotune.settings import Config

FOLDER = "folds"
"""Below the experiment's run folder: the runs of its folds."""
FOLDS = "folds"
"""In `calibration.json`: what each fold's own says."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One fold as the test part: a run of its own."""

    repeat: int
    fold: int
    config: Config

    @property
    def run(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.config.run_path)

    @property
    def key(self) -> str:
        """As files and logs name it."""
        return fold_key(self.repeat, self.fold)


def turns(config: Config) -> list[Turn]:
    """The folds of all repeats, in order, each with a seed of its own. What holds a language model
    takes part in the first `split.language_repeats` repeats; a repeat without any model is left
    out."""
    split, found = config.split, []
    for repeat in range(1, split.repeats + 1):
        models = [name for name in config.comparators if repeat <= split.language_repeats or name not in ON_LANGUAGE]
        for fold in range(1, split.folds + 1) if models else ():
            tree = config.model_dump(mode="json")
            number = (repeat - 1) * split.folds + fold - 1
            tree |= {"name": f"repeat-{repeat}-fold-{fold}", "runs_dir": str(config.run_path / FOLDER)}
            tree |= {"seed": (config.seed + number) % 2**32, "models": models}
            tree["split"] |= {"repeat": repeat, "fold": fold, "seed": config.split_seed}
            found.append(Turn(repeat, fold, type(config).model_validate(tree)))
    return found


def pooled(turns: Sequence[Turn], frame: pl.DataFrame, config: Config) -> list[Prediction]:
    """The test rows of all folds by model, repeat and the order of `frame`, which holds all rows of
    the cohort and, behind them, the censored.

    DataError where a fold has no predictions yet, or the folds do not hold every row once.
    """
    place = {row_id: number for number, row_id in enumerate(frame[ROW_ID])}
    clusters = cluster_numbers(frame, config.data)
    found: dict[tuple[str, int], list[Prediction]] = {}
    for turn in turns:
        if not turn.run.predictions.is_file():
            raise DataError(f"{turn.run.path}: no predictions yet; go on with the same `cardiotune run` as before")
        for row in read_predictions(turn.run):
            if row.part == "test":
                number = place.get(row.row_id)
                cluster = None if clusters is None or number is None else clusters[number]
                own = replace(row, cluster=cluster, repeat=turn.repeat, fold=turn.fold)
                found.setdefault((row.model, turn.repeat), []).append(own)
    lines = []
    for name in config.comparators:
        for repeat in range(1, config.split.repeats + 1):
            rows = found.get((name, repeat), [])
            if rows and sorted(place.get(row.row_id, -1) for row in rows) != list(range(len(place))):
                raise DataError(
                    f"{config.run_path}: the folds of repeat {repeat} do not hold every row once; was the table changed? "
                    "Start anew with --overwrite"
                )
            lines += sorted(rows, key=lambda row: place[row.row_id])
    return lines


def pooled_calibration(turns: Sequence[Turn]) -> dict[str, Any]:
    """The content of `calibration.json`: how many rows the calibrators of a fold stand on (the
    median), the method of most folds, each threshold with what every fold has found, and below
    `FOLDS` their calibrators."""
    found = {turn.key: read_json(turn.run.checked(turn.run.calibration)) for turn in turns}
    thresholds: dict[str, dict[str, dict[str, float]]] = {}
    for key, one in found.items():
        for model, entries in one["thresholds"].items():
            for entry in map(NamedThreshold.from_json, entries):
                thresholds.setdefault(model, {}).setdefault(entry.name, {})[key] = entry.value
    first, events = next(iter(found.values())), [one["n_events"] for one in found.values()]
    methods: dict[str, list[str]] = {}
    for one in found.values():
        for model, calibrator in one["models"].items():
            methods.setdefault(model, []).append(calibrator["method"])
    return {
        "method": first["method"],
        "fitted_on": first["fitted_on"],
        "n": statistics.median_low(one["n"] for one in found.values()),
        "n_events": None if None in events else statistics.median_low(events),
        "models": {model: {"method": statistics.mode(used)} for model, used in methods.items()},
        "thresholds": {
            model: [of_folds(name, values).as_json() for name, values in named.items()]
            for model, named in thresholds.items()
        },
        FOLDS: {key: {"fitted_on": one["fitted_on"], "models": one["models"]} for key, one in found.items()},
    }


SUMMED = ("seconds", "start_seconds", "fit_seconds", "rows")
"""Of a model's costs in the manifest."""


def pooled_costs(turns: Sequence[Turn]) -> dict[str, Any]:
    """For the manifest of the whole: what the folds' manifests say of it. Seconds of stages and of
    models are those of all folds together; what training says is of the first fold."""
    manifests = [turn.run.read_manifest() for turn in turns]
    scoring: dict[str, dict[str, Any]] = {}
    for manifest in manifests:
        for model, cost in manifest.get("scoring", {}).items():
            total = scoring.setdefault(model, {**cost, **dict.fromkeys(SUMMED, 0)})
            total |= {name: round(total[name] + cost.get(name, 0), 6) for name in SUMMED}
    stages: dict[str, dict[str, float]] = {}
    for manifest in manifests:
        for name, cost in manifest.get("stages", {}).items():
            if name in ("train", "predict"):
                total = stages.setdefault(name, {"seconds": 0, "peak_memory_mib": 0})
                total["seconds"] = round(total["seconds"] + cost["seconds"], 2)
                total["peak_memory_mib"] = max(total["peak_memory_mib"], cost["peak_memory_mib"])
    kept: dict[str, Any] = {name: manifests[0][name] for name in ("device", "training") if name in manifests[0]}
    return {"scoring": scoring, "stages": stages, **kept}
