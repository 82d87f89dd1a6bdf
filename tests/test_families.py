"""Every record of a model type against stock transformers: a row of a batch gives what the row
alone gives there."""

import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cardiotune.data.tokens import LabelTokens
from cardiotune.errors import ModelError
from cardiotune.families import FAMILIES, family_of, text_family
from cardiotune.settings import ModelConfig
from cardiotune.training.checkpoint import check_same_weights, save_weights, trained_state
from cardiotune.training.heads import ClassifierNetwork, LabelTokenNetwork, RiskNetwork
from cardiotune.training.model import auto_class, build, known_family, load_base, load_tuned
from cardiotune.training.packing import lay_out
from conftest import known_settings, toy_config

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SMALL: dict[str, Any] = {
    **{"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8, "local_attention": 8, "window_size": 8},
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2},
    **{"mamba_d_ssm": 64, "mamba_n_groups": 1},
    **{"rotary_dim": 4, "ffn_dim": 48, "dim": 32, "hidden_dim": 48, "num_layers": 2},
}
"""For every model type whose config knows them: sizes, and windows shorter than a row."""
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
MORE: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "modernbert": {"global_attn_every_n_layers": 2},
    **dict.fromkeys(("deberta", "deberta-v2"), DISENTANGLED),
}
"""What has to be said of a model type so that two of its layers show all that it has."""
draw = random.Random(1)
PROMPTS = [[draw.randrange(3, 64) for _ in range(length)] for length in (30, 5, 12, 30, 1, 9)]
PROMPTS[3][:20] = PROMPTS[0][:20]


def settings_of(model_type: str) -> dict[str, Any]:
    """Small sizes; what the record says of the logits is strong enough to show."""
    record = FAMILIES[model_type]
    scales = {record.multiplied_by: 0.3, record.divided_by: 8.0, record.capped_by: 0.5, record.table_if: False}
    width = {} if record.width == "hidden_size" else {record.width: 16}
    told = {name: value for name, value in {**scales, **width, **dict.fromkeys(record.without, False)}.items() if name}
    return {**SIZES, **known_settings(model_type, SMALL), **told, **MORE.get(model_type, {})}


def tiny(model_type: str, **more: Any) -> Any:
    """A model of two layers; its weights are large enough for every part of it to show."""
    record = FAMILIES[model_type]
    text = settings_of(record.text or model_type)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {"text_config": text, "vision_config": {**vision, "image_size": 28, "patch_size": 14}}
    settings = {**settings, "mm_tokens_per_image": 4} if record.text else {**text, **more}
    config = AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(0)
    model = auto_class(record.kind).from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.1 + (weight if weight.ndim == 1 else 0))
    return model


@torch.no_grad()
def alone(model: Any, decoder: bool) -> torch.Tensor:
    """By stock transformers, a row at a time: (rows,) log-odds of tokens 6 and 5, or (rows, width)
    of the first token."""
    rows = [model(input_ids=torch.tensor([prompt])) for prompt in PROMPTS]
    if not decoder:
        return torch.stack([row.last_hidden_state[0, 0] for row in rows])
    return torch.stack([row.logits[0, -1, [5, 6]].diff()[0] for row in rows])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_row_of_a_batch_is_what_it_is_in_stock_transformers(model_type: str) -> None:
    model, decoder = tiny(model_type), FAMILIES[model_type].kind == "decoder"
    expected = alone(model, decoder)
    network = LabelTokenNetwork(model, LabelTokens(6, 5)) if decoder else RiskNetwork(model)
    read = network.eval() if decoder else network.hidden
    with torch.no_grad():
        # Whatever fills the padded places, the model's own padding token or another.
        found = [read(lay_out(PROMPTS, pad_id, layout)) for layout in {"padded", network.layout} for pad_id in (1, 7)]
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    assert network.layout == ("tree" if text_family(model.config).tree else "padded")
    assert model.config.get_text_config().model_type == (FAMILIES[model_type].text or model_type)


@pytest.mark.parametrize("model_type", ["opt", "gpt2", "gemma3", "bert"])
def test_a_classifier_fits_the_states_that_are_read(model_type: str) -> None:
    network = ClassifierNetwork(tiny(model_type))
    assert network(lay_out(PROMPTS, 1, network.layout)).shape == (len(PROMPTS),)


