"""Two real processes on a CPU (gloo): the losses and predictions of one process with the same
global batch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
import yaml

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.runs import RunFolder
from conftest import TOY_COLUMNS, build_toy_table
from test_processes import watched

METHODS = {"lora": {"kind": "lora", "r": 4}, "full": {"name": "full", "kind": "full"}}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    build_toy_table(103).write_csv(folder / "table.csv")  # a number that two processes cannot share evenly
    tree: dict[str, Any] = {
        "name": "one",
        "runs_dir": str(folder / "runs"),
        "data": {"path": "table.csv", "columns": TOY_COLUMNS},
        "task": {"outcome": "heart disease"},
        "model": {"name": "toy", "path": str(toy_model), "dtype": "float32"},
        "train": {"max_steps": 6, "evaluate_every": 3, "learning_rate": 0.01, "threads": 1},
        "evaluation": {"bootstrap": 100, "score_batch_tokens": 256},
        "models": ["zero_shot", "tuned"],
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(tree))
    return folder / "experiment.yaml"


def run_in(experiment: Path, name: str, method: str, processes: int, *more: str) -> RunFolder:
    """A run whose step has 16 rows: 2 processes x 2 passes x 4, or 1 x 2 x 8."""
    size = 16 // (2 * processes)
    overrides = [f"name={name}", f"method={json.dumps(METHODS[method])}", f"launch.processes={processes}"]
    overrides += [f"train.batch_size={size}", "train.gradient_accumulation=2", *more]
    if method == "full":
        overrides.append("train.learning_rate=0.001")
    return stages.run(load_config(experiment, overrides))


def history(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.training.read_text())["history"]


def assert_agree(many: RunFolder, one: RunFolder) -> None:
    """Losses to 1e-4, predictions to 1e-3 (float32: sums are taken in another order)."""
    losses = [[entry["loss"] for entry in history(run)["steps"]] for run in (many, one)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    looks = [[look["log_loss"] for look in history(run)["validation"]] for run in (many, one)]
    np.testing.assert_allclose(looks[0], looks[1], rtol=1e-4)
    frames = [pl.read_ndjson(run.predictions).sort("model", "row_id") for run in (many, one)]
    assert frames[0]["row_id"].to_list() == frames[1]["row_id"].to_list()
    np.testing.assert_allclose(frames[0]["y_prob"], frames[1]["y_prob"], atol=1e-3)


@pytest.fixture(scope="module")
def one(experiment: Path) -> dict[str, RunFolder]:
    return {method: run_in(experiment, f"one_{method}", method, 1) for method in METHODS}


def test_two_processes_train_and_predict_like_one(
    experiment: Path, one: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(tmp_path, monkeypatch) as listening:
        many = run_in(experiment, "two_lora", "lora", 2)
    assert_agree(many, one["lora"])
    assert listening == {"127.0.0.1"}, "gradients go from one to the other, and nobody else can connect"


def test_a_failure_in_a_process_ends_all_of_them_in_one_line(experiment: Path) -> None:
    folder, _ = stages.prepare(load_config(experiment, ["name=broken", "launch.processes=2"]))
    folder.split.write_bytes(b"damaged")
    folder.config.write_text(folder.config.read_text().replace("table.csv", "gone.csv"))
    folder.record(folder.config)
    command = [sys.executable, "-m", "cardiotune", "train", str(folder.path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 3
    assert ended.stderr.count("error") == 1 and "gone.csv: no such file" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_killed_process_ends_the_run(experiment: Path) -> None:
    """As when the system is out of memory: no process can say why."""
    folder, _ = stages.prepare(load_config(experiment, ["name=killed", "launch.processes=2", "train.max_steps=100000"]))
    command = [sys.executable, "-m", "cardiotune", "train", str(folder.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not list(folder.checkpoints.glob("step-*")):
            time.sleep(0.2)
        workers = [p for p in psutil.Process(running.pid).children(recursive=True) if p.environ().get("RANK") == "1"]
        workers[0].kill()
        error = running.communicate(timeout=120)[1]
    assert running.returncode == 5
    assert "one of 2 processes was killed by SIGKILL" in error
    assert error.count("error") == 1 and "Traceback" not in error


@pytest.mark.slow
def test_processes_started_by_another_launcher_do_the_same(experiment: Path, one: dict[str, RunFolder]) -> None:
    """As on several machines: torchrun or DeepSpeed starts the processes, none of ours waits for
    them."""
    overrides = ["name=by_torchrun", "method.r=4", "train.batch_size=4", "train.gradient_accumulation=2"]
    folder, _ = stages.prepare(load_config(experiment, overrides))
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cardiotune"]
    for command in ("train", "predict"):
        subprocess.run([*starter, command, str(folder.path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_agree(folder, one["lora"])


@pytest.mark.slow
def test_two_processes_train_all_weights_like_one(experiment: Path, one: dict[str, RunFolder]) -> None:
    assert_agree(run_in(experiment, "two_full", "full", 2), one["full"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("stage", ["zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_deepspeed_trains_and_predicts_like_one_process(
    experiment: Path, one: dict[str, RunFolder], method: str, stage: str
) -> None:
    many = run_in(experiment, f"{stage}_{method}", method, 2, f"use.deepspeed={stage}")
    shards = [file.name for file in (many.checkpoints / "step-000006" / "engine" / "engine").iterdir()]
    assert sum("optim_states" in name for name in shards) == 2, "each process keeps its own share of the optimizer"
    assert sum("zero_pp" in name for name in shards) >= 2
    assert_agree(many, one[method])
    if method == "lora":
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(load_config(experiment).model.path)
        assert PeftModel.from_pretrained(base, many.adapter)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, "zero2", "zero3"])
def test_many_processes_resume_where_they_stopped(
    experiment: Path, one: dict[str, RunFolder], stage: str | None
) -> None:
    more = [f"use.deepspeed={stage}"] if stage else []
    name = f"resumed_{stage}"
    config = load_config(
        experiment,
        [
            f"name={name}",
            "method.r=4",
            "launch.processes=2",
            "train.batch_size=4",
            "train.gradient_accumulation=2",
            *more,
        ],
    )
    folder, _ = stages.prepare(config)
    stages.train(folder)
    whole = history(folder)["steps"]
    # As if it had been killed after the look at step 3: the later checkpoint and the result are
    # gone.
    import shutil

    shutil.rmtree(folder.checkpoints / "step-000006")
    shutil.rmtree(folder.adapter)
    folder.training.unlink()
    stages.train(folder, resume=True)
    losses = [[entry["loss"] for entry in steps] for steps in (history(folder)["steps"], whole)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
