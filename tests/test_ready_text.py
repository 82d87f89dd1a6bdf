"""Patients already written as text, in JSON or JSONL: the same stages, but nothing is
serialized."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune import stages, studies
from cardiotune.config import load_config
from cardiotune.data.counts import Step
from cardiotune.data.draft import draft
from cardiotune.data.prepare import read_prepared, show_prompts
from cardiotune.errors import ConfigError, DataError
from conftest import build_toy_table


def objects(rows: int = 160, seed: int = 0) -> list[dict[str, Any]]:
    """Toy patients in words. Line ends and runs of blanks are part of a ready text."""
    return [
        {
            "input": f"Age {row['age']} years.\n  Systolic pressure {row['sbp']} mmHg. Weight {50 + number / 10} kg.",
            "output": row["disease"],
        }
        for number, row in enumerate(build_toy_table(rows, seed).iter_rows(named=True))
    ]


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


@pytest.fixture
def experiment(tmp_path: Path, toy_model: Path) -> Path:
    write_lines(tmp_path / "train.jsonl", objects())
    (tmp_path / "test.json").write_text(json.dumps(objects(60, seed=1)))
    tree = {
        "name": "ready",
        "runs_dir": str(tmp_path / "runs"),
        "use": {"dataset": "ready_text"},
        "data": {"path": "train.jsonl"},
        "task": {"outcome": "heart disease"},
        "model": {"name": "toy", "path": str(toy_model), "dtype": "float32"},
        "train": {"max_steps": 3, "batch_size": 16, "learning_rate": 0.01, "threads": 1},
        "evaluation": {"bootstrap": 100},
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def test_ready_texts_run_to_a_report(experiment: Path) -> None:
    config = load_config(experiment)
    prepared = read_prepared(config)
    assert prepared.texts == [row["input"] for row in objects()]
    run = stages.run(config)
    metrics = json.loads(run.metrics.read_text())
    assert {"tuned", "zero_shot", "prevalence"} <= metrics["parts"]["test"]["models"].keys()
    assert run.report.is_file()
    scored = studies.score_table(run, str(experiment.parent / "test.json"), keep_ids=False)
    assert scored.height == 60 and scored["y_prob"].is_finite().all() and scored["values_missing"].sum() == 0


def test_a_test_file_of_its_own(experiment: Path) -> None:
    config = load_config(experiment, [f"data.test_path={experiment.parent / 'test.json'}", "split.validation=0.25"])
    assert config.split.by == "files"
    run = stages.run(config)
    parts = json.loads(run.cohort.read_text())["parts"]
    assert {part: count["n"] for part, count in parts.items()} == {"train": 120, "validation": 40, "test": 60}
    # The validation share is stratified, and drawn from the training file alone.
    share = np.mean([row["output"] for row in objects()])
    assert parts["validation"]["n_events"] == pytest.approx(40 * share, abs=1)
    predictions = pl.read_ndjson(run.predictions).filter(pl.col("part") == "test", pl.col("model") == "tuned")
    assert predictions["y_true"].to_list() == [row["output"] for row in objects(60, seed=1)]
    recorded = json.loads(run.manifest.read_text())["data"]
    assert recorded["file"] == "train.jsonl" and recorded["test"]["file"] == "test.json"
    again = studies.score_table(run, str(experiment.parent / "test.json"), keep_ids=False)
    np.testing.assert_allclose(again["y_prob"], predictions["y_prob"], atol=1e-5)
    (experiment.parent / "test.json").write_text(json.dumps(objects(59, seed=1)))
    with pytest.raises(DataError, match=r"test\.json: has changed since"):
        stages.predict(run)


def test_a_validation_file_too(experiment: Path) -> None:
    folder = experiment.parent
    write_lines(folder / "held.jsonl", objects(30, seed=2))
    paths = [f"data.test_path={folder / 'test.json'}", f"data.validation_path={folder / 'held.jsonl'}"]
    prepared = read_prepared(load_config(experiment, paths))
    assert {p: len(prepared.rows(p)) for p in ("train", "validation", "test")} == {
        "train": 160,
        "validation": 30,
        "test": 60,
    }
    with pytest.raises(ConfigError, match=r"data\.validation_path: goes with data\.test_path"):
        load_config(experiment, paths[1:])
    with pytest.raises(ConfigError, match=r"split\.by: files goes with data\.test_path"):
        load_config(experiment, ["split.by=files"])


def test_twins_over_files_are_kept_and_counted(experiment: Path) -> None:
    folder = experiment.parent
    write_lines(folder / "test.jsonl", objects(60, seed=1) + objects()[:7])
    config = load_config(experiment, [f"data.test_path={folder / 'test.jsonl'}"])
    run, prepared = stages.prepare(config)
    overlap = json.loads(run.exact_counts.read_text())["overlap"]["texts"]
    assert len(prepared.rows("test")) == 67
    assert overlap["test_in_train"] + overlap["test_in_validation"] >= 7


def test_a_patient_in_two_files_is_refused(experiment: Path) -> None:
    folder = experiment.parent
    named = [{**row, "pid": str(number)} for number, row in enumerate(objects())]
    write_lines(folder / "train.jsonl", named[:100])
    write_lines(folder / "test.jsonl", named[99:])
    paths = [f"data.test_path={folder / 'test.jsonl'}", "data.columns.pid={role: id}"]
    with pytest.raises(DataError, match="1 rows repeat an id"):
        read_prepared(load_config(experiment, paths))


def test_names_and_answers_are_configurable(experiment: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": row["input"], "answer": "ill" if row["output"] else "well", "instruction": "x"} for row in objects()
    ]
    (tmp_path / "dataset.yaml").write_text(
        "data: {columns: {prompt: {role: text}, answer: {role: target, positive: [ill]}}}"
    )
    write_lines(tmp_path / "train.jsonl", rows)
    prepared = read_prepared(load_config(experiment, ["use.dataset=./dataset.yaml"]))
    assert prepared.texts[:2] == [row["prompt"] for row in rows[:2]]
    assert prepared.cohort.events.tolist() == [row["output"] for row in objects()]
    assert prepared.cohort.notes.columns_ignored == ["instruction"]


def test_features_beside_a_ready_text_serve_the_classical_models(experiment: Path) -> None:
    ages = build_toy_table(160)["age"].to_list()
    write_lines(experiment.parent / "train.jsonl", [{**row, "age": a} for row, a in zip(objects(), ages, strict=True)])
    config = load_config(experiment, ["data.columns.age={type: integer}", "models=[prevalence,logistic_regression]"])
    assert read_prepared(config).texts == [row["input"] for row in objects()]
    metrics = json.loads(stages.run(config).metrics.read_text())["parts"]["test"]["models"]
    assert metrics["logistic_regression"]["auroc"]["value"] > 0.6


def test_rows_without_text_are_left_out_and_counted(experiment: Path) -> None:
    write_lines(experiment.parent / "train.jsonl", [*objects(), {"input": " ", "output": 1}, {"output": 0}])
    flow = read_prepared(load_config(experiment)).cohort.flow
    assert flow[1] == Step("text missing", 2, 160)


def test_init_drafts_ready_text(experiment: Path, tmp_path: Path, toy_model: Path) -> None:
    written = draft(str(tmp_path / "train.jsonl"), "output", tmp_path / "study")
    model = ["use={dataset: ./dataset.yaml}", f"model={{name: toy, path: {toy_model}}}", "models=[tuned]"]
    config = load_config(written.experiment, model)
    assert read_prepared(config).texts == [row["input"] for row in objects()]


def test_show_prints_no_real_text(experiment: Path) -> None:
    shown = "\n".join(show_prompts(load_config(experiment), 3, real_rows=False))
    assert "example text" in shown and "mmHg" not in shown
    assert objects()[0]["input"] not in shown
