"""The recipe on a toy model: learns, is exact under accumulation, repeatable, and saves what it holds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cardiotune.config import MethodConfig, ModelConfig, TrainConfig
from cardiotune.data.tokens import LabelTokens
from cardiotune.errors import ModelError, RunError
from cardiotune.runs import RunFolder
from cardiotune.training.checkpoint import check_probe, check_same_weights, record_probe, save_adapter, verify
from cardiotune.training.heads import LabelTokenModel
from cardiotune.training.loss import mean_log_loss
from cardiotune.training.model import build, load_adapted, load_base
from cardiotune.training.packing import lay_out
from cardiotune.training.train import Rows, learning_rate_factor, score, train

LABELS = LabelTokens(positive=5, negative=6)


def build_model(folder: Path, dropout: float = 0.0) -> LabelTokenModel:
    torch.manual_seed(0)
    method = MethodConfig(r=4, alpha=8, dropout=dropout)
    return build(load_base(folder, torch.float32, "sdpa"), method, ModelConfig(name="toy"), LABELS)


def build_rows(rows: int, seed: int) -> Rows:
    """The event is whether token 50 stands in the prompt."""
    draw = np.random.default_rng(seed)
    events = draw.integers(0, 2, rows)
    events[:2] = [0, 1]
    return Rows([[1, 10, 11, 50 if e else 51, *draw.integers(60, 90, 4).tolist()] for e in events], events)


def run_training(model: LabelTokenModel, folder: Path, **settings: object) -> dict[str, object]:
    numbers = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, **settings}
    run = RunFolder(folder)
    return train(
        model, build_rows(64, 0), build_rows(32, 1), TrainConfig(**numbers), run, 0, 1024, torch.float32, seed=3
    )


def test_training_learns_and_keeps_the_best_step(toy_model: Path, tmp_path: Path) -> None:
    summary = run_training(build_model(toy_model), tmp_path)
    history = json.loads((tmp_path / "logs" / "training.json").read_text())["history"]
    looks = {look["step"]: look["log_loss"] for look in history["validation"]}
    assert summary["selected_step"] == min(looks, key=lambda step: looks[step])
    assert min(looks.values()) < 0.5 < history["steps"][0]["loss"]
    assert len(history["steps"]) == summary["steps"] == 32
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == [f"step-{summary['selected_step']:06d}"]
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_same_seed_gives_the_same_adapter_bytes(toy_model: Path, tmp_path: Path) -> None:
    adapters = []
    for name in ("first", "second"):
        run_training(build_model(toy_model, dropout=0.1), tmp_path / name, epochs=2)
        adapters.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_max_steps_and_early_stopping_end_training(toy_model: Path, tmp_path: Path) -> None:
    assert run_training(build_model(toy_model), tmp_path / "a", max_steps=3)["steps"] == 3
    frozen = run_training(
        build_model(toy_model), tmp_path / "b", learning_rate=1e-12, early_stopping=1, evaluate_every=1, epochs=9
    )
    assert frozen["steps"] < 72


@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_gradient_does_not_depend_on_how_a_step_is_cut(toy_model: Path, layout: str) -> None:
    rows = build_rows(7, 0)  # seven rows in passes of 7, 4 and 2: the last pass is smaller
    gradients = []
    for size in (7, 4, 2):
        model = build_model(toy_model)
        for first in range(0, 7, size):
            part = slice(first, first + size)
            logits = model(lay_out(rows.prompts[part], 0, layout))
            mean_log_loss(logits, torch.tensor(rows.events[part], dtype=torch.float32), 7).backward()
        gradients.append(torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_saves_nothing(toy_model: Path, tmp_path: Path, bad: float) -> None:
    model = build_model(toy_model)
    next(p for p in model.parameters() if p.requires_grad).data[:] = bad
    with pytest.raises(RunError, match="not finite"):
        run_training(model, tmp_path)
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
    model, rows = build_model(toy_model), build_rows(20, 5)
    cpu = torch.device("cpu")
    together = score(model, rows.prompts, 0, 4096, cpu)
    small = score(model, rows.prompts, 0, 20, cpu)
    alone = np.concatenate([score(model, [prompt], 0, 4096, cpu) for prompt in rows.prompts])
    back = score(model, rows.prompts[::-1], 0, 64, cpu)[::-1]
    for other in (small, alone, back):
        np.testing.assert_allclose(other, together, atol=1e-5)


def test_a_saved_adapter_loads_to_the_same_logits(toy_model: Path, tmp_path: Path) -> None:
    model = build_model(toy_model)
    run_training(model, tmp_path, epochs=1)
    verify(tmp_path / "adapter")
    check_same_weights(model, tmp_path / "adapter")
    again = load_adapted(load_base(toy_model, torch.float32, "sdpa"), tmp_path / "adapter", LABELS)
    prompts, cpu = build_rows(8, 9).prompts, torch.device("cpu")
    np.testing.assert_allclose(score(again, prompts, 0, 1024, cpu), score(model, prompts, 0, 1024, cpu), atol=1e-6)


def test_stock_peft_gives_the_same_logits(toy_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = build_model(toy_model)
    run_training(model, tmp_path, epochs=1)
    prompts = build_rows(4, 9).prompts
    ours = score(model, prompts, 0, 1024, torch.device("cpu"))
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_model), tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = torch.cat([stock(input_ids=torch.tensor([prompt])).logits[:, -1] for prompt in prompts])
    np.testing.assert_allclose(ours, (logits[:, 5] - logits[:, 6]).numpy(), atol=1e-5)


def test_a_changed_or_foreign_adapter_is_refused(toy_model: Path, tmp_path: Path) -> None:
    model = build_model(toy_model)
    save_adapter(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="changed since it was saved"):
        verify(tmp_path / "adapter")
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"does not fit|damaged"):
        load_adapted(load_base(toy_model, torch.float32, "sdpa"), tmp_path / "adapter", LABELS)
    with pytest.raises(ModelError, match="not an adapter"):
        load_adapted(load_base(toy_model, torch.float32, "sdpa"), tmp_path / "nowhere", LABELS)


def test_an_adapter_with_missing_weights_is_refused(toy_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_adapter(build_model(toy_model), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    with pytest.raises(ModelError, match="does not fit"):
        load_adapted(load_base(toy_model, torch.float32, "sdpa"), tmp_path / "adapter", LABELS)


def test_probe_catches_another_model(tmp_path: Path) -> None:
    record_probe(tmp_path, np.array([0.5, -1.0]), torch.float32)
    check_probe(tmp_path, np.array([0.501, -1.0]), torch.float32)
    with pytest.raises(ModelError, match="does not score the recorded sample"):
        check_probe(tmp_path, np.array([0.9, -1.0]), torch.float32)


def test_targets_that_match_nothing_name_the_layers(toy_model: Path) -> None:
    method = MethodConfig(target_modules=["no_such_layer"])
    with pytest.raises(ModelError, match="q_proj"):
        build(load_base(toy_model, torch.float32, "sdpa"), method, ModelConfig(name="toy"), LABELS)
