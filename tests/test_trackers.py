"""TensorBoard, MLflow and Weights & Biases, each read back: numbers and settings are there, no row
is."""

from pathlib import Path

import pytest

from cardiotune import stages
from cardiotune.config import load_config
from conftest import build_toy_table, write_toy_experiment

CANARY = "ZZCANARY42"


@pytest.fixture
def experiment(tmp_path: Path, toy_model: Path) -> Path:
    file = write_toy_experiment(tmp_path, toy_model)
    table = build_toy_table()
    table.with_columns(patient_id=table["patient_id"].str.replace("P", CANARY)).write_csv(tmp_path / "table.csv")
    return file


def settings(*more: str) -> list[str]:
    return ["train.max_steps=4", "train.evaluate_every=2", "models=[tuned]", *more]


def holds_no_row(folder: Path) -> bool:
    return not any(CANARY.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_tensorboard_holds_every_step(experiment: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stages.run(load_config(experiment, settings()))
    events = EventAccumulator(str(run.logs)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/log_loss")] == [2, 4]
    assert holds_no_row(run.logs)


def test_mlflow_keeps_a_store_beside_the_runs(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stages.run(load_config(experiment, settings("trackers=[mlflow]")))
    client = mlflow.MlflowClient(f"sqlite:///{experiment.parent / 'runs' / 'mlflow.db'}")
    (logged,) = client.search_runs([client.get_experiment_by_name("cardiotune").experiment_id])
    assert logged.info.run_name == "toy" and logged.info.status == "FINISHED"
    assert logged.data.params["train.learning_rate"] == "0.01"
    assert [entry.step for entry in client.get_metric_history(logged.info.run_id, "train/loss")] == [1, 2, 3, 4]
    assert not any("table.csv" in value for value in logged.data.params.values())
    assert holds_no_row(experiment.parent / "runs")


def test_wandb_stays_offline(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = stages.run(load_config(experiment, settings("trackers=[wandb]")))
    (kept,) = (run.logs / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"validation/log_loss" in kept.read_bytes()
    assert holds_no_row(run.logs) and b"table.csv" not in kept.read_bytes()
