"""From hidden states to a patient's logit."""

from typing import Any

import torch
from torch import nn

from cardiotune.data.tokens import LabelTokens
from cardiotune.training.packing import Batch, Layout

TREE_FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Decoders that take a ready mask and rotary positions, so that the tree layout is exact for them (tested)."""


class LabelTokenModel(nn.Module):
    """A causal language model read at the two label tokens.

    The risk is sigmoid(logit of the positive label - logit of the negative label) at the row's last real position: a
    softmax over the two answers. Only these rows of the output matrix are used; it often holds most of a small model.
    """

    def __init__(self, model: nn.Module, labels: LabelTokens) -> None:
        super().__init__()
        self.model = model
        self.labels = labels

    @property
    def base(self) -> Any:
        """The causal language model inside, with adapters in place if there are any."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def layout(self) -> Layout:
        """The fastest layout that is exact for this model."""
        return "tree" if self.base.get_decoder().config.model_type in TREE_FAMILIES else "padded"

    def forward(self, batch: Batch) -> torch.Tensor:
        """(rows,) float32 logits of the outcome."""
        base = self.base
        decoder = base.get_decoder()
        hidden = decoder(
            input_ids=batch.input_ids,
            attention_mask=attention_argument(batch, decoder.config, decoder.dtype),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state  # (sequences, tokens, width)
        last = hidden[batch.read_sequences, batch.read_tokens]  # (rows, width)
        # The difference of two near-equal numbers: in bfloat16 it would keep two digits.
        with torch.autocast(last.device.type, enabled=False):
            output = base.get_output_embeddings()
            pair = [self.labels.negative, self.labels.positive]
            logits = last.float() @ output.weight[pair].float().T  # (rows, 2)
            if getattr(output, "bias", None) is not None:
                logits = logits + output.bias[pair].float()
            cap = getattr(decoder.config, "final_logit_softcapping", None)
            if cap:
                logits = cap * torch.tanh(logits / cap)
            difference: torch.Tensor = logits[:, 1] - logits[:, 0]
            return difference


def attention_argument(batch: Batch, config: Any, dtype: torch.dtype) -> Any:
    """What a decoder of transformers takes as `attention_mask` for this batch.

    A padded batch's (sequences, tokens) mask goes in as it is. A tree's mask is given ready, one for each kind of
    attention layer; a sliding window counts depth, as it would in the row alone.
    """
    if batch.attention.ndim == 2:
        return batch.attention
    window = getattr(config, "sliding_window", None)
    masks = {"full_attention": batch.attention}
    if window:
        depth = batch.position_ids[0]
        masks["sliding_attention"] = batch.attention & (depth[:, None] - depth[None, :] < window)
    if config._attn_implementation == "eager":
        lowest = torch.finfo(dtype).min
        masks = {kind: torch.zeros_like(m, dtype=dtype).masked_fill_(~m, lowest) for kind, m in masks.items()}
    if getattr(config, "layer_types", None):
        return masks
    return masks.get("sliding_attention", masks["full_attention"])