@pytest.mark.parametrize("method", [{"kind": "lora", "r": 4}, {"kind": "full"}], ids=["lora", "full"])
@pytest.mark.parametrize("model_type", ["deberta", "mixtral", "nomic_bert", "opt", "roberta", "gemma2", "gpt2"])
def test_what_was_trained_is_saved_and_loaded(model_type: str, method: dict[str, Any], tmp_path: Path) -> None:
    """Models that change results in place, whose weights are cut and joined on their way to a file,
    or have no sdpa."""
    tiny(model_type).save_pretrained(tmp_path / "base")
    model = {"family": FAMILIES[model_type].kind}
    config = toy_config(tmp_path / "base", method=method, model=model, task={"head": "classifier"})
    base, nothing = load_base(tmp_path / "base", config, torch.float32, torch.device("cpu")), cast(Any, None)
    network = build(base, config, nothing).train()
    batch = lay_out(PROMPTS, 1, network.layout)
    network(batch).square().sum().backward()
    torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], 0.01).step()
    (tmp_path / "saved").mkdir()
    state = trained_state(network.eval())
    save_weights(network, state, tmp_path / "saved")
    check_same_weights(network, state, tmp_path / "saved")
    again = load_tuned(tmp_path / "base", tmp_path / "saved", config, nothing, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(again(batch), network(batch), rtol=1e-5, atol=1e-5)
    changed = next(name for name in state if name.startswith("model."))
    state = {**state, changed: state[changed] + 1}
    with pytest.raises(ModelError, match="not those in memory"):
        check_same_weights(network, state, tmp_path / "saved")


def test_nothing_is_read_from_a_model_type_without_a_record() -> None:
    config = AutoConfig.for_model("t5gemma")
    with pytest.raises(
        ModelError, match=rf"model type t5gemma: nothing is known .* known are {', '.join(sorted(FAMILIES))}$"
    ):
        family_of(config)
    mamba = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", vocab_size=64, hidden_size=16, num_hidden_layers=1)
    )
    with pytest.raises(ModelError, match="model type mamba"):
        LabelTokenNetwork(mamba, LabelTokens(5, 6))


@pytest.mark.parametrize(
    ("model_type", "settings", "model", "words"),
    [
        ("falcon", {"alibi": True}, {}, "falcon: not known with alibi"),
        ("bert", {"is_decoder": True}, {"family": "encoder"}, "bert: not known with is_decoder"),
        ("llama", {}, {"family": "encoder"}, "llama is of kind decoder; set model.family=decoder"),
        ("bert", {}, {}, "bert is of kind encoder; set model.family=encoder"),
        ("gemma3_text", {"use_bidirectional_attention": True}, {}, "set model.family=encoder"),
        ("gemma2", {}, {"dtype": "float16"}, "gemma2 overflows float16"),
        ("gemma", {}, {"score_dtype": "float16"}, "gemma overflows float16"),
    ],
)
def test_a_model_that_the_experiment_takes_for_another_is_refused(
    model_type: str, settings: dict[str, Any], model: dict[str, Any], words: str
) -> None:
    config = AutoConfig.for_model(model_type, **settings)
    with pytest.raises(ModelError, match=words):
        known_family(config, ModelConfig(name="toy", **model))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_attention_that_a_model_has(model_type: str) -> None:
    model = tiny(model_type)
    assert type(model)._supports_sdpa == FAMILIES[model_type].sdpa


ORIGINAL = {"original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("model_type", "settings", "longest"),
    [
        ("llama", {}, 64),
        ("mistral", {"sliding_window": 8}, 64),
        ("gpt2", {}, 64),
        ("bert", {}, 64),
        ("roberta", {}, 62),
        ("camembert", {"pad_token_id": 3}, 60),
        ("mpnet", {}, 62),
        ("opt", {}, 64),
        ("bloom", {}, None),
        ("mpt", {}, None),
        ("deberta-v2", DISENTANGLED, None),
        ("deberta-v2", {"position_biased_input": True}, 64),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 256),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, **ORIGINAL}}, 128),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}, 64),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "rope_theta": 1e4,
                    **ORIGINAL,
                }
            },
            64,
        ),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "rope_theta": 1e4,
                    **ORIGINAL,
                },
                **ORIGINAL,
            },
            32,
        ),
    ],
)
def test_the_longest_prompt_of_a_model(model_type: str, settings: dict[str, Any], longest: int | None) -> None:
    config = AutoConfig.for_model(model_type, **{**SIZES, **settings})
    assert family_of(config).longest(config) == longest


@pytest.mark.parametrize("model_type", ["roberta", "mpnet", "bert", "opt", "gpt2", "distilbert", "deberta-v2"])
def test_a_prompt_of_the_longest_length_runs_and_one_more_does_not(model_type: str) -> None:
    """Where positions are a table, stock transformers itself says where it ends."""
    model = tiny(model_type, **({"position_biased_input": True} if model_type == "deberta-v2" else {}))
    longest = family_of(model.config).longest(model.config)
    assert longest is not None
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))
