"""A decoder's last layer, computed where rows are read and nowhere else.

Keys and values of the last layer are needed of all tokens of a tree. What comes behind its
attention is done for each token by itself, and of a row only the last token is read: output matrix,
feed-forward network and norms see one token a row.
"""

from typing import Any

import torch
from torch import nn

MARK = "_computes_what_is_read"


def compute_what_is_read(layer: nn.Module) -> None:
    """Make the last layer, called with `read_tokens` (rows,), give (1, rows, width) instead of (1,
    tokens, width).

    It gets the read tokens as its input, so that its residual sums are right; its first norm, and
    so its attention, gets all tokens; what leaves the attention is cut to the read ones. Without
    `read_tokens` it is what it was.
    """
    if hasattr(layer, MARK):
        return
    reading = _Reading()
    layer.register_forward_pre_hook(reading.cut_input, with_kwargs=True)
    layer.input_layernorm.register_forward_pre_hook(reading.take_all)  # type: ignore[union-attr]
    layer.self_attn.o_proj.register_forward_pre_hook(reading.cut_attention)  # type: ignore[union-attr]
    setattr(layer, MARK, True)


class _Reading:
    """What the hooks of one layer tell each other. Kept after a call: the backward pass may compute
    the inside again."""

    def __init__(self) -> None:
        self.places: torch.Tensor | None = None
        self.all_tokens: torch.Tensor | None = None

    def cut_input(self, _: Any, given: tuple[torch.Tensor, ...], named: dict[str, Any]) -> Any:
        self.places = named.get("read_tokens")
        self.all_tokens = None if self.places is None else given[0]
        if self.places is None:
            return None
        return (given[0][:, self.places], *given[1:]), named

    def take_all(self, *_: Any) -> Any:
        return None if self.places is None else (self.all_tokens,)

    def cut_attention(self, _: Any, given: tuple[torch.Tensor, ...]) -> Any:
        return None if self.places is None else (given[0][:, self.places],)
