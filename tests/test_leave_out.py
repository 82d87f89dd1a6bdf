"""Every table in turn as the test part: whole runs, resumed and read again, and one report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cardiotune import stages, studies
from cardiotune.config import load_config
from cardiotune.errors import ConfigError
from cardiotune.report import leave_out
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from conftest import TOY_COLUMNS, build_toy_table


def hospitals(folder: Path, model: Path, **more: Any) -> Path:
    """An experiment of three toy hospitals."""
    tables = {}
    for seed, name in enumerate(("north", "south", "west")):
        build_toy_table(120, seed).write_csv(folder / f"{name}.csv")
        tables[name] = {"data": {"path": f"{name}.csv", "columns": TOY_COLUMNS}, "outcome": "heart disease"}
    tree = {
        "name": "hospitals",
        "runs_dir": str(folder / "runs"),
        "tables": tables,
        "model": {"name": "toy", "path": str(model), "dtype": "float32"},
        "method": {"r": 4, "alpha": 8},
        "train": {"max_steps": 4, "batch_size": 16, "threads": 1},
        "evaluation": {"bootstrap": 100},
        "models": ["prevalence", "logistic_regression"],
        **more,
    }
    file = folder / "hospitals.yaml"
    file.write_text(json.dumps(tree))
    return file


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Config:
    return load_config(hospitals(tmp_path_factory.mktemp("hospitals"), toy_model))


@pytest.fixture(scope="module")
def done(experiment: Config) -> tuple[dict[str, Any], Path]:
    return studies.leave_out(experiment)


def test_each_table_is_the_test_once_and_the_report_has_them_all(
    experiment: Config, done: tuple[dict[str, Any], Path]
) -> None:
    found, place = done
    assert place == experiment.run_path.with_name("hospitals_leave_out")
    assert list(found["tables"]) == ["north", "south", "west"]
    for name, table in found["tables"].items():
        run = RunFolder(place / name)
        metrics = json.loads(run.metrics.read_text())["parts"]["test"]
        assert table["n"] == metrics["n"] == 120
        assert (
            table["models"]["logistic_regression"]["auroc"]["value"]
            == (metrics["models"]["logistic_regression"]["auroc"]["value"])
        )
    mean = found["mean"]["logistic_regression"]["auroc"]
    values = [table["models"]["logistic_regression"]["auroc"]["value"] for table in found["tables"].values()]
    assert min(values) <= mean["value"] <= max(values)
    assert mean["prediction"][0] <= mean["ci"][0] < mean["ci"][1] <= mean["prediction"][1]
    assert json.loads((place / "leave_out.json").read_text()) == found
    text = (place / "leave_out.md").read_text()
    assert text.count("Logistic regression") == 4 and "north (120 rows" in text and "; next " in text
    assert (place / "leave_out.png").stat().st_size > 5000


def test_other_settings_or_tables_are_refused_before_any_run(
    experiment: Config, done: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = experiment.model_copy(update={"seed": 3})
    made: list[str] = []
    monkeypatch.setattr(studies, "run", lambda one, overwrite: made.append(one.name) or RunFolder(one.run_path))
    with pytest.raises(ConfigError, match=r"north: made with other settings \(seed\); set them back, .*--overwrite"):
        studies.leave_out(other)
    west = Path(experiment.tables["west"].data.path)
    before = west.read_bytes()
    build_toy_table(120, 9).write_csv(west)
    with pytest.raises(ConfigError, match="made with other tables"):
        studies.leave_out(experiment)
    west.write_bytes(before)
    assert not made
    studies.leave_out(other, overwrite=True)
    assert made == ["north", "south", "west"]


def test_finished_runs_are_read_and_others_made(
    experiment: Config, done: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, place = done
    before = (place / "north" / "predictions.jsonl").stat().st_mtime_ns
    shutil.rmtree(place / "west")
    RunFolder(place / "south").update_manifest(status="failed")
    made: list[str] = []
    monkeypatch.setattr(studies, "run", lambda one, overwrite: (made.append(one.name), stages.run(one, overwrite))[1])
    monkeypatch.setattr(studies, "go_on", lambda one: (made.append(f"on {one.name}"), stages.go_on(one))[1])
    assert studies.leave_out(experiment)[0] == first
    assert made == ["on south", "west"]
    assert (place / "north" / "predictions.jsonl").stat().st_mtime_ns == before


def test_a_stopped_training_goes_on_from_its_checkpoint(tmp_path: Path, toy_model: Path) -> None:
    settings = {"train": {"max_steps": 6, "batch_size": 16, "threads": 1, "evaluate_every": 2, "save_total_limit": 5}}
    config = load_config(hospitals(tmp_path, toy_model, models=["tuned"], **settings))
    one = leave_out.turns(config, tmp_path / "turns")["north"]
    whole = stages.run(one)
    risks = whole.predictions.read_bytes()
    for name in ("step-000004", "step-000006"):  # as if it had been stopped after the second step
        shutil.rmtree(whole.checkpoints / name)
    whole.update_manifest(status="interrupted")
    again = stages.go_on(one)
    manifest = again.read_manifest()
    assert manifest["status"] == "finished" and manifest["training"]["resumed_after_step"] == 2
    assert again.predictions.read_bytes() == risks


def test_tables_that_only_train_are_never_the_test(tmp_path: Path, toy_model: Path) -> None:
    config = load_config(hospitals(tmp_path, toy_model), ["tables.west.part=train", "tables.south.part=test"])
    turns = leave_out.turns(config, tmp_path)
    assert {name: one.test_tables for name, one in turns.items()} == {"north": ["north"], "south": ["south"]}
    none = load_config(
        hospitals(tmp_path, toy_model), [f"tables.{name}.part=train" for name in ("north", "south", "west")]
    )
    with pytest.raises(ConfigError, match="every table has part train"):
        leave_out.turns(none, tmp_path)


def test_one_table_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this experiment has one table; name several under `tables`"):
        leave_out.turns(load_config("statlog_heart"), tmp_path)
