"""Every method and head on a real small model, and a real encoder: a few steps on real patients.

Skipped, with the reason, where the packages are not installed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune import stages, studies
from cardiotune.config import load_config, load_model, shipped
from cardiotune.errors import ModelError
from cardiotune.training.weights import find_weights

pytestmark = [pytest.mark.slow, pytest.mark.real_model]
EPOCH = 3
STEPS = 5 * EPOCH


def tune(tmp_path: Path, model: str, method: str, head: str) -> tuple[list[float], pl.DataFrame, dict[str, Any]]:
    """Losses, test predictions and manifest of a run; prediction and training each reload what was
    saved and check it."""
    try:
        find_weights(load_model(shipped("models")[model]))
    except ModelError as error:
        pytest.skip(str(error))
    rate = {"full": 5e-5, "lora": 1e-3, "qlora": 1e-3}[method] * (4 if model == "minilm-l6" else 1)
    # 36 training rows in steps of 12, so that the mean over an epoch is over the same patients each
    # time.
    overrides = [f"use.model={model}", f"use.method={method}", f"task.head={head}", f"runs_dir={tmp_path}"]
    overrides += ["data.max_rows=60", "train.batch_size=12", f"train.max_steps={STEPS}", "train.early_stopping=null"]
    overrides += [f"train.learning_rate={rate}", "models=[tuned]"]
    run = stages.run(load_config("statlog_heart", [*overrides, "evaluation.bootstrap=100", "train.save_total_limit=1"]))
    history = json.loads(run.training.read_text())["history"]
    again = studies.score_table(run, "builtin:statlog_heart", keep_ids=False)
    predictions = pl.read_ndjson(run.predictions).join(again, on="row_id", suffix="_again")
    return [entry["loss"] for entry in history["steps"]], predictions, json.loads(run.manifest.read_text())


def assert_learned(losses: list[float], predictions: pl.DataFrame) -> None:
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert np.mean(losses[-EPOCH:]) < 0.9 * np.mean(losses[:EPOCH])
    assert predictions["y_prob"].is_finite().all() and predictions["y_prob"].std() > 0.01
    np.testing.assert_allclose(predictions["y_prob"], predictions["y_prob_again"], atol=1e-5)


@pytest.mark.parametrize("head", ["label_tokens", "classifier"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_smollm2_learns(tmp_path: Path, method: str, head: str) -> None:
    losses, predictions, manifest = tune(tmp_path, "smollm2-135m", method, head)
    print(method, head, [round(loss, 3) for loss in losses], manifest["stages"]["train"])
    assert_learned(losses, predictions)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_encoder_learns(tmp_path: Path, method: str) -> None:
    losses, predictions, manifest = tune(tmp_path, "minilm-l6", method, "classifier")
    print(method, [round(loss, 3) for loss in losses], manifest["stages"]["train"])
    assert_learned(losses, predictions)
