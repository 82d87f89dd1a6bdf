"""Lays a batch of prompts out: lists of token ids -> tensors, and where each row is read.

Training and scoring both go through `lay_out`. Two layouts give the same logits and gradients:

- `padded`: a row a sequence, padded on the right, so that a row's positions and what it may attend
  to do not depend on the other rows of its batch.
- `tree`: the prompts of a table share their first tokens (instruction, then equal column values).
  Their tokens form a tree, and every distinct prefix is computed once: the tree's tokens are laid
  in one sequence, each attends to its ancestors only, its position is its depth, and a row is read
  at its leaf.

The tree's tokens stand in depth-first order and are cut into blocks. Ancestors of a block's tokens
that come before the block are ancestors of its first token too (a token's descendants follow it
without a gap), so a block needs no other keys than the path to its first token and its own tokens:
attention costs tokens x (depth + block), not tokens squared.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.data.tokens import TokenRows

Layout = Literal["padded", "tree"]
Prompts = Sequence[list[int]]

BLOCK = 64
"""Tokens of a tree that share their keys. Smaller blocks copy the path more often, larger ones mask
more."""
ROUND = 16
"""A tree has a multiple of so many tokens, a part of `BLOCK`: a library prepares its products for
each number that it meets."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass; sequences is the number of rows when padded, 1 for a tree.

    input_ids, position_ids: (sequences, tokens) int64, of a tree with spare ones up to a multiple
    of ROUND. attention: when padded (sequences, tokens) int64, 1 for a real token; for a tree
    (blocks, 1, BLOCK, keys) bool, True where a token may attend; the last block is filled up.
    read_sequences, read_tokens: (rows,) int64, the place of every row's last token. owners:
    (sequences, tokens) int64, a row that the token belongs to, at the depth that position_ids say.
    keys, for a tree: (blocks, keys) int64, the places of the tokens that a block's tokens may
    attend to. states: (sequences, tokens, width), what frozen lower layers made of the tokens,
    where that is known.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention: torch.Tensor
    read_sequences: torch.Tensor
    read_tokens: torch.Tensor
    owners: torch.Tensor
    keys: torch.Tensor | None = None
    states: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return Batch(**tensors)


