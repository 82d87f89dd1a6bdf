"""Lays a batch of prompts out: lists of token ids -> tensors, and where each row is read.

Training and scoring both go through `lay_out`. Two layouts give the same logits and gradients:

- `padded`: a row a sequence, padded on the right, so that a row's positions and what it may attend to do not depend on
  the other rows of its batch.
- `tree`: the prompts of a table share their first tokens (instruction, then equal column values). Their tokens form a
  tree, and every distinct prefix is computed once: the tree's tokens are laid in one sequence, each attends to its
  ancestors only, its position is its depth, and a row is read at its leaf.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Layout = Literal["padded", "tree"]
Prompts = Sequence[list[int]]


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass; sequences is the number of rows when padded, 1 for a tree.

    input_ids, position_ids: (sequences, tokens) int64. attention: when padded (sequences, tokens) int64, 1 for a real
    token; for a tree (1, 1, tokens, tokens) bool, True where a token may attend. read_sequences, read_tokens: (rows,)
    int64, the place of every row's last token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention: torch.Tensor
    read_sequences: torch.Tensor
    read_tokens: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lay_out(prompts: Prompts, pad_id: int, layout: Layout) -> Batch:
    """One batch of prompts; none may be empty."""
    return _tree(prompts) if layout == "tree" else _padded(prompts, pad_id)


def _padded(prompts: Prompts, pad_id: int) -> Batch:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    input_ids = torch.full((len(prompts), width), pad_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    positions = torch.arange(width).expand(len(prompts), width)
    real = (positions < lengths[:, None]).long()
    return Batch(input_ids, positions * real, real, torch.arange(len(prompts)), lengths - 1)


def _tree(prompts: Prompts) -> Batch:
    """In sorted order a prompt's tokens that are new follow those that it shares with the prompt before it."""
    tokens: list[int] = []
    depths: list[int] = []
    path = np.empty(0, dtype=np.int64)  # places of the current prompt's tokens, root first
    spans: list[tuple[int, np.ndarray]] = []  # first new place, places of its ancestors
    read = np.empty(len(prompts), dtype=np.int64)
    before: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda i: prompts[i]):
        prompt = prompts[row]
        shared = shared_length(before, prompt)
        first = len(tokens)
        tokens.extend(prompt[shared:])
        depths.extend(range(shared, len(prompt)))
        spans.append((first, path[:shared]))
        path = np.concatenate([path[:shared], np.arange(first, len(tokens))])
        read[row] = path[-1]
        before = prompt
    may_attend = np.zeros((len(tokens), len(tokens)), dtype=bool)
    for (first, ancestors), last in zip(spans, [*(start for start, _ in spans[1:]), len(tokens)], strict=True):
        may_attend[first:last, ancestors] = True
        may_attend[first:last, first:last] = np.tri(last - first, dtype=bool)
    return Batch(
        torch.tensor(tokens)[None],
        torch.tensor(depths)[None],
        torch.from_numpy(may_attend)[None, None],
        torch.zeros(len(prompts), dtype=torch.long),
        torch.from_numpy(read),
    )


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two prompts have in common."""
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)


def by_token_budget(prompts: Prompts, budget: int, layout: Layout) -> Iterator[list[int]]:
    """Row numbers in batches whose layout holds at most `budget` tokens (a single longer row is a batch of its own).

    Padded: rows of like length come together. Tree: rows that share most come together.
    """
    key = (lambda i: (len(prompts[i]), i)) if layout == "padded" else (lambda i: (prompts[i], i))
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(prompts)), key=key):
        length = len(prompts[row])
        if layout == "padded":
            grown = (len(batch) + 1) * length  # lengths rise, so this row's is the batch's width
        else:
            grown = tokens + length - (shared_length(prompts[batch[-1]], prompts[row]) if batch else 0)
        if batch and grown > budget:
            yield batch
            batch, grown = [], length
        batch.append(row)
        tokens = grown
    if batch:
        yield batch
