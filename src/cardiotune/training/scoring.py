"""Rows in, logits out: what training, prediction and serving share, without the recipe."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cardiotune.errors import ModelError
from cardiotune.training.distributed import merge, own_batches
from cardiotune.training.packing import KnownStates, Layout, Prompts, by_token_budget, lay_out_rows


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows are put through a network."""

    pad_id: int
    tokens: int
    """Of a batch at most; a longer row is a batch of its own."""
    device: torch.device
    layout: Layout
    dtype: torch.dtype = torch.float32
    """What products are computed in: under autocast where it is not float32."""


@torch.no_grad()
def score(
    network: Callable[..., torch.Tensor],
    prompts: Prompts,
    batching: Batching,
    on_rows: Callable[[int], None] | None = None,
    states: KnownStates | None = None,
    whose: str = "the model",
) -> np.ndarray:
    """(rows,) float64 logits, in the order of `prompts`. Used in training, prediction and serving
    alike.

    In many processes each scores its share of the batches; all get every row's logit. `network` may
    also give (rows, width) of something else, such as hidden states. ModelError where one is not
    finite.
    """
    found: np.ndarray | None = None
    device, layout, dtype = batching.device, batching.layout, batching.dtype
    for rows in own_batches(list(by_token_budget(prompts, batching.tokens, layout))):
        batch = lay_out_rows(rows, prompts, batching.pad_id, layout, states).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            values = network(batch).double().cpu().numpy()
        values[~np.isfinite(values)] = np.nan  # one sign for all processes
        found = np.full((len(prompts), *values.shape[1:]), np.nan) if found is None else found
        found[rows] = values
        if on_rows:
            on_rows(len(rows))
    return all_finite(merge(np.empty(0) if found is None else found), whose)


def all_finite(values: np.ndarray, whose: str) -> np.ndarray:
    """A model's output, (rows,) or (rows, width), if all of it is finite; else ModelError."""
    wrong = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum()) if len(values) else 0
    if wrong:
        raise ModelError(
            f"{whose}: its output is not a finite number in {wrong} of {len(values)} rows; its weights are damaged, or too "
            "large for the type it computes in: make the run with model.dtype=float32 and model.score_dtype=float32"
        )
    return values
