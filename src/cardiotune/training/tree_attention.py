"""Attention over a tree of prompts, as a plug-in of transformers: the one place that knows how a
tree is attended."""

import sys
from typing import Any

import torch
from torch.nn.functional import dropout, pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from cardiotune.training.packing import Batch

TREE = "tree_or_"
"""Before the name of the attention that serves where there is no tree."""


def use_tree_attention(config: Any) -> None:
    """Make a loaded model take trees too, by its config."""
    for name, mask in (("sdpa", sdpa_mask), ("eager", eager_mask)):
        AttentionInterface.register(TREE + name, _attend)
        AttentionMaskInterface.register(TREE + name, mask)
    if not config._attn_implementation.startswith(TREE):
        config._attn_implementation = TREE + config._attn_implementation


def tree_masks(batch: Batch, config: Any) -> torch.Tensor | dict[str, torch.Tensor]:
    """What a model of transformers takes as `attention_mask` for a tree: bool, one for each kind of
    attention layer.

    A sliding window counts depth, as it would in the row alone.
    """
    assert batch.keys is not None
    masks = {"full_attention": batch.attention}
    if window := getattr(config, "sliding_window", None):
        depth = batch.position_ids[0]
        blocks, _, size, _ = batch.attention.shape
        own = pad(depth, (0, blocks * size - len(depth))).view(blocks, size)
        near = own[:, :, None] - depth[batch.keys][:, None, :] < window
        masks["sliding_attention"] = batch.attention & near[:, None]
    if getattr(config, "layer_types", None):
        return masks
    return masks.get("sliding_attention", masks["full_attention"])


def _attend(  # those that transformers gives
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    tree_keys: torch.Tensor | None = None,
    read_tokens: torch.Tensor | None = None,  # for the last layer, not for its attention
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """(1, tokens, heads, width), of the arguments that transformers gives. query (1, heads, tokens,
    width); key and value with as many or fewer heads.

    Query heads that share a key head stand below each other, so that no key is copied for them.
    """
    if tree_keys is None:
        plain: Any = sdpa_attention_forward
        if module.config._attn_implementation == TREE + "eager":  # every family has its own
            plain = sys.modules[type(module).__module__].eager_attention_forward
        return plain(module, query, key, value, attention_mask, **settings)  # type: ignore[no-any-return]
    assert attention_mask is not None
    blocks, keys = tree_keys.shape
    (heads, tokens, width), key_heads = query.shape[1:], key.shape[1]
    grouped = (key_heads, heads // key_heads, blocks, -1, width)
    # Views, not `[0]`: the gradient of a selection fills a tensor of zeros first.
    filled = pad(query.squeeze(0), (0, 0, 0, blocks * attention_mask.shape[2] - tokens))
    asking = filled.view(grouped).permute(2, 0, 1, 3, 4).reshape(blocks, key_heads, -1, width)
    asked = key.squeeze(0)[:, tree_keys].transpose(0, 1)  # (blocks, key heads, keys, width)
    answers = value.squeeze(0)[:, tree_keys].transpose(0, 1)
    scores = (asking @ asked.transpose(-1, -2)).float() * settings["scaling"]
    if cap := settings.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    scores = scores.view(blocks, key_heads, heads // key_heads, -1, keys)
    scores = scores.masked_fill(~attention_mask[:, :, None], float("-inf"))
    shares = dropout(scores.softmax(-1).to(value.dtype), settings.get("dropout", 0.0))
    found = (shares.flatten(2, 3) @ answers).view(blocks, key_heads, heads // key_heads, -1, width)
    return found.permute(0, 3, 1, 2, 4).reshape(1, -1, heads, width)[:, :tokens], None
