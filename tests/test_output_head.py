"""Adapters on the output matrix and on the embeddings, tied or not, ours and from elsewhere,
against stock PEFT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cardiotune.errors import ModelError
from cardiotune.settings import Config
from cardiotune.training.checkpoint import save_weights, trained_state
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork
from cardiotune.training.model import build, build_encoder, has_head, load_base, load_plain, load_tuned
from cardiotune.training.packing import lay_out
from conftest import build_toy_encoder, build_toy_model, toy_config

CPU = torch.device("cpu")
PROMPTS = [[1, 7, 8, 9, 5], [1, 7, 8, 3], [1, 7, 8, 9, 5, 4, 4], [1, 20], [1, 7, 8, 3]]
TIED = {"llama": False, "gemma3_text": True, "qwen3": False, "gemma3": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: build_toy_model(tmp_path_factory.mktemp(family), family) for family in TIED}


def built(folder: Path, dtype: torch.dtype = torch.float32, **sections: Any) -> tuple[Config, RiskNetwork]:
    torch.manual_seed(0)
    config = toy_config(folder, **sections)
    network = build(load_base(folder, config, dtype, CPU), config, build_encoder(config, folder))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    return config, network.eval()


@torch.no_grad()
def ours(network: RiskNetwork) -> torch.Tensor:
    return torch.as_tensor(network(lay_out(PROMPTS, 0, network.layout)))


@torch.no_grad()
def stock(model: Any, network: Any) -> torch.Tensor:
    pair = [network.labels.negative, network.labels.positive]
    return torch.stack([model(input_ids=torch.tensor([p])).logits[0, -1, pair].diff()[0].float() for p in PROMPTS])


def saved(network: RiskNetwork, folder: Path) -> Path:
    folder.mkdir()
    save_weights(network, trained_state(network), folder)
    return folder


TARGETS = [["lm_head"], ["q_proj", "lm_head"], ["embed_tokens"], ["q_proj", "embed_tokens", "lm_head"]]


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_adapter_counts_where_it_stands(
    family: str, targets: list[str], dora: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    config, network = built(folder, method={"target_modules": targets, "dora": dora})
    network(lay_out(PROMPTS, 0, network.layout)).sum().backward()
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in trained.values())
    for target in targets:
        assert any(f".{target}." in name for name in trained), target
    adapter = saved(network, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bare = stock(plain, network)
    expected = stock(PeftModel.from_pretrained(plain, adapter).eval(), network)
    assert (expected - bare).abs().max() > 0.05
    torch.testing.assert_close(ours(network), expected, rtol=1e-5, atol=1e-5)
    again = load_tuned(folder, adapter, config, build_encoder(config, folder), torch.float32, CPU)
    torch.testing.assert_close(ours(again), expected, rtol=1e-5, atol=1e-5)
    load_plain(folder, adapter, config).save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(stock(merged, network), expected, rtol=1e-5, atol=1e-5)


def test_on_a_bfloat16_model_it_is_read_in_float32(folders: dict[str, Path], tmp_path: Path) -> None:
    targets = {"target_modules": ["lm_head"]}
    for family in ("llama", "gemma3_text"):
        _, network = built(folders[family], torch.bfloat16, method=targets)
        adapter = saved(network, tmp_path / family)
        plain = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.bfloat16)
        states: list[torch.Tensor] = []
        plain.get_output_embeddings().register_forward_pre_hook(lambda _, given, kept=states: kept.append(given[0]))
        stock(plain, network)
        exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[family]), adapter)
        head = exact.get_base_model().get_output_embeddings()
        pair = [network.labels.negative, network.labels.positive]
        expected = torch.stack([head(state[0, -1].float())[pair].diff()[0] for state in states])
        torch.testing.assert_close(ours(network), expected.detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("family", TIED)
def test_full_fine_tuning_trains_the_output_matrix(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders[family]
    config, network = built(folder, method={"kind": "full"})
    output = network.base.get_output_embeddings().weight
    assert output.requires_grad and (output is network.base.get_input_embeddings().weight) == TIED[family]
    before, optimizer = (
        output.detach().clone(),
        torch.optim.SGD([w for w in network.parameters() if w.requires_grad], 1),
    )
    network(lay_out(PROMPTS, 0, network.layout)).sum().backward()
    optimizer.step()
    assert isinstance(network, LabelTokenNetwork)
    assert (output - before)[[network.labels.positive, network.labels.negative]].abs().max() > 0
    model = saved(network, tmp_path / "model")
    expected = ours(network)
    again = load_tuned(folder, model, config, build_encoder(config, folder), torch.float32, CPU)
    torch.testing.assert_close(ours(again), expected, rtol=1e-5, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    torch.testing.assert_close(stock(plain, network), expected, rtol=1e-5, atol=1e-5)


def test_a_classifier_leaves_the_output_matrix_alone(folders: dict[str, Path]) -> None:
    _, network = built(folders["llama"], method={"kind": "full"}, task={"head": "classifier"})
    assert not network.base.get_output_embeddings().weight.requires_grad


FOREIGN: dict[str, dict[str, Any]] = {
    "head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embeddings saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "both kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "a norm saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["norm", "input_layernorm"]},
    "head adapted": {"target_modules": ["lm_head", "v_proj"]},
    "embeddings adapted": {"target_modules": ["embed_tokens"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [7, 8, 20]},
    "rslora": {"target_modules": ["lm_head", "q_proj"], "use_rslora": True},
}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_from_elsewhere_scores_as_in_stock_peft(
    kind: str, family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, **FOREIGN[kind])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)
    config = toy_config(folder)
    network = load_tuned(folder, adapter, config, build_encoder(config, folder), torch.float32, CPU)
    fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), adapter)
    expected = stock(fresh.eval(), network)
    torch.testing.assert_close(ours(network), expected, rtol=1e-5, atol=1e-5)
    load_plain(folder, adapter, config).save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(stock(merged, network), expected, rtol=1e-5, atol=1e-5)


def test_what_else_a_classification_adapter_saves_counts_too(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(folders["llama"], num_labels=2, dtype=torch.float32)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    model = get_peft_model(base, lora).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
        expected = torch.cat([model(input_ids=torch.tensor([p])).logits.diff()[0] for p in PROMPTS])
    model.save_pretrained(tmp_path / "adapter")
    config = toy_config(folders["llama"], task={"head": "classifier"})
    encoder = build_encoder(config, folders["llama"])
    network = load_tuned(folders["llama"], tmp_path / "adapter", config, encoder, torch.float32, CPU)
    torch.testing.assert_close(ours(network), expected, rtol=1e-5, atol=1e-5)


def test_adapters_whose_risk_is_not_read_from_layers_alone_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PromptTuningConfig
    from transformers import AutoModelForTokenClassification

    config = toy_config(folders["llama"])
    encoder = build_encoder(config, folders["llama"])

    def load(name: str) -> None:
        load_tuned(folders["llama"], tmp_path / name, config, encoder, torch.float32, CPU)

    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(
        tmp_path / "soft"
    )
    with pytest.raises(ModelError, match="PROMPT_TUNING changes the prompt; expected LoRA"):
        load("soft")
    base = AutoModelForTokenClassification.from_pretrained(folders["llama"])
    get_peft_model(base, LoraConfig(task_type="TOKEN_CLS", target_modules=["q_proj"])).save_pretrained(
        tmp_path / "tokens"
    )
    with pytest.raises(ModelError, match="an adapter for TOKEN_CLS; expected one for CAUSAL_LM or SEQ_CLS"):
        load("tokens")


def test_the_classification_head_of_an_encoder_is_refused(tmp_path: Path) -> None:
    """It stands on a pooler and has a bias; its weights on the first token's state would give other
    numbers."""
    folder = build_toy_encoder(tmp_path / "bert")
    base = AutoModelForSequenceClassification.from_pretrained(folder)
    get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(ModelError, match=r"the head of an encoder .* stands on a pooler"):
        has_head(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"method": {"target_modules": ["lm_head"]}, "task": {"head": "classifier"}}, "lm_head is not on the way"),
        ({"method": {"target_modules": ["q_proj", "w_proj"]}}, "w_proj matches no layer of toy; its linear layers are"),
        ({"method": {"target_modules": ["q_proj", "lm_head"], "top_layers": 1}}, "lm_head is in none of the top 1"),
        ({"method": {"target_modules": ["embed_tokens"], "top_layers": 1}}, "embed_tokens is in none of the top 1"),
    ],
)
def test_a_target_that_would_never_train_is_refused(
    sections: dict[str, Any], words: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match=words):
        built(folders["llama"], **sections)


def test_named_targets_stay_out_of_vision_tower_and_pooler(folders: dict[str, Path], tmp_path: Path) -> None:
    targets = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    _, network = built(folders["gemma3"], method=targets)
    trained = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert all(any(f".{target}." in name for name in trained) for target in targets["target_modules"])
    assert not [name for name in trained if "vision" in name or "projector" in name]
    network(lay_out(PROMPTS, 0, network.layout)).sum().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in network.parameters() if w.requires_grad)
    folder = build_toy_encoder(tmp_path)
    _, network = built(
        folder, method={"target_modules": ["dense"]}, model={"family": "encoder"}, task={"head": "classifier"}
    )
    trained = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert not [name for name in trained if "pooler" in name] and len(trained) > 4
