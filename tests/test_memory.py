"""The memory estimate: how it moves with the settings, what `doctor CONFIG` says, and that it is
near what is measured."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cardiotune.cli import app
from cardiotune.config import load_model, shipped
from cardiotune.errors import ModelError
from cardiotune.training.memory import Memory, estimate
from cardiotune.training.weights import find_weights
from conftest import build_toy_encoder, toy_config

FULL = {"name": "full", "kind": "full"}


def of(folder: Path, **sections: object) -> Memory:
    return estimate(toy_config(folder, **sections), folder, torch.device("cpu"))


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(toy_model: Path) -> None:
    small, large = of(toy_model, train={"batch_size": 4}), of(toy_model, train={"batch_size": 32})
    assert 2 * small.activations < large.activations < 10 * small.activations
    again = of(toy_model, train={"batch_size": 32, "gradient_checkpointing": True})
    assert again.activations < 0.7 * large.activations


def test_full_fine_tuning_keeps_a_gradient_and_two_moments_of_every_weight(toy_model: Path) -> None:
    weights = sum(file.stat().st_size for file in toy_model.glob("*.safetensors")) / 2**20
    memory = of(toy_model, method=FULL)
    assert memory.weights == pytest.approx(weights, rel=0.02)
    assert memory.optimizer == pytest.approx(2 * memory.gradients)
    assert 0.6 * weights < memory.gradients < weights  # the output matrix stays as it is
    assert of(toy_model, method=FULL, train={"optimizer": "sgd"}).optimizer == pytest.approx(memory.gradients)
    assert of(toy_model).gradients < 0.2 * weights


def test_deepspeed_shares_what_its_stage_says(toy_model: Path) -> None:
    alone = of(toy_model, method=FULL)
    two = of(toy_model, method=FULL, deepspeed={"stage": 2}, launch={"processes": 2})
    three = of(toy_model, method=FULL, deepspeed={"stage": 3}, launch={"processes": 2})
    assert (two.weights, two.optimizer) == (alone.weights, pytest.approx(alone.optimizer / 2))
    assert three.weights == pytest.approx(alone.weights / 2)


def test_four_bits_take_about_half_a_byte(toy_model: Path) -> None:
    lora, qlora = of(toy_model), of(toy_model, method={"quantization": "nf4"})
    assert qlora.weights < lora.weights
    assert qlora.activations == lora.activations


def test_encoders_are_estimated_too(tmp_path: Path) -> None:
    folder = build_toy_encoder(tmp_path / "bert")
    assert of(folder, model={"family": "encoder"}, task={"head": "classifier"}, models=["tuned"]).activations > 0


def doctor(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stdout or result.output


def test_doctor_judges_an_experiment(toy_experiment: Path) -> None:
    code, out = doctor(str(toy_experiment), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["verdict"] == "works" and found["memory_verdict"] == "fits"
    assert found["combination"] == "lora x label_tokens x none x float32 x other"
    assert found["memory_mib"]["peak"] == pytest.approx(
        sum(v for k, v in found["memory_mib"].items() if k not in ("peak", "free_for_each_process")), abs=4
    )


def test_doctor_refuses_with_the_reason(toy_experiment: Path) -> None:
    code, out = doctor(str(toy_experiment), "use.method=qlora", "use.deepspeed=zero3", "launch.processes=2")
    assert code == 2 and "ZeRO-3 cuts weights up" in out


def test_doctor_says_when_weights_are_not_here(toy_experiment: Path) -> None:
    code, out = doctor(str(toy_experiment), "model={name: far, hub_id: no/such, path: null}", "--json")
    found = json.loads(out)
    assert code == 0 and found["memory_mib"] is None and "no weights on this machine" in found["reason"]


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", ["smollm2-135m", "minilm-l6"])
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(tmp_path: Path, model: str, method: str) -> None:
    from benchmarks.memory import estimated, measured

    try:
        find_weights(load_model(shipped("models")[model]))
    except ModelError as error:
        pytest.skip(str(error))
    case = [f"use.model={model}", f"use.method={method}"]
    case += ["task.head=classifier"] if model == "minilm-l6" else []
    assert estimated(case) == pytest.approx(measured(case, tmp_path), rel=0.25)
