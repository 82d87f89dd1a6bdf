"""Seconds and peak memory of thresholds, evaluation and report on a large test part with three
models, step by step.

    python -m benchmarks.evaluate_scale --rows 500000 --json evaluate_scale.json

The rows are generated in the columns of the cardio dictionary, and so many are in the test part; a
tenth of the table is the validation part. Each model's risks are the outcome's true log-odds with
more or less noise, so that nothing has to be trained; from there on the stages are those of a run.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare import Steps
from benchmarks.tables import cardio_table
from benchmarks.worker import peak_memory_mib
from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.cohort import EVENT, ROW_ID
from cardiotune.data.prepare import Prepared
from cardiotune.files import write_json
from cardiotune.models import thresholds
from cardiotune.models.predictions import prediction_rows, write_predictions
from cardiotune.runs import RunFolder
from cardiotune.settings import Config

LIMITS = {"seconds": 600, "peak_mib": 8192}
"""What 500,000 rows in the test part may take on two cores, the three steps together."""
NOISE = {"tuned": 0.3, "logistic_regression": 0.5, "lightgbm": 0.4}
"""Model -> standard deviation of what it adds to the true log-odds."""
TEST, VALIDATION = 0.8, 0.1
SETTINGS = [
    f"split.test={TEST}",
    f"split.validation={VALIDATION}",
    "models=[logistic_regression,lightgbm]",
    "task.threshold=0.5",
    "evaluation.thresholds=[{value: 0.1}, {rule: youden}, {rule: sensitivity, at: 0.9}, {rule: net_benefit, at: 0.1}]",
    "evaluation.keep_row_ids=true",
]


def true_log_odds(prepared: Prepared) -> np.ndarray:
    """(rows,) what `cardio_table` draws the outcome from, as far as the cohort's columns tell
    it."""
    frame = prepared.cohort.frame
    age, pressure, cholesterol, weight = (
        frame[name].cast(float).fill_null(strategy="mean").to_numpy()
        for name in ("age", "ap_hi", "cholesterol", "weight")
    )
    years = age / 365.25 if age.mean() > 1000 else age
    return np.asarray(0.07 * (years - 53) + 0.06 * (pressure - 127) + 0.5 * (cholesterol - 1.4) + 0.02 * (weight - 74))


def predict(run: RunFolder, config: Config, prepared: Prepared, seed: int = 0) -> dict[str, np.ndarray]:
    """Made-up `predictions.jsonl` of the validation and test part; returns each model's risks of
    all rows."""
    draw, log_odds = np.random.default_rng(seed), true_log_odds(prepared)
    risks = {m: 1 / (1 + np.exp(-(log_odds + draw.normal(0, noise, len(log_odds))))) for m, noise in NOISE.items()}
    frame, rows = prepared.cohort.frame, np.flatnonzero(np.isin(prepared.parts, ["validation", "test"]))
    told = frame[rows]
    write_predictions(
        run.predictions,
        [
            row
            for model, risk in risks.items()
            for row in prediction_rows(
                model,
                told[ROW_ID],
                prepared.parts[rows].tolist(),
                told[EVENT],
                risk[rows],
                risk[rows] ** (1.2 if model == "tuned" else 1),
                config.task.flagged_at,
            )
        ],
    )
    return risks


def measure(rows: int, folder: Path, *overrides: str) -> dict[str, Any]:
    """The steps one by one; making the run folder and the predictions does not count."""
    table = folder / "table.csv"
    cardio_table(round(rows / TEST)).write_csv(table, separator=";")
    config = load_config("cardio_published", [f"data.path={table}", f"runs_dir={folder}", *SETTINGS, *overrides])
    run, prepared = stages.prepare(config)
    risks = predict(run, config, prepared)
    made = peak_memory_mib()
    clock = Steps()
    held = prepared.rows("validation")
    before = time.process_time()
    with clock.step("thresholds"):
        y_true = prepared.cohort.events[held].astype(float)
        rules = config.thresholds
        fixed = {
            model: [threshold.as_json() for threshold in thresholds.fix(rules, y_true, risk[held])]
            for model, risk in risks.items()
        }
        write_json(run.calibration, {"thresholds": fixed})
        run.record(run.predictions, run.calibration)
    with clock.step("evaluate"):
        metrics = stages.evaluate(run, prepared)
    with clock.step("report"):
        page = stages.report(run)
    part = metrics["parts"]["test"]
    seconds = sum(step["seconds"] for step in clock.measured.values())
    return {
        "rows": part["n"],
        "models": list(NOISE),
        "validation_rows": len(held),
        "replicates": part.get("replicates", metrics["interval"]["replicates"]),
        "report_kib": page.stat().st_size // 1024,
        "cpus": os.cpu_count(),
        "steps": clock.measured,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - before, 1),
        "peak_mib_before": round(made),
        "peak_mib": round(peak_memory_mib()),
        "limits": LIMITS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the test part")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(asked.rows, Path(folder), *asked.set)
    print(
        f"{found['rows']:,} test rows, {len(NOISE)} models, {found['replicates']} replicates: {found['seconds']:.1f} s "
        f"({found['cpu_seconds']:.0f} s of processors), {found['peak_mib']} MiB; "
        f"limits for 500,000: {LIMITS['seconds']} s, {LIMITS['peak_mib']} MiB"
    )
    if asked.json:
        write_json(asked.json, found)


if __name__ == "__main__":
    main()
