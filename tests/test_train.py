"""The recipe on a toy model: learns, is exact under accumulation, repeatable, and saves what it
holds."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cardiotune.errors import ModelError, RunError
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, Imbalance, TrainConfig
from cardiotune.training import train as recipe
from cardiotune.training.checkpoint import check_probe, check_same_weights, record_probe, trained_state, verify
from cardiotune.training.course import Summary
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.loss import balance, mean_log_loss
from cardiotune.training.model import build, build_encoder, load_base, load_tuned
from cardiotune.training.packing import Rows, lay_out
from cardiotune.training.scoring import Batching, score
from cardiotune.training.train import Material, learning_rate_factor, train
from conftest import toy_config

CPU = torch.device("cpu")


def build_network(config: Config) -> RiskNetwork:
    torch.manual_seed(0)
    folder = Path(str(config.model.path))
    return build(load_base(folder, config, torch.float32, CPU), config, build_encoder(config, folder))


def build_rows(rows: int, seed: int) -> Rows:
    """The event is whether token 50 stands in the prompt."""
    draw = np.random.default_rng(seed)
    events = draw.integers(0, 2, rows)
    events[:2] = [0, 1]
    return Rows([[1, 10, 11, 50 if e else 51, *draw.integers(60, 90, 4).tolist()] for e in events], events)


def run_training(config: Config, folder: Path, network: RiskNetwork | None = None) -> Summary:
    training = build_rows(64, 0)
    balanced = balance(training.events, Imbalance(), 0)
    network = network or build_network(config)
    material = Material(training, build_rows(32, 1), balanced, pad_id=0)
    return train(network, material, config, RunFolder(folder), torch.float32)


def scored(network: RiskNetwork, prompts: list[list[int]], budget: int = 1024) -> np.ndarray:
    network.eval()
    return score(network, prompts, Batching(0, budget, CPU, network.layout))


def test_training_learns_and_keeps_the_best_step(toy_model: Path, tmp_path: Path) -> None:
    summary = run_training(toy_config(toy_model), tmp_path)
    history = json.loads((tmp_path / "logs" / "training.json").read_text())["history"]
    looks = {look["step"]: look["log_loss"] for look in history["validation"]}
    assert summary.selected_step == min(looks, key=lambda step: looks[step])
    assert min(looks.values()) < 0.5 < history["steps"][0]["loss"]
    assert len(history["steps"]) == summary.steps == 32
    kept = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"step-{summary.selected_step:06d}", "step-000024", "step-000032"}  # the best, and the last two
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_same_seed_gives_the_same_adapter_bytes(toy_model: Path, tmp_path: Path) -> None:
    adapters = []
    for name in ("first", "second"):
        run_training(toy_config(toy_model, method={"dropout": 0.1}, train={"epochs": 2}), tmp_path / name)
        adapters.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_the_first_look_changes_nothing(toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws the random numbers that it would draw without."""
    left: list[tuple[bytes, dict[str, Any]]] = []
    for rows in (16, 0):
        monkeypatch.setattr(recipe, "FIRST_LOOK", rows)
        run = RunFolder(tmp_path / str(rows))
        run_training(toy_config(toy_model, method={"dropout": 0.1}, train={"max_steps": 6}), run.path)
        told = json.loads(run.training.read_text())
        del told["rows_per_second"]
        left.append(((run.adapter / "adapter_model.safetensors").read_bytes(), told))
    assert left[0] == left[1]


