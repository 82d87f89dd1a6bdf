"""Inverse-probability-of-censoring weights reach every fit: the training loss, the choice of the
step, the baselines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss

from cardiotune.data.cohort import WEIGHT
from cardiotune.models.baselines import BASELINES
from cardiotune.models.labelled import LabelledRows
from cardiotune.runs import RunFolder
from cardiotune.settings import Column, DataConfig, Imbalance
from cardiotune.training.loss import balance
from cardiotune.training.model import build, build_encoder, load_base
from cardiotune.training.train import Material, Rows, train, validation_metrics
from conftest import toy_config

DATA = DataConfig(
    path="x", columns={"y": Column(role="target", type="binary"), "age": Column(), "sex": Column(type="binary")}
)


def first_loss(toy_model: Path, folder: Path, weights: np.ndarray | None) -> float:
    config = toy_config(toy_model, train={"max_steps": 1})
    torch.manual_seed(0)
    base = load_base(toy_model, config, torch.float32, torch.device("cpu"))
    network = build(base, config, build_encoder(config, toy_model))
    draw = np.random.default_rng(0)
    events = np.arange(16) % 2
    prompts = [[1, 10, 50 + event, *draw.integers(60, 90, 3).tolist()] for event in events]
    rows = Rows(prompts, events, weights=weights)
    material = Material(rows, rows, balance(events, Imbalance(), 0), pad_id=0)
    train(network, material, config, RunFolder(folder), torch.float32)
    history: dict[str, Any] = json.loads(RunFolder(folder).training.read_text())["history"]
    return float(history["steps"][0]["loss"])


def test_the_training_loss_counts_rows_by_weight(toy_model: Path, tmp_path: Path) -> None:
    plain = first_loss(toy_model, tmp_path / "plain", None)
    assert first_loss(toy_model, tmp_path / "one", np.ones(16)) == pytest.approx(plain, rel=1e-6)
    assert first_loss(toy_model, tmp_path / "two", np.full(16, 2.0)) == pytest.approx(2 * plain, rel=1e-6)


def test_the_step_is_chosen_by_weighted_rows() -> None:
    draw = np.random.default_rng(1)
    events, logits, weights = draw.integers(0, 2, 50), draw.normal(size=50), draw.integers(1, 4, 50)
    seen = validation_metrics(events, logits, weights)
    again = np.repeat(np.arange(50), weights)
    assert seen == pytest.approx(validation_metrics(events[again], logits[again]))
    assert seen["log_loss"] == pytest.approx(log_loss(events, 1 / (1 + np.exp(-logits)), sample_weight=weights))


@pytest.mark.parametrize("name", ["prevalence", "logistic_regression", "lightgbm"])
def test_baselines_count_rows_by_weight(name: str) -> None:
    """A row of weight 0 teaches nothing: whatever its outcome says, risks stay the same."""
    draw = np.random.default_rng(2)
    rows = 400
    parts = np.where(np.arange(rows) % 4 == 0, "validation", "train")
    age = draw.normal(60, 8, rows)
    events = (draw.random(rows) < 1 / (1 + np.exp(-(age - 60) / 8))).astype(int)
    weights = np.where(np.arange(rows) % 5 == 0, 0.0, 1.25)
    frame = pl.DataFrame({"age": age, "sex": (draw.random(rows) < 0.5).astype(int).astype(str), WEIGHT: weights})
    flipped = np.where(weights == 0, 1 - events, events)
    risks = BASELINES[name](LabelledRows(frame, events, parts, DATA))
    assert np.allclose(risks, BASELINES[name](LabelledRows(frame, flipped, parts, DATA)))
    unweighted = frame.drop(WEIGHT)
    assert not np.allclose(
        BASELINES[name](LabelledRows(unweighted, events, parts, DATA)),
        BASELINES[name](LabelledRows(unweighted, flipped, parts, DATA)),
    )