class KnownStates(Protocol):
    """What frozen lower layers make of the tokens of some rows."""

    def onto(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """A batch that was laid out from these rows, with its tokens' states."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one part: prompts as token ids, and events (rows,) of 0 and 1.

    states: what stands for the lower layers, where these are not computed again. weights: (rows,)
    how much each counts, 1 on average, if rows count differently.
    """

    prompts: Prompts
    events: NDArray[np.int_]
    states: KnownStates | None = None
    weights: NDArray[np.float64] | None = None
    drawn: Callable[[Sequence[int], Sequence[int]], Prompts] | None = None
    """Row numbers and the numbers of a draw -> prompts of these rows, written in the way that is
    drawn. None: they are always written as `prompts`."""

    targets: NDArray[np.float64] | None = None
    """(rows,) from 0 to 1, what the loss compares with. None: the events."""

    def batch(self, rows: Sequence[int], draw: Sequence[int], pad_id: int, layout: Layout) -> "Batch":
        """One batch of the rows with these numbers, in the way of a draw where their texts vary."""
        if self.drawn is None:
            return lay_out_rows(rows, self.prompts, pad_id, layout, self.states)
        return lay_out(self.drawn(rows, draw), pad_id, layout)

    def head(self, rows: int) -> "Rows":
        """The first rows, so many of them or all; their numbers, by which `states` knows them, stay
        the same."""
        weights = None if self.weights is None else self.weights[:rows]
        return replace(self, prompts=self.prompts[:rows], events=self.events[:rows], weights=weights)


def rounded(places: torch.Tensor) -> torch.Tensor:
    """(rows,) places, the last one repeated up to a multiple of `ROUND`."""
    return torch.cat([places, places[-1:].expand(-len(places) % ROUND)])


def lay_out(prompts: Prompts, pad_id: int, layout: Layout) -> Batch:
    """One batch of prompts; none may be empty."""
    return _tree(prompts) if layout == "tree" else _padded(prompts, pad_id)


def lay_out_rows(
    rows: Sequence[int], prompts: Prompts, pad_id: int, layout: Layout, states: KnownStates | None = None
) -> Batch:
    """One batch of the rows with these numbers, with their tokens' states where these are known."""
    batch = lay_out([prompts[row] for row in rows], pad_id, layout)
    return states.onto(batch, rows) if states else batch


def _padded(prompts: Prompts, pad_id: int) -> Batch:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    input_ids = torch.full((len(prompts), width), pad_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    positions = torch.arange(width).expand(len(prompts), width)
    real = (positions < lengths[:, None]).long()
    rows = torch.arange(len(prompts))
    return Batch(input_ids, positions * real, real, rows, lengths - 1, rows[:, None].expand_as(positions))


def _tree(prompts: Prompts) -> Batch:
    """In sorted order a prompt's tokens that are new follow those that it shares with the prompt
    before it."""
    tokens: list[int] = []
    depths: list[int] = []
    owners: list[int] = []
    last = np.empty(sum(map(len, prompts)) + BLOCK, dtype=np.int64)  # place of a token's last descendant
    read = np.empty(len(prompts), dtype=np.int64)
    path: list[int] = []  # places of the current prompt's tokens, root first
    paths: list[list[int]] = []  # of each block: the ancestors of its first token
    before: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda i: prompts[i]):
        prompt = prompts[row]
        shared = shared_length(before, prompt)
        first = len(tokens)
        last[path[shared:]] = first - 1  # these have seen their last descendant
        tokens.extend(prompt[shared:])
        depths.extend(range(shared, len(prompt)))
        owners.extend([row] * (len(prompt) - shared))
        path = path[:shared] + list(range(first, len(tokens)))
        for start in range(len(paths) * BLOCK, len(tokens), BLOCK):
            paths.append(path[: depths[start]])
        read[row] = path[-1]
        before = prompt
    last[path] = len(tokens) - 1
    size = len(paths) * BLOCK
    last[len(tokens) : size] = range(len(tokens), size)  # fill the last block, attend to themselves
    spare = -len(tokens) % ROUND  # roots once more, that nobody reads
    tokens += tokens[:1] * spare
    depths += depths[:1] * spare
    owners += owners[:1] * spare

    starts = np.arange(0, size, BLOCK)
    width = max(map(len, paths))
    keys = np.full((len(paths), width + BLOCK), -1)
    for block, ancestors in enumerate(paths):
        keys[block, width - len(ancestors) : width] = ancestors
    keys[:, width:] = starts[:, None] + np.arange(BLOCK)
    places = keys[:, None, width:].transpose(0, 2, 1)  # (blocks, BLOCK, 1)
    candidates = keys[:, None, :]  # (blocks, 1, keys)
    may_attend = (candidates >= 0) & (candidates <= places) & (places <= last[candidates])
    return Batch(
        torch.tensor(tokens)[None],
        torch.tensor(depths)[None],
        torch.from_numpy(may_attend)[:, None],
        torch.zeros(len(prompts), dtype=torch.long),
        torch.from_numpy(read),
        torch.tensor(owners)[None],
        torch.from_numpy(keys.clip(0, len(tokens) - 1)),
    )


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two prompts have in common."""
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)


def in_order(prompts: Prompts) -> list[int]:
    """Row numbers in the order of the prompts' token ids: rows that share most stand together."""
    key = prompts.sort_key if isinstance(prompts, TokenRows) else lambda row: prompts[row]
    return sorted(range(len(prompts)), key=key)


def by_token_budget(prompts: Prompts, budget: int, layout: Layout) -> Iterator[list[int]]:
    """Row numbers in batches whose layout holds at most `budget` tokens (a single longer row is a
    batch of its own).

    Padded: rows of like length come together. Tree: rows that share most come together.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row])) if layout == "padded" else in_order(prompts)
    batch: list[int] = []
    before: list[int] = []
    tokens = 0
    for row in order:
        prompt = prompts[row]
        if layout == "padded":
            grown = (len(batch) + 1) * len(prompt)  # lengths rise, so this row's is the batch's width
        else:
            grown = tokens + len(prompt) - (shared_length(before, prompt) if batch else 0)
        spare = -grown % ROUND if layout == "tree" else 0
        if batch and grown + spare > budget:
            yield batch
            batch, grown = [], len(prompt)
        batch.append(row)
        tokens, before = grown, prompt
    if batch:
        yield batch