def test_a_fault_in_scoring_shows_before_the_first_step(toy_model: Path, tmp_path: Path) -> None:
    network = build_network(toy_config(toy_model))
    next(network.parameters()).data[10:] = float("nan")
    with pytest.raises(RunError, match="before step 1: the model: its output is not a finite number in 16 of 16 rows"):
        run_training(toy_config(toy_model), tmp_path, network)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_rows_a_second_are_those_of_steps_alone(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(0.2)
        return score(*given, **named)

    monkeypatch.setattr(recipe, "score", slowly)
    begun = time.perf_counter()
    found = run_training(toy_config(toy_model, train={"max_steps": 4, "evaluate_every": 1}), tmp_path)
    whole, of_steps = time.perf_counter() - begun, found.steps * found.rows_a_step / found.rows_per_second
    assert 0 < of_steps < whole - 5 * 0.2, "four looks, and the one before the first step"


def test_max_steps_and_early_stopping_end_training(toy_model: Path, tmp_path: Path) -> None:
    assert run_training(toy_config(toy_model, train={"max_steps": 3}), tmp_path / "a").steps == 3
    hardly = {"learning_rate": 1e-12, "early_stopping": 1, "evaluate_every": 1, "epochs": 9}
    assert run_training(toy_config(toy_model, train=hardly), tmp_path / "b").steps < 72


@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_gradient_does_not_depend_on_how_a_step_is_cut(toy_model: Path, layout: str) -> None:
    rows = build_rows(7, 0)  # seven rows in passes of 7, 4 and 2: the last pass is smaller
    row_weights = torch.tensor([0.5, 2.0])[torch.tensor(rows.events)]
    gradients = []
    for size in (7, 4, 2):
        network = build_network(toy_config(toy_model))
        for first in range(0, 7, size):
            part = slice(first, first + size)
            logits = network(lay_out(rows.prompts[part], 0, layout))
            events = torch.tensor(rows.events[part], dtype=torch.float32)
            mean_log_loss(logits, events, row_weights[part], 7).backward()
        gradients.append(torch.cat([p.grad.ravel() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-7)


def test_eight_by_one_trains_like_two_by_four(toy_model: Path, tmp_path: Path) -> None:
    losses = []
    for size, passes in ((8, 1), (2, 4)):
        settings = {"batch_size": size, "gradient_accumulation": passes, "epochs": 1}
        run_training(toy_config(toy_model, train=settings), tmp_path / str(size))
        history = json.loads((tmp_path / str(size) / "logs" / "training.json").read_text())["history"]
        losses.append([entry["loss"] for entry in history["steps"]])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_saves_nothing(
    toy_model: Path, tmp_path: Path, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "FIRST_LOOK", 0)  # it would be seen there
    config = toy_config(toy_model)
    network = build_network(config)
    next(p for p in network.parameters() if p.requires_grad).data[:] = bad
    with pytest.raises(RunError, match="the loss is not finite"):
        run_training(config, tmp_path, network)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_learning_rate_schedules(schedule: str, middle: float, end: float) -> None:
    settings = TrainConfig(schedule=schedule, warmup_share=0.1)
    factors = [learning_rate_factor(step, 100, settings) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(middle)
    assert factors[100] == pytest.approx(end)


def test_score_is_the_same_alone_in_any_batch_and_order(toy_model: Path) -> None:
    network, prompts = build_network(toy_config(toy_model)), list(build_rows(20, 5).prompts)
    together = scored(network, prompts, 4096)
    alone = np.concatenate([scored(network, [prompt]) for prompt in prompts])
    for other in (scored(network, prompts, 20), alone, scored(network, prompts[::-1], 64)[::-1]):
        np.testing.assert_allclose(other, together, atol=1e-5)


def test_what_is_saved_loads_to_the_same_logits(toy_model: Path, tmp_path: Path) -> None:
    config = toy_config(toy_model, train={"epochs": 1})
    network = build_network(config)
    run_training(config, tmp_path, network)
    verify(tmp_path / "adapter")
    check_same_weights(network, trained_state(network), tmp_path / "adapter")
    encoder = build_encoder(config, toy_model)
    again = load_tuned(toy_model, tmp_path / "adapter", config, encoder, torch.float32, CPU)
    prompts = list(build_rows(8, 9).prompts)
    np.testing.assert_allclose(scored(again, prompts), scored(network, prompts), atol=1e-6)


def test_stock_peft_gives_the_same_logits(toy_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    config = toy_config(toy_model, train={"epochs": 1})
    network = build_network(config)
    run_training(config, tmp_path, network)
    prompts = list(build_rows(4, 9).prompts)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_model), tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = torch.cat([stock(input_ids=torch.tensor([prompt])).logits[:, -1] for prompt in prompts])
    labels = network.labels
    expected = (logits[:, labels.positive] - logits[:, labels.negative]).numpy()
    np.testing.assert_allclose(scored(network, prompts), expected, atol=1e-5)


def test_changed_damaged_foreign_or_absent_weights_are_refused(toy_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = toy_config(toy_model, train={"max_steps": 1})
    run_training(config, tmp_path)
    folder, encoder = tmp_path / "adapter", build_encoder(config, toy_model)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()

    def load() -> None:
        load_tuned(toy_model, folder, config, encoder, torch.float32, CPU)

    load()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="changed since it was saved"):
        verify(folder)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"does not fit|damaged"):
        load()
    file.write_bytes(whole)
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    with pytest.raises(ModelError, match="does not fit"):
        load()
    file.unlink()
    with pytest.raises(ModelError, match="is missing"):
        load()
    with pytest.raises(ModelError, match="neither an adapter nor a model"):
        load_tuned(toy_model, tmp_path / "nowhere", config, encoder, torch.float32, CPU)


def test_probe_catches_another_model(tmp_path: Path) -> None:
    record_probe(tmp_path, np.array([0.5, -1.0]), torch.float32)
    check_probe(tmp_path, np.array([0.501, -1.0]), torch.float32)
    for wrong in (0.9, math.nan):
        with pytest.raises(ModelError, match="does not score the recorded sample"):
            check_probe(tmp_path, np.array([wrong, -1.0]), torch.float32)


def test_targets_that_match_nothing_name_the_layers(toy_model: Path) -> None:
    with pytest.raises(ModelError, match="q_proj"):
        build_network(toy_config(toy_model, method={"target_modules": ["no_such_layer"]}))
