"""What must be known of a model type before a number may be read from it: one record each, tested
against stock transformers.

A wrong position, a scale that is left out, or an encoder that is read as a decoder gives plausible
numbers and no error. So nothing is guessed from names or attributes: what has no record here is
refused.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cardiotune.errors import ModelError
from cardiotune.settings import ModelConfig

Positions = Literal["rotary", "learned", "after_padding", "computed", "unlimited"]


@dataclass(frozen=True)
class Family:
    """One model type of transformers (`config.model_type`)."""

    kind: Literal["decoder", "encoder"]
    positions: Positions = "rotary"
    """How a token's place is told. `rotary`: by rotation, 0, 1, 2... `learned`: a table, from 0.
    `after_padding`: a table whose first rows, up to the padding token's id, are no places; the
    model counts for itself. `computed`: a table or a rotation, which the model counts for itself
    from 0. `unlimited`: by distance or by state; there is no longest prompt."""
    tree: bool = False
    """A decoder that takes a ready mask and rotary positions, so that prompts may share their first
    tokens (exact, tested)."""
    norm: str = ""
    """Class of its root-mean-square norms, where `lean` knows them."""
    norm_adds_one: bool = False
    """These scale by one plus their weight."""
    gated: str = ""
    """Class of its feed-forward network, where that is `down(activation(gate(x)) * up(x))` and
    nothing more."""
    multiplied_by: str = ""
    """Setting that the answers' logits are multiplied by."""
    divided_by: str = ""
    """Setting that they are divided by."""
    capped_by: str = ""
    """Setting c of a soft cap, c tanh(logit / c); none where it is empty."""
    width: str = "hidden_size"
    """Setting with the size of the hidden states that are read."""
    sdpa: bool = True
    """Whether transformers computes its attention by PyTorch's `scaled_dot_product_attention`; else
    its own code does."""
    float16: bool = True
    """Whether its activations stay within float16."""
    table_if: str = ""
    """Setting that, where it is on, adds a table of places to positions that are `unlimited`
    without it."""
    without: tuple[str, ...] = ()
    """Settings that make another model of it, of which nothing is known here; they must be off."""

    def scaled(self, logits: torch.Tensor, config: Any) -> torch.Tensor:
        """Products with the output matrix -> the model's logits, of the same shape."""
        if self.multiplied_by:
            logits = logits * getattr(config, self.multiplied_by)
        if self.divided_by:
            logits = logits / getattr(config, self.divided_by)
        if self.capped_by and (cap := getattr(config, self.capped_by)):
            logits = cap * torch.tanh(logits / cap)
        return logits

    def longest(self, config: Any) -> int | None:
        """Tokens of the longest prompt that the model has positions for; None when there is no
        limit.

        A sliding window is none: what a token no longer sees has passed its content on.
        """
        if self.positions == "unlimited" and not (self.table_if and getattr(config, self.table_if)):
            return None
        positions = int(config.max_position_embeddings)
        if self.positions == "after_padding":
            return positions - int(config.pad_token_id) - 1
        return _rotary_limit(config, positions) if self.positions == "rotary" else positions


