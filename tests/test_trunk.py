"""Frozen lower layers stand on disk: the same numbers as if they were computed in every step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cardiotune import stages
from cardiotune.errors import ConfigError, ModelError, RunError
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, Imbalance
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.loss import balance
from cardiotune.training.model import build, build_encoder, load_base
from cardiotune.training.packing import Layout, Rows, lay_out, lay_out_rows
from cardiotune.training.train import Material, train
from cardiotune.training.trunk import FrozenTrunk, forget, over_frozen_trunk
from conftest import build_toy_model, toy_config, write_toy_experiment

CPU = torch.device("cpu")
PROMPTS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=40), min_size=1, max_size=12)


def network_of(config: Config) -> RiskNetwork:
    torch.manual_seed(0)
    folder = Path(str(config.model.path))
    network = build(load_base(folder, config, torch.float32, CPU), config, build_encoder(config, folder))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return network


@pytest.fixture(scope="module", params=["gemma3_text", "llama", "qwen3", "gemma"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RiskNetwork:
    folder = build_toy_model(tmp_path_factory.mktemp("toy"), request.param)
    return network_of(toy_config(folder, method={"top_layers": 1})).eval()


@pytest.mark.parametrize("layout", ["tree", "padded"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, seed=st.integers(0, 9))
def test_rows_are_read_as_with_all_layers(
    network: RiskNetwork, layout: Layout, prompts: list[list[int]], seed: int, tmp_path: Path
) -> None:
    """Any batch of any rows: their states were kept with other rows beside them."""
    config = toy_config(Path("toy"), evaluation={"score_batch_tokens": 256})
    trunk = FrozenTrunk(network, 1)
    states = trunk.remember(prompts, tmp_path / "states", 0, config)
    rows = np.random.default_rng(seed).integers(0, len(prompts), 7).tolist()
    with torch.no_grad():
        expected = network(lay_out([prompts[row] for row in rows], 0, layout))
        with trunk.skipping(trunk.lower):
            found = network(lay_out_rows(rows, prompts, 0, layout, states))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def toy_rows(count: int, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    events = np.arange(count) % 2
    return Rows([[1, 10, 11, 50 if e else 51, *draw.integers(60, 90, 4).tolist()] for e in events], events)


def test_training_over_kept_states_is_training(toy_model: Path, tmp_path: Path) -> None:
    config = toy_config(toy_model, method={"top_layers": 1})
    parts = {"train": toy_rows(64, 0), "validation": toy_rows(32, 1)}
    histories = []
    for name, over_states in (("plain", False), ("kept", True)):
        network, run = network_of(config), RunFolder(tmp_path / name)
        run.path.mkdir()
        balanced = balance(parts["train"].events, Imbalance(), 0)
        using = config if over_states else toy_config(toy_model)
        with over_frozen_trunk(network, parts, using, run, 0, torch.float32) as known:
            assert ((run.path / "trunk").stat().st_mode & 0o777 == 0o700) if over_states else known is parts
            assert not over_states or not list((run.path / "trunk").iterdir()), "mapped, and no longer to be found"
            material = Material(known["train"], known["validation"], balanced, pad_id=0)
            train(network, material, config, run, torch.float32)
        assert not (run.path / "trunk").exists()
        histories.append(json.loads(run.training.read_text())["history"])
    for kind in ("steps", "validation"):
        losses: list[Any] = [[e.get("loss", e.get("log_loss")) for e in history[kind]] for history in histories]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert histories[1]["steps"][-1]["loss"] < histories[1]["steps"][0]["loss"] - 0.1


def test_a_run_over_a_frozen_trunk_ends_in_an_adapter_of_the_top_layer(toy_model: Path, tmp_path: Path) -> None:
    from cardiotune.config import load_config

    experiment = write_toy_experiment(tmp_path, toy_model)
    overrides = ["use.method=lora_top", "method.top_layers=1", "train.epochs=8", "models=[tuned]"]
    overrides += ["train.learning_rate=0.02", "train.early_stopping=null"]
    run = stages.run(load_config(experiment, overrides))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_model), run.adapter)
    places = {name.split("layers.")[1].split(".")[0] for name, _ in adapted.named_parameters() if "lora_" in name}
    assert places == {"1"}
    assert json.loads(run.metrics.read_text())["parts"]["test"]["models"]["tuned"]["auroc"]["value"] > 0.6
    assert not (run.path / "trunk").exists()


def test_layers_that_are_not_there_are_refused(toy_model: Path) -> None:
    with pytest.raises(ModelError, match=r"top_layers: 2, but the model has 2 layers"):
        network_of(toy_config(toy_model, method={"top_layers": 2}))


def test_what_does_not_go_together_is_refused(toy_model: Path) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="top_layers is where adapters go"):
        toy_config(toy_model, method={"kind": "full", "top_layers": 1})
    with pytest.raises((ValidationError, ConfigError), match="see the whole row"):
        toy_config(
            toy_model,
            model={"name": "toy", "path": str(toy_model), "family": "encoder"},
            task={"outcome": "x", "head": "classifier"},
            method={"top_layers": 1},
            models=["tuned"],
        )


def test_a_family_that_changes_its_input_is_refused(tmp_path: Path) -> None:
    """Granite multiplies what it is given, so states would not stand for its lower layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    build_toy_model(tmp_path)  # its tokenizer
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("granite", vocab_size=600, num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"top_layers: is for .*not granite"):
        network_of(toy_config(tmp_path, method={"top_layers": 1}))


def test_a_full_disc_is_one_line(network: RiskNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardiotune.training.trunk.SPARE_BYTES", 1 << 60)
    with pytest.raises(RunError, match=r"nearly full.*free the disc"):
        FrozenTrunk(network, 1).remember([[1, 2, 3]], tmp_path / "states", 0, toy_config(Path("toy")))


def test_what_a_killed_training_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "trunk").mkdir()
    (tmp_path / "trunk" / "train.0").write_bytes(b"x")
    forget(RunFolder(tmp_path))
    assert not (tmp_path / "trunk").exists()


@pytest.mark.parametrize("more", [{"dtype": "bfloat16"}, {"gradient_checkpointing": True}, {"head": "classifier"}])
def test_it_goes_with_number_types_checkpointing_and_heads(tmp_path: Path, more: dict[str, Any]) -> None:
    """Four layers, the upper two adapted: the run's own reload check compares training's model with
    a whole one."""
    from cardiotune.config import load_config

    folder = build_toy_model(tmp_path / "model", "gemma3_text", layers=4)
    experiment = write_toy_experiment(tmp_path, folder)
    sections = {"dtype": "model", "gradient_checkpointing": "train", "head": "task"}
    overrides = [f"{sections[name]}.{name}={str(value).lower()}" for name, value in more.items()]
    overrides += ["use.method=lora_top", "method.top_layers=2", "models=[tuned]", "train.learning_rate=0.02"]
    run = stages.run(load_config(experiment, [*overrides, "evaluation.parts=[validation,test]"]))
    looked = json.loads(run.training.read_text())
    look = next(e for e in looked["history"]["validation"] if e["step"] == looked["selected_step"])
    lines = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    held = [line for line in lines if line["part"] == "validation"]
    # What training saw over the states is what the saved model gives.
    y_true, raw = (np.array([line[name] for line in held]) for name in ("y_true", "y_prob_raw"))
    brier = float(np.mean((y_true - raw) ** 2))
    assert brier == pytest.approx(look["brier"], rel=0.02 if more.get("dtype") else 1e-4)
