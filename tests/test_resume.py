"""Interrupted and resumed: the same numbers, whatever the moment, and damaged checkpoints are
passed over."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cardiotune import reopen, stages
from cardiotune.config import load_config
from cardiotune.errors import DataError, ModelError
from cardiotune.files import sha256
from cardiotune.runs import RunFolder
from cardiotune.training import checkpoint
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


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[RunFolder, Path], None]) -> None:
    """After the checkpoint of a step is written, do something with the best step's."""
    drop_old = checkpoint.drop_old

    def act_then(run: RunFolder, keep: set[int], newest: int, current: int) -> None:
        drop_old(run, keep, newest, current)
        if current == step:
            act(run, run.checkpoints / f"step-{max(keep, default=current):06d}")

    monkeypatch.setattr(checkpoint, "drop_old", act_then)


def stop_at(run: Path, step: int) -> None:
    """Interrupt the training, in this process, when the checkpoint of a step is written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, stop)
        with pytest.raises(KeyboardInterrupt):
            stages.train(reopen.open_run(run))


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
    stages.train(reopen.open_run(run), resume=True)
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
    stages.train(reopen.open_run(run), resume=True)
    assert_same(run, whole)


def test_a_damaged_newest_checkpoint_is_passed_over(
    experiment: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(experiment, "damaged")
    stop_at(run, 12)
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    file = newest / "optimizer.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    stages.train(reopen.open_run(run), resume=True)
    assert "damaged checkpoint passed over" in caplog.text
    assert_same(run, whole)


def test_resuming_a_finished_training_changes_nothing(experiment: Path, whole: Path) -> None:
    before = (whole / ADAPTER).read_bytes()
    stages.train(reopen.open_run(whole), resume=True)
    assert (whole / ADAPTER).read_bytes() == before


def test_changed_settings_and_table_are_refused(experiment: Path) -> None:
    run = prepared(experiment, "changed")
    stop_at(run, 3)
    config = run / "config.yaml"
    original = config.read_text()
    config.write_text(original.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    with pytest.raises(ModelError, match=r"config.yaml: differs from what the run recorded"):
        stages.train(reopen.open_run(run), resume=True)
    files = reopen.open_run(run).read_manifest()["files"]
    changed = {**files, "config.yaml": sha256(config)}  # as if the checkpoint had come from another run
    reopen.open_run(run).update_manifest(files=changed)
    with pytest.raises(ModelError, match=r"learning_rate"):
        stages.train(reopen.open_run(run), resume=True)
    config.write_text(original)
    reopen.open_run(run).update_manifest(files=files)
    table = experiment.parent / "table.csv"
    content = table.read_bytes()
    try:
        table.write_bytes(content + b"P99999,50,1,120,0,none,1\n")
        with pytest.raises(DataError, match="has changed since"):
            stages.train(reopen.open_run(run), resume=True)
    finally:
        table.write_bytes(content)


# --------------------------------------------------------------------------------------------------
# damaged while it is needed


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a byte": lambda folder: flip(folder / "weights" / "adapter_model.safetensors"),
    "cut short": lambda folder: os.truncate(folder / "weights" / "adapter_model.safetensors", 100),
    "no weights": lambda folder: shutil.rmtree(folder / "weights"),
    "gone": shutil.rmtree,
}


def small(experiment: Path, name: str) -> RunFolder:
    overrides = [f"name={name}", "train.max_steps=8", "train.evaluate_every=2", "train.save_every=null"]
    return stages.prepare(load_config(experiment, overrides))[0]


def check_published(run: RunFolder, lost: str) -> None:
    """The best of the steps that are left; each is known by its weights."""
    summary = json.loads(run.training.read_text())
    kept = run.checkpoints / f"step-{summary['selected_step']:06d}"
    assert kept.name != lost and int(lost.removeprefix("step-")) in summary["better_steps_lost"]
    assert (run.path / ADAPTER).read_bytes() == (kept / "weights" / "adapter_model.safetensors").read_bytes()
    left = [look for look in summary["history"]["validation"] if look["step"] not in summary["better_steps_lost"]]
    assert min(left, key=lambda look: look["log_loss"])["step"] == summary["selected_step"]


@pytest.mark.parametrize(("step", "kind"), [(4, "a byte"), (4, "gone"), (8, "cut short"), (8, "no weights")])
def test_a_damaged_best_step_is_noticed_at_the_next_look_and_another_is_taken(
    experiment: Path, kind: str, step: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = small(experiment, f"lost_{step}_{kind.replace(' ', '_')}")
    damaged: list[str] = []
    told: list[bool] = []

    def damage(_: RunFolder, best: Path) -> None:
        DAMAGE[kind](best)
        damaged.append(best.name)

    at_step(monkeypatch, 6, lambda *_: told.append("is lost" in caplog.text))
    at_step(monkeypatch, step, damage)
    stages.train(run)
    assert told == [step == 4], "not when training is over"
    assert f"the best step, {int(damaged[0].removeprefix('step-'))}, is lost" in caplog.text
    if step == 8:
        check_published(run, damaged[0])
    else:  # a later step may be better than the one that was lost
        assert json.loads(run.training.read_text())["selected_step"] != int(damaged[0].removeprefix("step-"))


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_best_step_is_noticed_when_training_is_resumed(
    experiment: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = small(experiment, f"lost_at_rest_{kind.replace(' ', '_')}")
    best: list[Path] = []

    def stop(_: RunFolder, folder: Path) -> None:
        best.append(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        at_step(patched, 6, stop)
        with pytest.raises(KeyboardInterrupt):
            stages.train(run)
    DAMAGE[kind](best[0])
    told: list[bool] = []
    at_step(monkeypatch, 8, lambda *_: told.append("damaged checkpoint passed over" in caplog.text or kind == "gone"))
    stages.train(run, resume=True)
    assert told == [True]
    selected = json.loads(run.training.read_text())["selected_step"]
    folder = run.checkpoints / f"step-{selected:06d}" / "weights" / "adapter_model.safetensors"
    assert (run.path / ADAPTER).read_bytes() == folder.read_bytes()


def test_nothing_is_published_when_no_step_is_left(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small(experiment, "all_lost")
    at_step(monkeypatch, 8, lambda run, _: [flip(file) for file in run.checkpoints.rglob("adapter_model.safetensors")])
    with pytest.raises(ModelError, match="no step that was judged on the validation part is whole"):
        stages.train(run)
    assert not run.adapter.exists()
