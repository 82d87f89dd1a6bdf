"""What must be known of a model type before a number may be read from it: one record each, tested
against stock transformers.

A wrong position, a scale that is left out, or an encoder that is read as a decoder gives plausible
numbers and no error. So nothing is guessed from names or attributes: what has no record here is
refused.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cardiotune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["decoder", "encoder"]
Positions = Literal["rotary", "learned", "after_padding", "computed", "unlimited"]


@dataclass(frozen=True, slots=True)
class Line:
    """Model types that users know by one name, and that are told by a model's name before any file
    of it is read. Each has a section of `docs/compatibility.md`."""

    name: str
    title: str
    named: str = ""
    """Pattern of names and hub ids, in lower case."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model type of transformers (`config.model_type`)."""

    kind: Kind
    line: Line | None = None
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
    text: str = ""
    """Model type of its text path, where that is another: of it says that type's own record."""
    without: tuple[str, ...] = ()
    """Settings that make another model of it, of which nothing is known here; they must be off."""

    def scaled(self, logits: "Tensor", config: Any) -> "Tensor":
        """Products with the output matrix -> the model's logits, of the same shape."""
        if self.multiplied_by:
            logits = logits * getattr(config, self.multiplied_by)
        if self.divided_by:
            logits = logits / getattr(config, self.divided_by)
        if self.capped_by and (cap := getattr(config, self.capped_by)):
            logits = cap * (logits / cap).tanh()
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
_GEMMA2 = Line("gemma2", "Gemma 2", r"\bgemma-?2-")
_GEMMA3_VISION = Line(
    "gemma3_vision",
    "Gemma 3 conditional generation (MedGemma), text path",
    r"gemma-?3-4b|^(?!.*(text|27b)).*medgemma",
)
_GEMMA3 = Line("gemma3", "Gemma 3 text", "gemma")
_QWEN = Line("qwen", "Qwen2, Qwen3", "qwen")
_BERT = Line("bert", "BERT-type encoders")
_ENCODER = Family("encoder", _BERT)
_PLAIN_BERT = replace(_ENCODER, positions="learned", without=("is_decoder",))
_ROBERTA = replace(_ENCODER, positions="after_padding", without=("is_decoder",))
_DEBERTA = replace(_ENCODER, positions="unlimited", table_if="position_biased_input", sdpa=False)
_ROTARY = Family("decoder")
_TREE = Family("decoder", tree=True)
_GEMMA = replace(_TREE, norm_adds_one=True, float16=False)
_GRANITE = Family("decoder", divided_by="logits_scaling")
_COHERE = Family("decoder", multiplied_by="logit_scale")

FAMILIES: dict[str, Family] = {
    # decoders whose rows may share their first tokens
    "gemma": replace(_GEMMA, norm="GemmaRMSNorm", gated="GemmaMLP"),
    "gemma2": replace(_GEMMA, line=_GEMMA2, norm="Gemma2RMSNorm", gated="Gemma2MLP", capped_by=_CAP, sdpa=False),
    # text beside a vision tower
    "gemma3": Family("decoder", _GEMMA3_VISION, text="gemma3_text", float16=False),
    "gemma3_text": replace(_GEMMA, line=_GEMMA3, norm="Gemma3RMSNorm", gated="Gemma3MLP", capped_by=_CAP),
    "llama": replace(_TREE, line=Line("llama", "Llama, Med42", "llama|med42"), norm="LlamaRMSNorm", gated="LlamaMLP"),
    "mistral": replace(_TREE, line=Line("mistral", "Mistral", "mistral"), norm="MistralRMSNorm", gated="MistralMLP"),
    "qwen2": replace(_TREE, line=_QWEN, norm="Qwen2RMSNorm", gated="Qwen2MLP"),
    "qwen3": replace(_TREE, line=_QWEN, norm="Qwen3RMSNorm", gated="Qwen3MLP"),
    # other decoders
    **dict.fromkeys(
        ("arcee", "ernie4_5", "exaone4", "glm", "glm4", "helium", "hunyuan_v1_dense", "ministral3"), _ROTARY
    ),
    **dict.fromkeys(("mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2_moe"), _ROTARY),
    **dict.fromkeys(("qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "gpt_neox"), _ROTARY),
    "falcon": Family("decoder", without=("alibi",)),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "granitemoehybrid"), _GRANITE),
    **dict.fromkeys(("cohere", "cohere2"), _COHERE),
    "falcon_h1": Family("decoder", multiplied_by="lm_head_multiplier"),
    "nanochat": Family("decoder", capped_by=_CAP),
    "vaultgemma": Family("decoder", capped_by=_CAP, sdpa=False, float16=False),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "biogpt"), Family("decoder", positions="learned")),
    **dict.fromkeys(("gpt_neo", "gptj", "codegen"), Family("decoder", positions="learned", sdpa=False)),
    "opt": Family("decoder", positions="learned", width="word_embed_proj_dim"),
    **dict.fromkeys(("bloom", "mpt"), Family("decoder", positions="unlimited", sdpa=False)),
    # encoders
    **dict.fromkeys(("bert", "electra", "albert", "ernie"), _PLAIN_BERT),
    **dict.fromkeys(("megatron-bert", "rembert"), replace(_PLAIN_BERT, sdpa=False)),
    "distilbert": replace(_ENCODER, positions="computed"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm"), _ROBERTA),
    "mpnet": replace(_ENCODER, positions="after_padding", sdpa=False),
    **dict.fromkeys(("deberta", "deberta-v2"), _DEBERTA),
    **dict.fromkeys(("modernbert", "nomic_bert"), _ENCODER),
    "roformer": replace(_PLAIN_BERT, positions="computed", sdpa=False),
}
"""Model type -> what is known of it."""
LINES: dict[str, Line] = {record.line.name: record.line for record in FAMILIES.values() if record.line}
OTHER = "other"
"""Stands for the line of a decoder that its name does not tell."""


def line_of(model: str, kind: Kind) -> str:
    """The line of a model by its short name or hub id: the first whose pattern is found in it."""
    told = (r.line for r in FAMILIES.values() if r.line and r.kind == kind and re.search(r.line.named, model.lower()))
    return next((line.name for line in told), OTHER)


def record_of(line: str) -> Family:
    """What is known of a line: the record of its first model type, or of that one's text path; of
    `other`, that of a plain decoder."""
    first = next((record for record in FAMILIES.values() if record.line and record.line.name == line), _ROTARY)
    return FAMILIES[first.text] if first.text else first


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
    return sorted(name for name, family in FAMILIES.items() if family.tree)
