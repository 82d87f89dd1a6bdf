"""Models whose weights are damaged or overflow: an error that names them, and nothing is fitted,
kept or answered."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cardiotune import RiskModel
from cardiotune.errors import ModelError
from cardiotune.files import HASHES, hash_files
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.models.predictions import prediction_rows
from cardiotune.runs import RunFolder
from cardiotune.training import train as recipe
from cardiotune.training.heads import LabelTokenNetwork
from cardiotune.training.model import load_base
from cardiotune.training.packing import Rows
from cardiotune.training.scoring import Batching, all_finite, score
from conftest import toy_config, write_toy_experiment
from serving import ROW
from test_cli import call, check_refusal

NAN = float("nan")
LAYER = "model.layers.1.mlp.down_proj.weight"


def damaged(model: Path, folder: Path, value: float, name: str = LAYER) -> Path:
    """The model with one weight of a layer (or of an adapter) that is this value."""
    shutil.copytree(model, folder)
    for file in folder.glob("*.safetensors"):
        spoil(file, value, name)
    return folder


def spoil(file: Path, value: float, name: str) -> None:
    tensors = load_file(file)
    found = next(key for key in tensors if key.endswith(name))
    tensors[found].view(-1)[0] = value
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("model", "value"),
    [("zero_shot", NAN), ("few_shot", NAN), ("embedding", NAN), ("free_generation", NAN), ("zero_shot", float("inf"))],
)
def test_no_comparator_is_made_of_a_damaged_base_model(
    tmp_path: Path, toy_model: Path, model: str, value: float
) -> None:
    base = damaged(toy_model, tmp_path / "base", value)
    file = write_toy_experiment(tmp_path, base)
    assert call("prepare", file, f"models=[{model}]", "task.few_shot_examples=2").exit_code == 0
    run = RunFolder(tmp_path / "runs" / "toy")
    check_refusal(call("predict", run.path), 4, "toy in float32: its output is not a finite number in ")
    assert not run.predictions.exists() and not run.calibration.exists()


@pytest.mark.parametrize(
    ("first_look", "said"),
    [
        (16, "before step 1: the model: its output is not a finite number in 16 of 16 rows"),
        (0, "step 1: the loss is not finite"),  # as with a fault that these rows do not show
    ],
)
def test_a_damaged_base_model_is_not_trained_on(
    tmp_path: Path, toy_model: Path, first_look: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "FIRST_LOOK", first_look)
    file = write_toy_experiment(tmp_path, damaged(toy_model, tmp_path / "base", NAN))
    done = call("run", file, "models=[tuned]")
    assert done.exit_code == 5 and "internal" not in done.stderr
    assert said in done.stderr
    assert not (tmp_path / "runs" / "toy" / "adapter").exists()


def test_weights_that_explode_are_seen_at_the_next_look_and_not_kept(tmp_path: Path, toy_model: Path) -> None:
    file = write_toy_experiment(tmp_path, toy_model)
    asked = ["models=[tuned]", "train.learning_rate=1e35", "train.evaluate_every=1", "method.kind=full"]
    done = call("run", file, *asked, "train.warmup_share=0", "train.max_grad_norm=1e6")
    assert done.exit_code == 5 and "step 1: the model: its output is not a finite number in " in done.stderr
    assert "the last good checkpoint is kept" in done.stderr and "internal" not in done.stderr
    run = tmp_path / "runs" / "toy"
    assert not list(run.glob("checkpoints/step-*")) and not (run / "model").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    file = write_toy_experiment(tmp_path_factory.mktemp("trained"), toy_model)
    run = file.parent / "runs" / "toy"
    for step in (("prepare", file, "models=[tuned,stacked]", "train.max_steps=2"), ("train", run)):
        assert call(*step).exit_code == 0
    return run


@pytest.mark.parametrize("value", [NAN, float("inf"), 3e38])
def test_a_damaged_adapter_gets_no_calibrator(trained: Path, tmp_path: Path, value: float) -> None:
    """Though every record fits it."""
    run = RunFolder(Path(shutil.copytree(trained, tmp_path / "toy")))
    spoil(run.adapter / "adapter_model.safetensors", value, "q_proj.lora_B.weight")
    (run.adapter / HASHES).unlink()
    (run.adapter / HASHES).write_text(
        json.dumps({k: v for k, v in hash_files(run.adapter).items() if k != "probe.json"})
    )
    run.record(run.adapter / HASHES)
    table = trained.parents[1] / "table.csv"
    commands: list[list[str | Path]] = [
        ["predict", run.path],
        ["predict", run.path, table],
        ["serve", run.path, "--port", "0"],
    ]
    for command in commands if value != value else commands[:1]:
        done = call(*command)
        assert done.exit_code == 4 and "toy in float32: its output is not a finite number" in done.stderr, done.output
    with pytest.raises(ModelError, match="not a finite number"):
        RiskModel.load(run.path).predict_proba([ROW])
    assert not run.predictions.exists() and not run.calibration.exists()


def test_a_type_that_is_too_small_for_the_model_is_named(tmp_path: Path, toy_model: Path) -> None:
    """Numbers that float32 holds and float16 does not."""
    base = damaged(toy_model, tmp_path / "base", 2e5)
    whole = LanguageScorer(toy_config(base), base, None)
    texts = ["age 61 years", "age 40 years"]
    assert all_finite(whole.logits(texts), "whole").shape == (2,)
    labels = whole.encoder.label_tokens("Yes", "No")
    small = LabelTokenNetwork(load_base(base, toy_config(base), torch.float16, torch.device("cpu")), labels)
    prompts = whole.encoder.prompts(texts)
    with pytest.raises(ModelError, match=r"toy in float16: .* in 2 of 2 rows; .* model.score_dtype=float32"):
        score(small, prompts, Batching(0, 512, torch.device("cpu"), small.layout), whose="toy in float16")


class Endless:
    """A network that overflows on some rows."""

    def __call__(self, batch: Any) -> torch.Tensor:
        logits = torch.zeros(len(batch.read_tokens))
        logits[0] = float("inf")
        return logits


def test_one_row_is_enough() -> None:
    rows = Rows([[1, 2, 3], [1, 2, 4], [5, 6, 7]], torch.zeros(3).int().numpy())
    with pytest.raises(ModelError, match="in 1 of 3 rows"):
        score(Endless(), rows.prompts, Batching(0, 64, torch.device("cpu"), "padded"))


@pytest.mark.parametrize("risk", [NAN, 1.5, -1e-9, float("inf")])
def test_no_risk_that_is_none_is_written(risk: float) -> None:
    good, bad = np.array([0.2, 0.3]), np.array([0.2, risk])
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ModelError, match="1 of 2 are not a number from 0 to 1"):
            prediction_rows("lightgbm", ["a", "b"], ["test"] * 2, [0, 1], *pair, 0.5)
    with pytest.raises(ModelError):
        probabilities(np.array([0.1, NAN]))
