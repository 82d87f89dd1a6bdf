"""Frozen lower layers are computed once: their hidden states, kept on disk, stand for them in every later step.

With adapters on the top layers only (`method.top_layers`), nothing below them ever changes. What the lower layers make of a
token depends on the tokens before it alone, so rows that share their first tokens share these states too: each distinct
prefix of a part is kept once.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.config import Config
from cardiotune.errors import ModelError
from cardiotune.runs import RunFolder
from cardiotune.training.distributed import world
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.packing import Batch, Prompts, Rows, by_token_budget, lay_out

log = logging.getLogger(__name__)


class States:
    """Hidden states of the tokens of many rows, mapped from disk.

    vectors: (distinct prefixes, width). Token d of row i has the vector `places[first[i] + d]`.
    """

    def __init__(self, file: Path, width: int, dtype: torch.dtype, places: NDArray[Any], first: NDArray[Any]) -> None:
        self.vectors = torch.from_file(str(file), shared=True, size=file.stat().st_size // dtype.itemsize, dtype=dtype)
        self.vectors = self.vectors.view(-1, width)
        self.places = torch.from_numpy(places)
        self.first = torch.from_numpy(first)

    def onto(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """A batch that was laid out from these rows, with its tokens' states."""
        numbers = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        tokens = self.first[numbers[batch.owners]] + batch.position_ids  # (sequences, tokens)
        return replace(batch, states=self.vectors[self.places[tokens]])


@contextmanager
def frozen_trunk(
    network: RiskNetwork, parts: dict[str, Rows], config: Config, run: RunFolder, pad_id: int, dtype: torch.dtype
) -> Iterator[dict[str, Rows]]:
    """The parts' rows with the states of the layers that no adapter touches, which from here on stand aside.

    Without `method.top_layers` nothing is done. What is kept can tell of the patients, so it is deleted in the end.
    """
    if not config.method.top_layers:
        yield parts
        return
    folder = run.path / "trunk"
    folder.mkdir(mode=0o700, exist_ok=True)
    trunk = FrozenTrunk(network, config.method.top_layers)
    try:
        with torch.autocast(trunk.device.type, dtype, enabled=dtype != torch.float32):
            known = {
                name: replace(
                    rows, states=trunk.remember(rows.prompts, folder / f"{name}.{world()[0]}", pad_id, config)
                )
                for name, rows in parts.items()
            }
        trunk.stand_aside()
        yield known
    finally:
        shutil.rmtree(folder, ignore_errors=world()[1] > 1)


class FrozenTrunk:
    """The layers of a network that its adapters leave alone."""

    def __init__(self, network: RiskNetwork, top_layers: int) -> None:
        self.network = network
        self.lower = network.trunk.layers[:-top_layers]
        self.upper = network.trunk.layers[-top_layers:]
        self.device = network.trunk.device

    @torch.no_grad()
    def remember(self, prompts: Prompts, file: Path, pad_id: int, config: Config) -> States:
        """Compute the lower layers for all rows, and keep what they make in `file`."""
        layout, trunk = self.network.layout, self.network.trunk
        first = np.cumsum([0, *map(len, prompts)])[:-1]
        places = np.empty(sum(map(len, prompts)), dtype=np.int64)
        done = 0
        with file.open("wb") as out, self._skipping(self.upper), self._seen() as seen:
            for rows in by_token_budget(prompts, config.evaluation.score_batch_tokens, layout):
                batch = lay_out([prompts[row] for row in rows], pad_id, layout)
                self.network.hidden(batch.to(self.device))
                states = seen.pop().flatten(0, 1).contiguous().cpu()
                states.view(torch.uint8).numpy().tofile(out)
                for number, row in enumerate(rows):
                    length = len(prompts[row])
                    places[first[row] : first[row] + length] = done + _path(batch, number, length)
                done += len(states)
        size = file.stat().st_size
        log.info("lower %d layers: %d of %d tokens kept, %.0f MB", len(self.lower), done, len(places), size / 1e6)
        return States(file, trunk.config.hidden_size, states.dtype, places, first)

    def stand_aside(self) -> None:
        """From now on the lower layers pass on what they get: batches bring the states that they would make."""
        for layer in self.lower:
            layer.forward = _pass_on

    @contextmanager
    def _skipping(self, layers: Any) -> Iterator[None]:
        for layer in layers:
            layer.forward = _pass_on
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    @contextmanager
    def _seen(self) -> Iterator[list[torch.Tensor]]:
        """A list that gets what the first upper layer is given."""
        seen: list[torch.Tensor] = []
        handle = self.upper[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]), prepend=True)
        try:
            yield seen
        finally:
            handle.remove()


def check_layers(trunk: Any, top_layers: int) -> None:
    """ModelError unless some layers are left below the top ones."""
    layers = getattr(trunk, "layers", None)
    if layers is None:
        raise ModelError("method.top_layers: this model's layers cannot be told apart; use method lora")
    if top_layers >= len(layers):
        raise ModelError(
            f"method.top_layers: {top_layers}, but the model has {len(layers)} layers; name fewer, or use lora"
        )


def _pass_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def _path(batch: Batch, row: int, length: int) -> NDArray[np.int64]:
    """(length,) the places of a row's tokens among all tokens of its batch, first token first."""
    read = int(batch.read_tokens[row])
    if batch.keys is None:
        return np.arange(length) + row * batch.input_ids.shape[1]
    block, place = divmod(read, batch.attention.shape[2])
    path: NDArray[np.int64] = batch.keys[block][batch.attention[block, 0, place]].numpy()
    return path
