"""How often the 95 % intervals of a cross-validation hold the truth.

    python -m benchmarks.coverage --json coverage.json
    python -m benchmarks.coverage --rows 300 --clustered --once --json coverage_clustered.json

Tables are drawn from a population that is known: ten predictors, of which five matter, and an
outcome of about 30 %. Each table is cross-validated as `cardiotune run` does, with the same folds
and the same judgement, by a classical model that takes no time. Two truths are asked for, both over
20,000 further people, who count by their true risks and not by an outcome that was drawn: `own`,
the mean performance of the models that were fitted on this table; `procedure`, the mean of that
over all tables, what the procedure gives on the average.

`--once` judges the first repeat as if it were one test part, by the bootstrap of rows alone: what
the intervals would be without folds and repeats. `--clustered`: three rows a patient, who share
predictors and what is not measured.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.speed import say
from cardiotune.data.cohort import EVENT, ROW_ID, Cohort
from cardiotune.data.split import split_cohort
from cardiotune.evaluation.catalogue import all_metrics
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.files import write_json
from cardiotune.models.predictions import Prediction, prediction_rows
from cardiotune.settings import DataConfig, SplitConfig

Array = NDArray[np.float64]
METRICS = ("auroc", "calibration_slope", "brier", "log_loss", "observed_expected", "ici", "accuracy")
EFFECTS = np.array([0.7, 0.56, 0.42, 0.28, 0.14, 0, 0, 0, 0, 0])
INTERCEPT = -1.2
SHARED = 1.0
"""Standard deviation of what the rows of a patient share, on the logit scale."""
PEOPLE = 20_000
ROWS_A_PATIENT = 3
LEFT_TO_RIGHT = ("own", "procedure")
COMPARATOR = "logistic_regression"
"""Under whose name the risks are judged, whatever made them."""


class Table(NamedTuple):
    """Predictors (rows, 10), outcomes (rows,), and the patient of each row."""

    x: Array
    y: Array
    patient: NDArray[np.int_]


class People(NamedTuple):
    """Predictors (people, 10), and the chance of the outcome (people,)."""

    x: Array
    risk: Array

    def judged(self, risk: Array) -> list[float]:
        """METRICS of a model's risks (people,): each person counts as an event by the chance of
        it, and as no event by the rest."""
        y = np.repeat([1.0, 0.0], len(risk))
        found = all_metrics(y, np.tile(risk, 2), np.concatenate([self.risk, 1 - self.risk]))
        return [float(found[name]) for name in METRICS]


def draw(rows: int, clustered: bool, draws: np.random.Generator) -> Table:
    """Rows of the population; `clustered`: three of each patient."""
    patient = np.arange(rows) // (ROWS_A_PATIENT if clustered else 1)
    x = draws.normal(size=(rows, len(EFFECTS)))
    shared = draws.normal(scale=SHARED, size=patient.max() + 1)[patient] if clustered else 0.0
    if clustered:  # a patient's own predictors are alike too
        x = np.sqrt(0.5) * x + np.sqrt(0.5) * draws.normal(size=(patient.max() + 1, len(EFFECTS)))[patient]
    return Table(x, (draws.random(rows) < _share(INTERCEPT + x @ EFFECTS + shared)).astype(float), patient)


def people(clustered: bool, draws: np.random.Generator) -> People:
    """Further people, a row each; what patients share is averaged over."""
    x = draws.normal(size=(PEOPLE, len(EFFECTS)))
    places, weights = np.polynomial.hermite_e.hermegauss(30) if clustered else (np.zeros(1), np.ones(1))
    logit = (INTERCEPT + x @ EFFECTS)[:, None] + SHARED * places
    return People(x, _share(logit) @ (weights / weights.sum()))


def _share(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit)))


MODELS: dict[str, Callable[[], Any]] = {  # of the kind that a run fits, without its reading of columns
    "logistic_regression": lambda: LogisticRegression(C=1.0),
    "lightgbm": lambda: LGBMClassifier(
        n_estimators=40, num_leaves=4, min_child_samples=10, learning_rate=0.1, n_jobs=1, verbose=-1
    ),
}


def folds_of(table: Table, folds: int, repeat: int, seed: int) -> NDArray[np.int_]:
    """(rows,) the fold of each row, from 1, as a run draws it."""
    rows = len(table.y)
    frame = pl.DataFrame(
        {
            "x": table.x[:, 0],
            "patient": [f"p{number}" for number in table.patient],
            EVENT: table.y.astype(np.int8),
            ROW_ID: [f"r{row}" for row in range(rows)],
        }
    )
    columns = {"x": {}, "y": {"role": "target"}, "patient": {"role": "group", "type": "text"}}
    data = DataConfig.model_validate({"path": "generated.csv", "columns": columns})
    found = np.zeros(rows, dtype=np.int_)
    for fold in range(1, folds + 1):
        split = SplitConfig(by="cross_validation", folds=folds, repeats=repeat, repeat=repeat, fold=fold)
        found[split_cohort(Cohort(frame, []), data, split, seed) == "test"] = fold
    return found


def cross_validated(
    table: Table, others: People, model: Callable[[], Any], folds: int, repeats: int, seed: int
) -> tuple[list[Prediction], Array]:
    """The rows of `predictions.jsonl`, and the mean over all fits of METRICS among the people."""
    rows, lines, truths = len(table.y), [], []
    clusters = table.patient if table.patient.max() + 1 < rows else None
    for repeat in range(1, repeats + 1):
        fold, risks = folds_of(table, folds, repeat, seed), np.zeros(rows)
        for number in range(1, folds + 1):
            held = fold == number
            fitted = model().fit(table.x[~held], table.y[~held])
            risks[held] = fitted.predict_proba(table.x[held])[:, 1]
            truths.append(others.judged(fitted.predict_proba(others.x)[:, 1]))
        ids = [f"r{row}" for row in range(rows)]
        own = prediction_rows(
            COMPARATOR, ids, ["test"] * rows, table.y.astype(int), risks, risks, 0.5, clusters=clusters
        )
        lines += [replace(row, repeat=repeat, fold=int(number)) for row, number in zip(own, fold, strict=True)]
    return lines, np.mean(truths, axis=0)


def measure(
    rows: int, name: str, asked: argparse.Namespace, draws: np.random.Generator
) -> dict[str, dict[str, float | None]]:
    """Metric -> coverage of both truths, mean estimate, truth and width, over the tables."""
    others = people(asked.clustered, draws)
    estimates, intervals, truths = [], [], []
    for number in range(asked.tables):
        table = draw(rows, asked.clustered, draws)
        lines, truth = cross_validated(table, others, MODELS[name], asked.folds, asked.repeats, number)
        if asked.once:
            lines = [replace(row, repeat=None, fold=None) for row in lines if row.repeat == 1]
        judged = evaluate_predictions(lines, asked.replicates, number)["parts"]["test"]["models"][COMPARATOR]
        estimates.append([judged[metric]["value"] for metric in METRICS])
        intervals.append([judged[metric]["ci"] or (-np.inf, np.inf) for metric in METRICS])
        truths.append(truth)
    low, high = np.moveaxis(np.array(intervals), -1, 0)
    own = np.array(truths)
    wanted = {"own": own, "procedure": np.broadcast_to(own.mean(axis=0), own.shape)}
    found: dict[str, dict[str, float | None]] = {}
    for place, metric in enumerate(METRICS):
        held = {which: float(((low <= true) & (true <= high))[:, place].mean()) for which, true in wanted.items()}
        width = float((high - low)[:, place].mean())
        means = {"estimate": float(np.mean(estimates, axis=0)[place]), "truth": float(own.mean(axis=0)[place])}
        found[metric] = {**held, **means, "width": width if np.isfinite(width) else None}
    return found


def options(words: list[str] | None) -> argparse.Namespace:
    """What is asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, nargs="+", default=[300, 3000])
    asked.add_argument("--models", nargs="+", choices=list(MODELS), default=["logistic_regression"])
    asked.add_argument("--tables", type=int, default=200)
    asked.add_argument("--folds", type=int, default=5)
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--replicates", type=int, default=200)
    asked.add_argument("--clustered", action="store_true")
    asked.add_argument("--once", action="store_true")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--json", type=Path)
    return asked.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure, and print a table for each number of rows and each model."""
    asked = options(words)
    results = []
    for rows in asked.rows:
        for name in asked.models:
            begun = time.perf_counter()
            found = measure(rows, name, asked, np.random.default_rng([asked.seed, rows]))
            seconds = round(time.perf_counter() - begun, 1)
            results.append({"rows": rows, "model": name, "seconds": seconds, "metrics": found})
            say(f"\n{asked.tables} tables of {rows} rows, {name}, {seconds:.0f} s")
            say(f"{'':20}" + "".join(f"{head:>11}" for head in (*LEFT_TO_RIGHT, "estimate", "truth", "width")))
            for metric, line in found.items():
                say(f"{metric:20}" + "".join(f"{'-' if v is None else format(v, '.3f'):>11}" for v in line.values()))
    if asked.json:
        settings = {key: value for key, value in vars(asked).items() if key != "json"}
        write_json(asked.json, {"settings": settings, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
