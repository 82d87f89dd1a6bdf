"""From hidden states to a patient's logit: the label-token head and the classifier."""

import logging
from functools import cache
from typing import Any

import torch
from torch import nn

from cardiotune.data.tokens import LabelTokens
from cardiotune.families import Family, family_of, text_family
from cardiotune.training.last_layer import compute_what_is_read
from cardiotune.training.packing import Batch, Layout, rounded
from cardiotune.training.tree_attention import tree_masks, use_tree_attention

log = logging.getLogger(__name__)


class RiskNetwork(nn.Module):
    """A language model and a way to read one logit a row from it; the risk is its sigmoid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.family: Family = text_family(self.base.config)
        _say_why_padded(self.why_padded)
        if self.layout == "tree":
            use_tree_attention(self.trunk.config)
            compute_what_is_read(self.trunk.layers[-1])

    @property
    def base(self) -> Any:
        """The language model inside, with adapters in place if there are any."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "peft_config") else model

    @property
    def trunk(self) -> Any:
        """The part that gives hidden states: a causal model's decoder, or an encoder itself."""
        return trunk_of(self.base)

    @property
    def layout(self) -> Layout:
        """The fastest layout that is exact for this model."""
        return "padded" if self.why_padded else "tree"

    @property
    def why_padded(self) -> str:
        """Why rows that begin alike are computed each for itself; empty where they are not."""
        config = self.trunk.config
        if self.trunk is self.base or getattr(config, "use_bidirectional_attention", False):
            return "its tokens see those behind them too"
        if config._attn_implementation == "flash_attention_2":
            return "flash attention takes no mask of its own; model.attention=sdpa may be faster"
        return "" if self.family.tree else f"not tested with {config.model_type}"

    def hidden(self, batch: Batch) -> torch.Tensor:
        """(rows, width) hidden states where rows are read: a decoder's last token, an encoder's
        first."""
        trunk = self.trunk
        inputs = {"input_ids": batch.input_ids} if batch.states is None else {"inputs_embeds": batch.states}
        tree: dict[str, Any] = {"attention_mask": batch.attention}
        if batch.keys is not None:
            tree = {
                "attention_mask": tree_masks(batch, trunk.config),
                "tree_keys": batch.keys,
                "read_tokens": rounded(batch.read_tokens),
            }
        counted = {"position_ids": batch.position_ids} if self.family.positions in ("rotary", "learned") else {}
        states = trunk(
            **inputs,
            **counted,
            **({"use_cache": False} if trunk is not self.base else {}),
            **tree,
        ).last_hidden_state  # (sequences, tokens, width); of a tree (1, rows and some, width)
        if batch.keys is not None:
            return states[0, : len(batch.read_tokens)]  # type: ignore[no-any-return]
        places = torch.zeros_like(batch.read_tokens) if trunk is self.base else batch.read_tokens
        return states[batch.read_sequences, places]  # type: ignore[no-any-return]


class LabelTokenNetwork(RiskNetwork):
    """A causal language model read at the two label tokens.

    The logit is that of the positive label minus that of the negative one at the row's last
    position: a softmax over the two answers. Only these rows of the output matrix are used; it
    often holds most of a small model.
    """

    def __init__(self, model: nn.Module, labels: LabelTokens) -> None:
        super().__init__(model)
        self.labels = labels

    def forward(self, batch: Batch) -> torch.Tensor:
        """(rows,) float32 logits of the outcome."""
        last = self.hidden(batch)
        base = self.base
        # The difference of two near-equal numbers: in bfloat16 it would keep two digits.
        with torch.autocast(last.device.type, enabled=False):
            output = _read_layer(base.get_output_embeddings())
            pair = [self.labels.negative, self.labels.positive]
            if hasattr(output, "base_layer"):  # an adapter stands on it that is not summed into it
                logits = output(last.to(output.weight.dtype))[:, pair].float()
            else:
                logits = last.float() @ output.weight[pair].float().T  # (rows, 2)
                if getattr(output, "bias", None) is not None:
                    logits = logits + output.bias[pair].float()
            logits = family_of(base.config).scaled(logits, base.config)
            difference: torch.Tensor = logits[:, 1] - logits[:, 0]
            return difference


class ClassifierNetwork(RiskNetwork):
    """A thin linear layer on a decoder's last position, or on an encoder's first token.

    Our own, so that families without a ready class (Gemma 3) have one too, and so that it is saved
    and loaded under our eyes: a head that is silently left untrained is the best-known trap of this
    kind of fine-tuning.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        trunk = self.trunk
        width = getattr(trunk.config, self.family.width)
        self.head = nn.Linear(width, 1, device=trunk.device, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(rows,) float32 logits of the outcome."""
        state = self.hidden(batch)
        with torch.autocast(state.device.type, enabled=False):
            logits: torch.Tensor = self.head(state.to(self.head.weight.dtype)).float()[:, 0]
            return logits


@cache
def _say_why_padded(reason: str) -> None:
    if reason:
        log.info("first tokens that rows share are computed for each row: %s", reason)


def _read_layer(output: Any) -> Any:
    """The layer that the output matrix is in: a copy that PEFT trains whole, what an adapter is
    summed into, or itself."""
    if hasattr(output, "modules_to_save") and output.active_adapters:
        output = output.modules_to_save[output.active_adapters[0]]
    return output.get_base_layer() if getattr(output, "merged", False) else output


def own_output(base: Any) -> None:
    """Where an adapter stands on the output matrix, or on the embeddings that it is tied to, give
    it weights of its own.

    Tied, an adapter of the one would be summed into both. Under an adapter they are float32, as the
    adapter's are: the difference of two near-equal logits is read there.
    """
    output, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    if output is None or not any(hasattr(layer, "base_layer") for layer in (output, embeddings)):
        return
    inner = output.get_base_layer() if hasattr(output, "base_layer") else output
    dtype = torch.float32 if hasattr(output, "base_layer") else inner.weight.dtype
    inner.weight = nn.Parameter(inner.weight.detach().to(dtype, copy=True), requires_grad=False)
    untie(base)


def untie(base: Any) -> None:
    """Let a model's config say that its output matrix is not that of its embeddings."""
    for config in {id(c): c for c in (base.config, base.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def output_is_own(base: Any) -> bool:
    """Whether a model's output matrix is another than that of its embeddings."""
    return base.get_output_embeddings().weight is not base.get_input_embeddings().weight


def trunk_of(base: Any) -> Any:
    """The decoder of a causal model, or the encoder itself."""
    return base.get_decoder() if base.get_output_embeddings() is not None else base
