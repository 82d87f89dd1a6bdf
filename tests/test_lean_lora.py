"""The lean adapted layer gives the logits and gradients of PEFT's own."""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import Linear

from cardiotune.training import model as building
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.lean_lora import LeanLinear
from cardiotune.training.packing import lay_out
from conftest import build_toy_model, toy_config

CPU = torch.device("cpu")
PROMPTS = [[1, 7, 8, 9, 5], [1, 7, 8, 3], [1, 7, 8, 9, 5, 4, 4], [1, 2]]


def adapted(folder: Path, **settings: object) -> RiskNetwork:
    config = toy_config(folder, **settings)
    encoder = building.build_encoder(config, building.load_tokenizer(folder))
    torch.manual_seed(0)
    network = building.build(building.load_base(folder, config, torch.float32, CPU), config, encoder)
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return network


def gradients(network: RiskNetwork) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(lay_out(PROMPTS, 0, network.layout)).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])  # qwen2 has biases
def test_the_lean_layer_equals_that_of_peft(family: str, tmp_path: Path) -> None:
    network = adapted(build_toy_model(tmp_path, family), train={"gradient_checkpointing": family == "llama"}).train()
    lean = [module for module in network.modules() if isinstance(module, LeanLinear)]
    assert len(lean) == 14  # seven linear layers in each of two blocks
    ours, logits = gradients(network), network(lay_out(PROMPTS, 0, "padded")).detach()
    for module in lean:
        module.__class__ = Linear
    theirs = gradients(network)
    torch.testing.assert_close(logits, network(lay_out(PROMPTS, 0, "padded")).detach(), rtol=1e-5, atol=1e-6)
    assert ours.keys() == theirs.keys() and len(ours) == 28
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_under_autocast_the_masters_keep_float32_gradients(tmp_path: Path) -> None:
    network = adapted(build_toy_model(tmp_path, "llama")).train()
    exact = gradients(network)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(network)
    assert {gradient.dtype for gradient in rounded.values()} == {torch.float32}
    together = [torch.cat([gradient.ravel() for gradient in found.values()]) for found in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*together, dim=0) > 0.99


@pytest.mark.parametrize("method", [{"dropout": 0.3}, {"dora": True}])
def test_what_the_lean_layer_does_not_know_is_left_to_peft(method: dict[str, object], tmp_path: Path) -> None:
    folder = build_toy_model(tmp_path, "llama")
    network = adapted(folder, method=method)
    logits = [network.train()(lay_out(PROMPTS, 0, network.layout)) for _ in range(2)]
    if "dropout" in method:
        assert not torch.equal(*logits)
        still = [network.eval()(lay_out(PROMPTS, 0, network.layout)) for _ in range(2)]
        assert torch.equal(*still)
    else:
        assert not any(isinstance(module, LeanLinear) for module in network.modules())
