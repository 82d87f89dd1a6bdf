"""The tree layout gives the logits and gradients of the padded one, for every family, whatever the
prompts."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from cardiotune.data.tokens import LabelTokens
from cardiotune.families import tree_families
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork, _say_why_padded
from cardiotune.training.model import load_base
from cardiotune.training.packing import BLOCK, ROUND, Layout, by_token_budget, lay_out, shared_length
from conftest import build_toy_encoder, build_toy_model, toy_config

PROMPTS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=60), min_size=1, max_size=16)
"""Few values, so that prompts share much; long enough for several blocks."""
LAYOUTS: tuple[Layout, Layout] = ("padded", "tree")
LONG = [list(range(3, 83)), [*range(3, 63), *range(100, 130)], [*range(3, 63), *range(100, 180)], list(range(3, 30))]
"""Far longer than the windows of 16 and the blocks of a tree."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LabelTokenNetwork]:
    def load(family: str, attention: str = "sdpa") -> LabelTokenNetwork:
        folder = build_toy_model(tmp_path_factory.mktemp(family), family)
        config = toy_config(folder, model={"name": "toy", "path": str(folder), "attention": attention})
        return LabelTokenNetwork(load_base(folder, config, torch.float32, torch.device("cpu")), LabelTokens(5, 6))

    return {f: load(f) for f in tree_families()} | {
        "llama eager": load("llama", "eager"),
        "gemma3_text eager": load("gemma3_text", "eager"),
    }


@pytest.mark.parametrize("family", [*tree_families(), "llama eager", "gemma3_text eager"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS)
def test_tree_and_padded_layouts_give_the_same_logits(
    family: str, prompts: list[list[int]], models: dict[str, LabelTokenNetwork]
) -> None:
    model = models[family]
    assert model.layout == "tree"
    with torch.no_grad():
        padded = model(lay_out(prompts, 0, "padded"))
        tree = model(lay_out(prompts, 0, "tree"))
        alone = torch.cat([model(lay_out([prompt], 0, "padded")) for prompt in prompts])
    torch.testing.assert_close(tree, padded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def loss_and_gradients(
    model: LabelTokenNetwork, prompts: list[list[int]], layout: Layout
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    events = torch.arange(len(prompts)).remainder(2).float()
    loss = binary_cross_entropy_with_logits(model(lay_out(prompts, 0, layout)), events)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(
    plain: tuple[float, dict[str, Tensor]], tree: tuple[float, dict[str, Tensor]], noise: float = 0
) -> None:
    """`noise`: of all gradients together, what one that is zero but for rounding may keep."""
    assert tree[0] == pytest.approx(plain[0], rel=1e-5)
    assert tree[1].keys() == plain[1].keys()
    whole = torch.stack([gradient.norm() for gradient in plain[1].values()]).norm()
    assert whole > 0
    for name, gradient in plain[1].items():
        assert (tree[1][name] - gradient).norm() <= 1e-5 * gradient.norm() + noise * whole, name


@pytest.mark.parametrize("family", tree_families())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS)
@example(prompts=LONG)
def test_tree_and_padded_layouts_give_the_same_loss_and_gradients(
    family: str, prompts: list[list[int]], models: dict[str, LabelTokenNetwork]
) -> None:
    model = models[family]
    assert_same(*(loss_and_gradients(model, prompts, layout) for layout in LAYOUTS), noise=1e-7)


@pytest.mark.parametrize("family", tree_families())
def test_tree_and_padded_layouts_give_the_same_gradients(family: str, models: dict[str, LabelTokenNetwork]) -> None:
    """Where none of them is zero."""
    prompts = [[1, 7, 8, 9, 5], [1, 7, 8, 3], [1, 7, 8, 9, 5, 4, 4], [1, 2], [1, 7, 8, 3]]
    assert_same(*(loss_and_gradients(models[family], prompts, layout) for layout in LAYOUTS))


@pytest.mark.parametrize("family", tree_families())
def test_with_gradient_checkpointing_too(family: str, models: dict[str, LabelTokenNetwork]) -> None:
    model = models[family]
    plain = loss_and_gradients(model, LONG, "padded")
    try:
        model.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        assert_same(plain, loss_and_gradients(model, LONG, "tree"))
    finally:
        model.base.gradient_checkpointing_disable()
        model.eval()


def test_where_rows_share_nothing_the_reason_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _say_why_padded.cache_clear()
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with caplog.at_level("INFO"):
        networks = [LabelTokenNetwork(AutoModelForCausalLM.from_config(config), LabelTokens(5, 6)) for _ in range(2)]
        encoder = RiskNetwork(AutoModel.from_pretrained(build_toy_encoder(tmp_path)))
    assert [network.layout for network in (*networks, encoder)] == ["padded"] * 3
    said = [record.message.partition(": ")[2] for record in caplog.records if "computed for each row" in record.message]
    assert said == ["not tested with gpt_neox", "its tokens see those behind them too"]


def test_a_sliding_window_counts_depth_in_the_tree(models: dict[str, LabelTokenNetwork]) -> None:
    """Prompts far longer than the window of 16: a wrong window would show."""
    long = [list(range(3, 83)), [*range(3, 63), *range(100, 130)]]
    for family in ("gemma3_text", "mistral"):
        with torch.no_grad():
            tree = models[family](lay_out(long, 0, "tree"))
            padded = models[family](lay_out(long, 0, "padded"))
        torch.testing.assert_close(tree, padded, rtol=1e-5, atol=1e-5)


@given(prompts=PROMPTS)
def test_a_tree_holds_every_distinct_prefix_once(prompts: list[list[int]]) -> None:
    prefixes = {tuple(prompt[: length + 1]) for prompt in prompts for length in range(len(prompt))}
    batch = lay_out(prompts, 0, "tree")
    spare = -len(prefixes) % BLOCK  # only the attention's last block is filled up
    assert batch.keys is not None and batch.keys.numel() == batch.attention[:, 0, 0].numel()
    assert batch.input_ids.shape == (1, len(prefixes) + -len(prefixes) % ROUND)
    assert (
        batch.attention.sum() == sum(len(prefix) for prefix in prefixes) + spare
    )  # a token sees its prefix and itself
    for row, prompt in enumerate(prompts):
        block, place = divmod(int(batch.read_tokens[row]), BLOCK)
        path = batch.keys[block][batch.attention[block, 0, place]]
        assert batch.input_ids[0, path].tolist() == prompt
        assert batch.position_ids[0, path].tolist() == list(range(len(prompt)))


@pytest.mark.parametrize("layout", ["padded", "tree"])
@given(prompts=PROMPTS, budget=st.integers(1, 120))
def test_batches_hold_every_row_once_and_keep_to_the_budget(layout: str, prompts: list[list[int]], budget: int) -> None:
    batches = list(by_token_budget(prompts, budget, layout))
    assert sorted(row for batch in batches for row in batch) == list(range(len(prompts)))
    for batch in batches:
        tokens = lay_out([prompts[row] for row in batch], 0, layout).input_ids.numel()
        assert tokens <= budget or len(batch) == 1


def test_shared_length() -> None:
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([], [1]) == 0
    assert shared_length([1, 2], [1, 2, 3]) == 2


def test_toy_families_have_what_they_are_tested_for(tmp_path: Path) -> None:
    folder = build_toy_model(tmp_path, "gemma3_text")
    base = load_base(folder, toy_config(folder), torch.float32, torch.device("cpu"))
    assert base.config.sliding_window == 16