def _rotary_limit(config: Any, positions: int) -> int:
    """How far rotary positions reach, by how they are stretched.

    `linear` and `yarn` stretch what the model was first trained for by a factor. `dynamic` and
    `longrope` change the rotation of a whole batch with its longest row, so that a row's risk would
    depend on the others: their limit is the first length.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = [kind for kind in rope.values() if isinstance(kind, dict)]  # each kind of layer may have its own
    first = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    if any(kind.get("rope_type") in ("dynamic", "longrope") for kind in (rope, *by_layer)):
        return int(first or positions)
    if rope.get("rope_type") == "yarn" and first:
        return max(positions, int(first * rope["factor"]))
    return int(positions * rope["factor"]) if rope.get("rope_type") == "linear" else positions


_CAP = "final_logit_softcapping"
_PLAIN_BERT = Family("encoder", "learned", without=("is_decoder",))
_ROBERTA = Family("encoder", "after_padding", without=("is_decoder",))
_ROTARY = Family("decoder")
_GRANITE = Family("decoder", divided_by="logits_scaling")
_COHERE = Family("decoder", multiplied_by="logit_scale")

FAMILIES: dict[str, Family] = {
    # decoders whose rows may share their first tokens
    "gemma": Family("decoder", tree=True, norm="GemmaRMSNorm", norm_adds_one=True, gated="GemmaMLP", float16=False),
    "gemma2": Family(
        "decoder",
        tree=True,
        norm="Gemma2RMSNorm",
        norm_adds_one=True,
        gated="Gemma2MLP",
        capped_by=_CAP,
        sdpa=False,
        float16=False,
    ),
    "gemma3_text": Family(
        "decoder", tree=True, norm="Gemma3RMSNorm", norm_adds_one=True, gated="Gemma3MLP", capped_by=_CAP, float16=False
    ),
    "llama": Family("decoder", tree=True, norm="LlamaRMSNorm", gated="LlamaMLP"),
    "mistral": Family("decoder", tree=True, norm="MistralRMSNorm", gated="MistralMLP"),
    "qwen2": Family("decoder", tree=True, norm="Qwen2RMSNorm", gated="Qwen2MLP"),
    "qwen3": Family("decoder", tree=True, norm="Qwen3RMSNorm", gated="Qwen3MLP"),
    # text beside a vision tower: what is said of the whole model; of the text path says that path's
    # own record
    "gemma3": Family("decoder", float16=False),
    # other decoders
    **dict.fromkeys(
        ("arcee", "ernie4_5", "exaone4", "glm", "glm4", "helium", "hunyuan_v1_dense", "ministral3"), _ROTARY
    ),
    **dict.fromkeys(("mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2_moe"), _ROTARY),
    **dict.fromkeys(("qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"), _ROTARY),
    **dict.fromkeys(("gpt_neox",), _ROTARY),
    "falcon": Family("decoder", without=("alibi",)),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "granitemoehybrid"), _GRANITE),
    **dict.fromkeys(("cohere", "cohere2"), _COHERE),
    "falcon_h1": Family("decoder", multiplied_by="lm_head_multiplier"),
    "nanochat": Family("decoder", capped_by=_CAP),
    "vaultgemma": Family("decoder", capped_by=_CAP, sdpa=False, float16=False),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), Family("decoder", "learned")),
    **dict.fromkeys(("gpt_neo", "gptj", "codegen"), Family("decoder", "learned", sdpa=False)),
    "opt": Family("decoder", "learned", width="word_embed_proj_dim"),
    "biogpt": Family("decoder", "learned"),
    **dict.fromkeys(("bloom", "mpt"), Family("decoder", "unlimited", sdpa=False)),
    # encoders
    **dict.fromkeys(("bert", "electra", "albert", "ernie"), _PLAIN_BERT),
    **dict.fromkeys(("megatron-bert", "rembert"), replace(_PLAIN_BERT, sdpa=False)),
    "distilbert": Family("encoder", "computed"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm"), _ROBERTA),
    "mpnet": Family("encoder", "after_padding", sdpa=False),
    **dict.fromkeys(
        ("deberta", "deberta-v2"), Family("encoder", "unlimited", table_if="position_biased_input", sdpa=False)
    ),
    "modernbert": Family("encoder"),
    "nomic_bert": Family("encoder"),
    "roformer": Family("encoder", "computed", sdpa=False, without=("is_decoder",)),
}
"""Model type -> what is known of it."""


def family_named(model_type: str) -> Family:
    """The record of a model type. ModelError when there is none."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type {model_type}: nothing is known of its positions and logits, so a risk read from it could be wrong; "
            f"known are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def family_of(config: Any) -> Family:
    """The record of a model, by its config. ModelError when there is none, or when a setting makes
    another model of it."""
    found = family_named(config.model_type)
    for setting in found.without:
        if getattr(config, setting, False):
            raise ModelError(f"model type {config.model_type}: not known with {setting}; choose a model without it")
    return found


def text_family(config: Any) -> Family:
    """The record of a model's text path."""
    return family_of(config.get_text_config())


def tree_families() -> list[str]:
    """Model types whose rows may share their first tokens."""
    return [name for name, family in FAMILIES.items() if family.tree]


def read_config(folder: Path) -> Any:
    """The config of a model folder. ModelError when transformers does not know the model type."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{folder}: its config cannot be read ({said})") from None


def known_family(config: Any, model: ModelConfig) -> Family:
    """The record of the text path of the model in whose folder `config` is, as an experiment takes
    it by `model`.

    ModelError when there is none, when its activations do not fit the number type, or when the
    experiment takes a decoder for an encoder or the other way: it would read the wrong token, and
    say nothing.
    """
    family_of(config)
    text = config.get_text_config()
    found = family_of(text)
    kind = "encoder" if getattr(text, "use_bidirectional_attention", None) is True else found.kind
    if not found.float16 and "float16" in (model.dtype, model.score_dtype):
        raise ModelError(
            f"model.dtype, model.score_dtype: {text.model_type} overflows float16; use bfloat16 or float32"
        )
    if kind != model.family:
        raise ModelError(
            f"model.family: {model.family}, but {text.model_type} is of kind {kind}; set model.family={kind}"
        )
    return found
