"""Lays a batch of prompts out: lists of token ids -> tensors, and where each row is read.

Training and scoring both go through `lay_out`. Padding is on the right, so a row's positions and what it may attend to
do not depend on the other rows of its batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass.

    input_ids, attention_mask, position_ids: (rows, tokens) int64; read_rows, read_positions: (rows,) int64, the place
    of every row's last real token.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    read_rows: torch.Tensor
    read_positions: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lay_out(prompts: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Pad prompts on the right to the longest of them."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    input_ids = torch.full((len(prompts), width), pad_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    positions = torch.arange(width).expand(len(prompts), width)
    mask = (positions < lengths[:, None]).long()
    return Batch(input_ids, mask, positions * mask, torch.arange(len(prompts)), lengths - 1)


def by_token_budget(prompts: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `budget` tokens, padding included; rows of like length come together."""
    batch: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i)):
        # Rows come in rising length, so this row's length is the batch's width.
        if batch and (len(batch) + 1) * len(prompts[row]) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
