"""From hidden states to a patient's logit."""

from typing import Any

import torch
from torch import nn

from cardiotune.data.tokens import LabelTokens
from cardiotune.training.packing import Batch


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

    def forward(self, batch: Batch) -> torch.Tensor:
        """(rows,) float32 logits of the outcome."""
        base: Any = self.base
        hidden = base.get_decoder()(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state  # (rows, tokens, width)
        last = hidden[batch.read_rows, batch.read_positions]  # (rows, width)
        # The difference of two near-equal numbers: in bfloat16 it would keep two digits.
        with torch.autocast(last.device.type, enabled=False):
            output = base.get_output_embeddings()
            rows = output.weight[[self.labels.negative, self.labels.positive]].float()
            logits = last.float() @ rows.T  # (rows, 2)
            if getattr(output, "bias", None) is not None:
                logits = logits + output.bias[[self.labels.negative, self.labels.positive]].float()
            cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
            if cap:
                logits = cap * torch.tanh(logits / cap)
            difference: torch.Tensor = logits[:, 1] - logits[:, 0]
            return difference
