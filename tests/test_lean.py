"""Layers with passes of their own give what PyTorch and PEFT give: logits, gradients, whatever
trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cardiotune.families import tree_families
from cardiotune.models.language import LanguageScorer
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork
from cardiotune.training.last_layer import compute_what_is_read
from cardiotune.training.lean import slim
from cardiotune.training.machine import set_up
from cardiotune.training.model import _adapt, _unfreeze, build_encoder, load_base, with_head
from cardiotune.training.packing import lay_out
from conftest import build_toy_model, toy_config

CPU = torch.device("cpu")
PROMPTS = [[1, 7, 8, 9, 5], [1, 7, 8, 3], [1, 7, 8, 9, 5, 4, 4], [1, 2], [1, 7, 8, 3], list(range(3, 83))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: build_toy_model(tmp_path_factory.mktemp(family), family) for family in tree_families()}


def plain_network(folder: Path, dtype: torch.dtype = torch.float32, **method: Any) -> RiskNetwork:
    """As `build` makes it, but with the layers of PyTorch and PEFT; adapters that do something."""
    torch.manual_seed(0)
    config = toy_config(folder, method=method)
    base = load_base(folder, config, dtype, CPU)
    adapted = _unfreeze(base, "label_tokens") if method.get("kind") == "full" else _adapt(base, config)
    network = with_head(adapted, config, build_encoder(config, folder))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return network.train()


def logits_and_gradients(network: RiskNetwork, autocast: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = network(lay_out(PROMPTS, 0, "tree"))
    (logits * torch.linspace(-1, 1, len(PROMPTS))).sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_same(before: Any, after: Any, relative: float) -> None:
    assert (after[0] - before[0]).norm() <= relative * before[0].norm()
    assert before[1].keys() == after[1].keys() and before[1]
    for name, gradient in before[1].items():
        assert after[1][name].dtype == gradient.dtype, name
        assert (after[1][name] - gradient).norm() <= relative * gradient.norm(), name


@pytest.mark.parametrize("family", tree_families())
@pytest.mark.parametrize("method", [{"kind": "lora", "r": 4}, {"kind": "full"}], ids=["lora", "full"])
def test_logits_and_gradients_are_those_of_the_plain_layers(
    folders: dict[str, Path], family: str, method: dict[str, Any]
) -> None:
    network = plain_network(folders[family], **method)
    before = logits_and_gradients(network)
    classes = {type(module).__name__ for module in network.modules() if "forward" in module.__dict__}
    assert not classes
    slim(network)
    slimmed = {type(module).__name__ for module in network.modules() if "forward" in module.__dict__}
    assert any(name.endswith("RMSNorm") for name in slimmed)
    assert ("Linear" in slimmed) == (method["kind"] == "lora")
    assert_same(before, logits_and_gradients(network), 1e-5)


@pytest.mark.parametrize("extra", [{"dora": True}, {"dropout": 0.1}, {"rslora": True}])
def test_adapters_with_extras_are_left_to_peft_or_right(folders: dict[str, Path], extra: dict[str, Any]) -> None:
    network = plain_network(folders["llama"], r=4, **extra)
    torch.manual_seed(1)
    before = logits_and_gradients(network)
    slim(network)
    torch.manual_seed(1)
    assert_same(before, logits_and_gradients(network), 1e-5)


def test_gradient_checkpointing_changes_nothing(folders: dict[str, Path]) -> None:
    network = plain_network(folders["gemma3_text"], r=4)
    before = logits_and_gradients(network)
    slim(network)
    network.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    network.base.enable_input_require_grads()
    assert_same(before, logits_and_gradients(network), 1e-5)


@pytest.mark.parametrize("family", ["gemma3_text", "llama"])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_layers_are(folders: dict[str, Path], family: str) -> None:
    """Under autocast, with a bfloat16 base and float32 adapters, as on hardware that computes in
    bfloat16."""
    exact = logits_and_gradients(plain_network(folders[family], r=4))
    network = plain_network(folders[family], torch.bfloat16, r=4)
    plain = logits_and_gradients(network, autocast=True)
    slim(network)
    lean = logits_and_gradients(network, autocast=True)
    assert {g.dtype for g in lean[1].values()} == {torch.float32}

    def error(found: dict[str, torch.Tensor]) -> float:
        return float(torch.stack([(found[n] - g).norm() / (g.norm() + 1e-3) for n, g in exact[1].items()]).mean())

    assert 0 < error(lean[1]) <= 1.25 * error(plain[1])


@pytest.mark.parametrize("family", tree_families())
def test_a_norm_in_bfloat16_rounds_where_the_plain_one_does(folders: dict[str, Path], family: str) -> None:
    network = plain_network(folders[family], torch.bfloat16, r=4)
    norm: Any = next(module for name, module in network.named_modules() if name.endswith("layers.0.input_layernorm"))
    norm.weight.requires_grad_(True)
    states = torch.randn(1, 40, norm.weight.shape[0], dtype=torch.bfloat16, requires_grad=True)
    found = []
    for make_lean in (False, True):
        if make_lean:
            slim(network)
        out = norm(states)
        found.append((out.detach(), *torch.autograd.grad(out.float().square().sum(), [states, norm.weight])))
    assert [value.dtype for value in found[1]] == [torch.bfloat16] * 3
    for plain, lean in zip(*found, strict=True):
        differing = plain != lean  # by one rounding, where a float32 sum came out on the other side
        assert differing.float().mean() < 0.1
        torch.testing.assert_close(lean, plain, rtol=2**-7, atol=1e-2 * float(plain.abs().max()))


def test_adapters_switched_off_or_merged_are_off(folders: dict[str, Path]) -> None:
    network = plain_network(folders["llama"], r=4)
    batch = lay_out(PROMPTS, 0, "tree")
    model: Any = network.model
    with torch.no_grad():
        tuned = network(batch)
        with model.disable_adapter():
            base = network(batch)
        slim(network)
        with model.disable_adapter():
            torch.testing.assert_close(network(batch), base, rtol=1e-5, atol=1e-6)
        model.merge_adapter()
        torch.testing.assert_close(network(batch), tuned, rtol=1e-4, atol=1e-5)
    assert (tuned - base).abs().max() > 1e-3


def test_the_last_layer_is_whole_for_whoever_asks_for_all_tokens(folders: dict[str, Path]) -> None:
    """Generation, and a second network on the same weights, find the layer as it was."""
    network = plain_network(folders["llama"], r=4).eval()
    ids = torch.tensor([PROMPTS[0]])
    assert network.base(input_ids=ids).logits.shape[1] == ids.shape[1]
    compute_what_is_read(network.trunk.layers[-1])
    assert isinstance(network, LabelTokenNetwork)
    again = LabelTokenNetwork(network.model, network.labels).eval()
    with torch.no_grad():
        first, second = (one(lay_out(PROMPTS, 0, "tree")) for one in (network, again))
        padded = network(lay_out(PROMPTS, 0, "padded"))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, padded, rtol=1e-5, atol=1e-5)


def test_new_tensors_are_not_filled_in_deterministic_mode() -> None:
    set_up(threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        torch.empty(1000)
    assert "aten::empty" in [event.key for event in seen.key_averages()]
    assert "aten::fill_" not in [event.key for event in seen.key_averages()]


def test_scoring_uses_the_lean_norms(folders: dict[str, Path]) -> None:
    scorer = LanguageScorer(toy_config(folders["gemma3_text"]), folders["gemma3_text"], None)
    before = scorer.logits(["age 50", "age 61"])
    norms = [m for m in scorer.network.modules() if type(m).__name__ == scorer.network.family.norm]
    assert norms and all("forward" in vars(norm) for norm in norms)
    for norm in norms:
        del norm.forward
    np.testing.assert_allclose(before, scorer.logits(["age 50", "age 61"]), rtol=1e-5, atol=1e-6)
