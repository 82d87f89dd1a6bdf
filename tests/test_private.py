"""What commands write is for their user alone, whatever the umask: files 0600, folders 0700."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import build_toy_table, write_toy_experiment
from test_cli import call


@pytest.fixture(params=[0, pytest.param(0o077, marks=pytest.mark.slow), pytest.param(0o027, marks=pytest.mark.slow)])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wider_than_the_owner(folder: Path, own: set[Path]) -> dict[str, str]:
    """Paths below a folder, but for a test's `own`, that others may do something with."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path not in own}
    assert len(modes) > 40
    allowed = {path: 0o700 if path.is_dir() else 0o600 for path in modes}
    return {str(path.relative_to(folder)): oct(mode) for path, mode in modes.items() if mode & ~allowed[path]}


def test_no_command_writes_for_others(tmp_path: Path, toy_model: Path, umask: int) -> None:
    experiment = write_toy_experiment(tmp_path, toy_model)
    table = tmp_path / "new.csv"
    build_toy_table(60, seed=3).write_csv(table)
    own = set(tmp_path.rglob("*"))
    run, out = tmp_path / "runs" / "toy", tmp_path / "deep" / "er"
    settings = ["models=[logistic_regression,tuned,stacked]", "train.save_every=1", "train.max_steps=4"]
    for command in (
        ["run", experiment, *settings],
        ["predict", run, table, "--out", out / "risks.csv"],
        ["predict", run, table, "--out", out / "risks.parquet", "--chunk-rows", "20"],
        ["export", run, "--to", "merged", "--out", out / "exported"],
        ["recalibrate", run, tmp_path / "table.csv"],
        ["evaluate", run, "--checkpoint", "checkpoints/step-000004", "--table", tmp_path / "table.csv"],
        ["probe", run, "--rows", "5"],
        ["init", table, "--target", "disease", "--out", out / "study"],
        ["synth", "ukb", "--rows", "50", "--out", out / "synthetic"],
        ["train", run, "--resume"],
        ["report", run],
        ["run", experiment, *settings[1:], "models=[logistic_regression]", "--overwrite"],
        ["learn-curve", experiment, "models=[logistic_regression]", "--sizes", "40,all", "--seeds", "1"],
    ):
        done = call(*command)
        assert done.exit_code == 0, done.output
        assert os.umask(umask) == umask, "it is the user's again"
    assert wider_than_the_owner(tmp_path, own) == {}


def test_what_replaces_a_readable_file_is_not_readable(tmp_path: Path, toy_model: Path, umask: int) -> None:
    """As a run of an earlier version, or a file that a user has made."""
    experiment = write_toy_experiment(tmp_path, toy_model)
    run = tmp_path / "runs" / "toy"
    run.mkdir(parents=True)
    run.chmod(0o755)
    assert call("prepare", experiment, "models=[logistic_regression]").exit_code == 0
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    (run / "predictions.jsonl").write_text("old")
    (run / "predictions.jsonl").chmod(0o666)
    assert call("predict", run).exit_code == 0
    assert stat.S_IMODE((run / "predictions.jsonl").stat().st_mode) == 0o600
