"""What a model costs: start, fit and scoring are measured apart, and scale as they should."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.models.costs import clock, scoring, starting
from cardiotune.models.risks import CohortRisks
from cardiotune.report.record import read_record
from cardiotune.report.report import as_text
from cardiotune.runs import RunFolder
from conftest import TOY_COLUMNS, build_toy_table, toy_config, write_toy_experiment

REST = 0.05
"""Seconds that stand for work."""


def test_each_kind_of_time_is_counted_once() -> None:
    with clock() as running:
        with starting():
            time.sleep(REST)
            with scoring(4):  # a model that checks itself while it is loaded
                time.sleep(REST)
        time.sleep(REST)  # fitting
        with scoring(200):
            time.sleep(REST)
        with scoring(200):  # a second step over the same rows
            time.sleep(REST)
    entry = running.entry()
    assert entry["rows"] == 200
    for name, rests in (("start_seconds", 2), ("fit_seconds", 1), ("seconds", 2)):
        assert rests * REST <= entry[name] < (rests + 1) * REST, name


def test_without_a_clock_nothing_is_measured_and_nothing_fails() -> None:
    with starting(), scoring(3):
        pass
    with clock() as running, pytest.raises(ValueError, match="broken"), scoring(3):
        raise ValueError("broken")
    with scoring(7):
        pass
    assert running.entry()["rows"] == 0


def scored(folder: Path, model: Path, rows: int) -> dict[str, dict[str, Any]]:
    """The costs in the manifest of a run without training, of that many rows."""
    folder.mkdir()
    build_toy_table(rows).write_csv(folder / "table.csv")
    models = ["prevalence", "logistic_regression", "lightgbm", "tfidf", "zero_shot", "few_shot", "embedding"]
    data = {"path": str(folder / "table.csv"), "columns": TOY_COLUMNS}
    config = toy_config(model, data=data, models=models, runs_dir=str(folder))
    run, prepared = RunFolder(folder / "toy"), read_prepared(config)
    run.update_manifest(base_model={})
    CohortRisks(run, config, prepared).all()
    found: dict[str, dict[str, Any]] = run.read_manifest()["scoring"]
    return found


def test_the_rate_does_not_depend_on_how_many_rows_are_scored(tmp_path: Path, toy_model: Path) -> None:
    # The least of three, for another process on the machine makes few rows slow more easily than
    # many.
    repeats = [scored(tmp_path / f"few{repeat}", toy_model, 300) for repeat in range(3)]
    few, many = repeats[0], scored(tmp_path / "many", toy_model, 3000)
    assert many["zero_shot"]["rows"] == 1200 == 10 * few["zero_shot"]["rows"], "validation and test"
    assert many["embedding"]["rows"] == 3000, "and the training rows that it is fitted on"
    assert many["lightgbm"]["rows"] == 3000
    for model in ("zero_shot", "few_shot"):
        rates = [1000 * costs[model]["seconds"] / costs[model]["rows"] for costs in (*repeats, many)]
        assert 1 / 5 < rates[-1] / min(rates[:-1]) < 5, (model, rates)
    assert few["embedding"]["start_seconds"] + few["zero_shot"]["start_seconds"] > 0, "the base model was loaded"
    # Starting would make few rows dear: it is not in the rate.
    assert few["few_shot"]["device"] == "cpu" and few["few_shot"]["processes"] == 1
    assert "device" not in few["lightgbm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    file = write_toy_experiment(tmp_path_factory.mktemp("costs"), toy_model)
    models = "models=[logistic_regression,lightgbm,zero_shot,tuned,stacked]"
    return stages.run(load_config(file, [models, "train.max_steps=2"]))


def test_costs_add_up_to_the_stage(run: RunFolder) -> None:
    manifest = run.read_manifest()
    spent = sum(
        sum(cost[name] for name in ("seconds", "start_seconds", "fit_seconds")) for cost in manifest["scoring"].values()
    )
    stage = manifest["stages"]["predict"]["seconds"]
    assert 0.8 * stage - 0.2 < spent <= stage + 0.02


def lines(run: RunFolder) -> dict[str, list[str]]:
    """Model -> the cells of its line in the report's table of costs."""
    table = as_text(read_record(run)).split("## What it cost")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    return {name: cells for name, *cells in rows if len(cells) == 6}


def test_the_report_tells_the_rate_and_how_many_rows_it_is_from(run: RunFolder) -> None:
    manifest, found = run.read_manifest(), lines(run)
    costs = manifest["scoring"]["tuned"]
    start, fit, score, rows, rate, _ = found["Tuned LLM"]
    assert rows == str(costs["rows"]) == "96"
    assert float(rate) == pytest.approx(1000 * costs["seconds"] / 96, rel=0.01)
    assert (
        float(score) == pytest.approx(costs["seconds"], rel=0.01) if "under" not in score else costs["seconds"] < 0.01
    )
    assert float(fit) == pytest.approx(costs["fit_seconds"] + manifest["stages"]["train"]["seconds"], rel=0.01)
    assert float(start) == pytest.approx(costs["start_seconds"], rel=0.01)


def test_the_stack_costs_the_tuned_model_that_it_needs(run: RunFolder) -> None:
    manifest, found = run.read_manifest(), lines(run)
    own, tuned = (manifest["scoring"][model] for model in ("stacked", "tuned"))
    *_, rate, _ = found["Stacked, with the Tuned LLM it needs"]
    both = 1000 * own["seconds"] / own["rows"] + 1000 * tuned["seconds"] / tuned["rows"]
    assert float(rate) == pytest.approx(both, rel=0.01)
    assert own["seconds"] > 0 and float(rate) >= float(found["Tuned LLM"][4])


def test_predicting_again_replaces_the_costs_and_costs_of_an_earlier_version_are_named(run: RunFolder) -> None:
    before = run.read_manifest()["scoring"]
    stages.predict(run)
    after = run.read_manifest()["scoring"]
    assert after.keys() == before.keys()
    assert after["tuned"]["rows"] == before["tuned"]["rows"]
    stages.evaluate(run)
    run.update_manifest(scoring={"tuned": {"rows": 96, "seconds": 3.2}})  # all that was spent, as it once was written
    found = lines(run)
    assert "Tuned LLM, starting and fitting included" in found
    run.update_manifest(scoring={"tuned": after["tuned"]})


def test_a_gpu_draws_for_the_language_model_alone(run: RunFolder) -> None:
    manifest = json.loads(run.manifest.read_text())
    costs = manifest["scoring"]
    run.update_manifest(scoring={"tuned": {**costs["tuned"], "device": "cuda:0", "processes": 2}})
    text, found = as_text(read_record(run)), lines(run)
    run.update_manifest(scoring={"tuned": costs["tuned"]})
    assert "65 W (processor), 300 W (GPU)" in text and "in 2 processes" in text
    rate, energy = (float(cell) for cell in found["Tuned LLM"][4:6])
    assert energy == pytest.approx(rate * 600 / 3600, rel=0.06)
    assert re.search(r"\| LightGBM \| 0 \|", text)
