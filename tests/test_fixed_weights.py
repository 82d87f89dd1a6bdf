"""Layers with fixed weights give what PyTorch's give, and the others are left alone."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma3nTextConfig, LlamaConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from cardiotune.families import FAMILIES, tree_families
from cardiotune.models.language import LanguageScorer
from cardiotune.training.fixed_weights import fix_weights
from cardiotune.training.lean import slim
from cardiotune.training.machine import computes_in_bfloat16
from cardiotune.training.packing import lay_out
from conftest import build_toy_encoder, build_toy_model, toy_config
from test_lean import PROMPTS, plain_network

needs_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels are those of x86")
needs_bfloat16 = pytest.mark.skipif(not computes_in_bfloat16(torch.device("cpu")), reason="the CPU has no bfloat16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: build_toy_model(tmp_path_factory.mktemp(family), family) for family in tree_families()}


def changed(network: nn.Module, kind: str) -> list[bool]:
    """Of every layer of a kind: whether it has a pass of its own."""
    return ["forward" in vars(module) for module in network.modules() if type(module).__name__.endswith(kind)]


def logits(network: nn.Module, layout: Any = "tree") -> torch.Tensor:
    with torch.inference_mode():
        return network(lay_out(PROMPTS, 0, layout)).float()


@needs_x86
@pytest.mark.parametrize("family", tree_families())
@pytest.mark.parametrize("layout", ["tree", "padded"])
@pytest.mark.parametrize("method", [{"kind": "lora", "r": 4}, {"kind": "full"}], ids=["lora", "full"])
def test_logits_are_those_of_the_plain_layers(
    folders: dict[str, Path], family: str, layout: str, method: dict[str, Any]
) -> None:
    network = plain_network(folders[family], **method).eval()
    if method["kind"] == "lora":
        network.model.merge_adapter()  # type: ignore[operator]
    before = logits(network, layout)
    slim(network)
    fix_weights(network.trunk, network.family.gated)
    linear = [module for module in network.trunk.modules() if type(module) is nn.Linear]
    assert sum(module.weight.is_mkldnn for module in linear) >= 7
    assert all(changed(network.trunk, "MLP"))
    torch.testing.assert_close(logits(network, layout), before, rtol=1e-5, atol=1e-5)


@needs_x86
@needs_bfloat16
@pytest.mark.parametrize("family", ["gemma3_text", "llama"])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_layers_are(folders: dict[str, Path], family: str) -> None:
    exact = logits(plain_network(folders[family], kind="full").eval())
    network = plain_network(folders[family], torch.bfloat16, kind="full").eval()
    plain = logits(network)
    fix_weights(network.trunk, network.family.gated)
    assert all(changed(network.trunk, "MLP"))
    assert 0 < (logits(network) - exact).norm() <= 1.5 * (plain - exact).norm()


@needs_x86
def test_an_adapter_that_is_not_summed_in_keeps_its_layer(folders: dict[str, Path]) -> None:
    """As over weights that are quantized in some layers only: the adapters are not summed into the
    others either."""
    network = plain_network(folders["llama"], r=4).eval()
    before = logits(network)
    slim(network)
    fix_weights(network.trunk, network.family.gated)
    assert not any(changed(network.trunk, "MLP"))
    assert not any(module.weight.is_mkldnn for module in network.trunk.modules() if type(module) is nn.Linear)
    torch.testing.assert_close(logits(network), before, rtol=1e-5, atol=1e-5)


@needs_x86
@pytest.mark.parametrize(
    ("bias", "activation", "gated"), [(False, "silu", True), (True, "silu", False), (False, "mish", False)]
)
def test_biases_and_unknown_activations_are_right(bias: bool, activation: str, gated: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=8, num_attention_heads=1, intermediate_size=16, mlp_bias=bias, hidden_act=activation
    )
    layer, x = LlamaMLP(config), torch.randn(3, 5, 8)
    with torch.inference_mode():
        before = layer(x)
        fix_weights(layer, type(layer).__name__)
        assert all(part.weight.is_mkldnn for part in layer.modules() if type(part) is nn.Linear)
        assert changed(layer, "MLP") == [gated]
        torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)


@needs_x86
def test_a_feed_forward_network_that_does_more_is_left_alone() -> None:
    """Gemma 3n thins its gate out; by its parts it looks like the others."""
    torch.manual_seed(0)
    config = Gemma3nTextConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, activation_sparsity_pattern=[0.9]
    )
    layer, x = Gemma3nTextMLP(config), torch.randn(3, 5, 8)
    with torch.inference_mode():
        before = layer(x)
        fix_weights(layer, FAMILIES["llama"].gated)
        assert changed(layer, "MLP") == [False] and all(changed(layer, "Linear"))
        torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(
            layer.down_proj(layer.act_fn(layer.gate_proj(x)) * layer.up_proj(x)), before, atol=1e-3
        )


def test_without_a_kernel_nothing_changes(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    network = plain_network(folders["llama"], kind="full").eval()
    fix_weights(network.trunk, network.family.gated)
    assert not any(changed(network.trunk, "Linear")) and not any(changed(network.trunk, "MLP"))
    half = plain_network(folders["llama"], torch.float16, kind="full").eval()
    monkeypatch.undo()
    fix_weights(half.trunk, half.family.gated)
    assert not any(changed(half.trunk, "Linear"))


@needs_x86
@pytest.mark.parametrize("family", ["gemma3_text", "llama", "bert"])
def test_scoring_has_fixed_weights(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders and encoders; a lone row and one among others agree as they did."""
    folder = build_toy_encoder(tmp_path) if family == "bert" else build_toy_model(tmp_path, family)
    texts = ["age 50", "age 61, smoker yes", "age 61, smoker no"]
    kind = {"model": {"family": "encoder"}, "task": {"head": "classifier"}} if family == "bert" else {}
    config = toy_config(folder, **kind)
    scorer = LanguageScorer(config, folder, None)
    assert any(changed(scorer.network.trunk, "Linear"))
    found = scorer.states(texts)
    np.testing.assert_allclose(np.concatenate([scorer.states([text]) for text in texts]), found, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    np.testing.assert_allclose(LanguageScorer(config, folder, None).states(texts), found, rtol=1e-5, atol=1e-5)
