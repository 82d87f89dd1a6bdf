"""Interrupted and resumed: the same numbers, whatever the moment, and damaged checkpoints are passed over."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.errors import DataError, ModelError
from conftest import TOY_COLUMNS, build_toy_table

ADAPTER = Path("adapter") / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    build_toy_table(200).write_csv(folder / "table.csv")
    tree = {
        "name": "whole",
        "runs_dir": str(folder / "runs"),
        "data": {"path": "table.csv", "columns": TOY_COLUMNS},
        "task": {"outcome": "heart disease"},
        "model": {"name": "toy", "path": str(toy_model), "dtype": "float32"},
        "method": {"dropout": 0.1},
        "train": {"max_steps": 40, "evaluate_every": 4, "save_every": 1, "learning_rate": 0.01, "threads": 1},
        "models": ["tuned"],
    }
    tree["train"]["early_stopping"] = None
    (folder / "experiment.yaml").write_text(yaml.safe_dump(tree))
    return folder / "experiment.yaml"


@pytest.fixture(scope="module")
def whole(experiment: Path) -> Path:
    """The run that nothing interrupted."""
    folder, prepared = stages.prepare(load_config(experiment))
    stages.train(folder, prepared)
    return folder.path


def start(run: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cardiotune", "train", str(run), *more]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(os.environ))


def steps_of(run: Path) -> list[dict[str, float]]:
    return json.loads((run / "logs" / "training.json").read_text())["history"]["steps"]


def assert_same(run: Path, whole: Path) -> None:
    assert steps_of(run) == steps_of(whole)
    assert (run / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def prepared(experiment: Path, name: str) -> Path:
    return stages.prepare(load_config(experiment, [f"name={name}"]))[0].path


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while not list((run / "checkpoints").glob(f"step-{step:04d}*")) and process.poll() is None:
        newest = max((int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")), default=0)
        if newest >= step:
            return
        time.sleep(0.002)


def kill_and_resume(experiment: Path, whole: Path, name: str, seed: int) -> bool:
    """Kill at a random moment after a random step; True when it was inside a save."""
    draw = random.Random(seed)
    run = prepared(experiment, name)
    process = start(run)
    wait_for_step(run, draw.randrange(1, 38), process)
    time.sleep(draw.random() * 0.05)
    process.kill()
    process.wait()
    inside = bool(list((run / "checkpoints").glob(".step-*")))
    stages.train(stages.open_run(run), resume=True)
    assert_same(run, whole)
    assert not list((run / "checkpoints").glob(".step-*"))
    return inside


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_resumed_gives_the_same_bytes(experiment: Path, whole: Path, seed: int) -> None:
    kill_and_resume(experiment, whole, f"killed{seed}", seed)


@pytest.mark.slow
def test_twenty_kills_some_inside_a_save(experiment: Path, whole: Path) -> None:
    inside = [kill_and_resume(experiment, whole, f"kill{seed}", 100 + seed) for seed in range(20)]
    assert any(inside)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_finish_the_step_and_save(experiment: Path, whole: Path, number: int, code: int) -> None:
    run = prepared(experiment, f"signal{code}")
    process = start(run)
    wait_for_step(run, 5, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    stages.train(stages.open_run(run), resume=True)
    assert_same(run, whole)


def test_a_damaged_newest_checkpoint_is_passed_over(
    experiment: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(experiment, "damaged")
    process = start(run)
    wait_for_step(run, 12, process)
    process.kill()
    process.wait()
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    file = newest / "optimizer.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    stages.train(stages.open_run(run), resume=True)
    assert "damaged checkpoint passed over" in caplog.text
    assert_same(run, whole)


def test_resuming_a_finished_training_changes_nothing(experiment: Path, whole: Path) -> None:
    before = (whole / ADAPTER).read_bytes()
    stages.train(stages.open_run(whole), resume=True)
    assert (whole / ADAPTER).read_bytes() == before


def test_changed_settings_and_table_are_refused(experiment: Path) -> None:
    run = prepared(experiment, "changed")
    process = start(run)
    wait_for_step(run, 3, process)
    process.kill()
    process.wait()
    config = run / "config.yaml"
    original = config.read_text()
    config.write_text(original.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    with pytest.raises(ModelError, match=r"learning_rate"):
        stages.train(stages.open_run(run), resume=True)
    config.write_text(original)
    table = experiment.parent / "table.csv"
    content = table.read_bytes()
    try:
        table.write_bytes(content + b"P99999,50,1,120,0,none,1\n")
        with pytest.raises(DataError, match="has changed since"):
            stages.train(stages.open_run(run), resume=True)
    finally:
        table.write_bytes(content)
