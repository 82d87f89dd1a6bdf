"""Frozen lower layers are computed once: their hidden states, kept on disk, stand for them in every
later step.

With adapters on the top layers only (`method.top_layers`), nothing below them ever changes. What
the lower layers make of a token depends on the tokens before it alone, so rows that share their
first tokens share these states too: of a tree, each distinct prefix of a batch is kept once.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.errors import ModelError, RunError
from cardiotune.families import family_of, tree_families
from cardiotune.files import make_folder
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.distributed import world
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.packing import Batch, Prompts, Rows, by_token_budget, lay_out_rows

log = logging.getLogger(__name__)

FOLDER = "trunk"
"""In the run folder, while training lasts."""
SPARE_BYTES = 1_000_000_000
"""Left free on the disc: checkpoints need some too."""


class States:
    """Hidden states of the tokens of many rows, mapped from disk.

    vectors: (distinct prefixes, width). Token d of row i has the vector `places[first[i] + d]`.
    """

    def __init__(self, file: Path, width: int, dtype: torch.dtype, places: NDArray[Any], first: NDArray[Any]) -> None:
        mapped = torch.from_file(str(file), shared=True, size=file.stat().st_size // dtype.itemsize, dtype=dtype)
        self.vectors = mapped.view(-1, width)
        with suppress(OSError):  # where an open file may be deleted, it goes when nobody maps it any more
            file.unlink()
        self.places = torch.from_numpy(places)
        self.first = torch.from_numpy(first)

    def onto(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """A batch that was laid out from these rows, with its tokens' states."""
        numbers = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        tokens = self.first[numbers[batch.owners]] + batch.position_ids  # (sequences, tokens)
        return replace(batch, states=self.vectors[self.places[tokens]])


@contextmanager
def over_frozen_trunk(
    network: RiskNetwork, parts: dict[str, Rows], config: Config, run: RunFolder, pad_id: int, dtype: torch.dtype
) -> Iterator[dict[str, Rows]]:
    """The parts' rows with the states of the layers that no adapter touches, which meanwhile pass
    on what they get.

    Without `method.top_layers` nothing is done. Every process computes its own. What is kept can
    tell of the patients: its owner alone may read it, and it has no name any more once it is
    mapped.
    """
    if not config.method.top_layers:
        yield parts
        return
    trunk = FrozenTrunk(network, config.method.top_layers)
    folder = run.path / FOLDER
    try:
        make_folder(folder)
        folder.chmod(0o700)
        with torch.autocast(trunk.device.type, dtype, enabled=dtype != torch.float32):
            known = {
                name: replace(
                    rows, states=trunk.remember(rows.prompts, folder / f"{name}.{world().rank}", pad_id, config)
                )
                for name, rows in parts.items()
            }
        with trunk.skipping(trunk.lower):
            yield known
    finally:
        forget(run)


def forget(run: RunFolder) -> None:
    """Delete what a training that was killed may have left of its states."""
    shutil.rmtree(run.path / FOLDER, ignore_errors=True)
    if (run.path / FOLDER).exists():
        log.warning("%s: could not be deleted; it can tell of the patients, delete it", run.path / FOLDER)


class FrozenTrunk:
    """The layers of a network that its adapters leave alone."""

    def __init__(self, network: RiskNetwork, top_layers: int) -> None:
        self.network = network
        self.lower = network.trunk.layers[:-top_layers]
        self.upper = network.trunk.layers[-top_layers:]
        self.device = network.trunk.device

    @torch.no_grad()
    def remember(self, prompts: Prompts, file: Path, pad_id: int, config: Config) -> States:
        """Compute the lower layers for all rows, and map what they make. RunError when the disc is
        full."""
        layout, width = self.network.layout, self.network.trunk.config.hidden_size
        lengths = np.array([len(prompt) for prompt in prompts])
        first = np.cumsum(lengths) - lengths
        places = np.empty(lengths.sum(), dtype=np.int64)
        done = 0
        with _room(file) as out, self.skipping(self.upper), self._seen() as seen:
            for rows in by_token_budget(prompts, config.evaluation.score_batch_tokens, layout):
                batch = lay_out_rows(rows, prompts, pad_id, layout)
                self.network.hidden(batch.to(self.device))
                states = seen.pop().flatten(0, 1).contiguous().cpu()
                out.write(states.view(torch.uint8).numpy().tobytes())
                if shutil.disk_usage(file.parent).free < SPARE_BYTES:
                    raise OSError("the disc is nearly full")
                for number, row in enumerate(rows):
                    places[first[row] : first[row] + lengths[row]] = done + _path(batch, number, lengths[row])
                done += len(states)
        size = file.stat().st_size
        log.info("lower %d layers: states of %d tokens for %d, %.0f MB", len(self.lower), done, len(places), size / 1e6)
        return States(file, width, states.dtype, places, first)

    @contextmanager
    def skipping(self, layers: Any) -> Iterator[None]:
        """Meanwhile these layers pass on what they get."""
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


@contextmanager
def _room(file: Path) -> Iterator[BinaryIO]:
    """The open file; RunError when it cannot be written to the end."""
    try:
        with file.open("wb") as out:
            file.chmod(0o600)
            yield out
    except OSError as error:
        raise RunError(
            f"{file}: the states of the frozen layers cannot be written ({error.strerror or error}); free the disc, set "
            "runs_dir to a larger one, or use method lora, which keeps none"
        ) from None


def check_layers(trunk: Any, top_layers: int) -> None:
    """ModelError unless some layers are left below the top ones."""
    if not family_of(trunk.config).tree:  # others may change what stands for the lower layers
        raise ModelError(
            f"method.top_layers: is for {', '.join(tree_families())}, not {trunk.config.model_type}; use method lora"
        )
    if top_layers >= len(trunk.layers):
        raise ModelError(
            f"method.top_layers: {top_layers}, but the model has {len(trunk.layers)} layers; name fewer, or use lora"
        )


def _pass_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def _path(batch: Batch, row: int, length: int) -> NDArray[np.int64]:
    """(length,) the places of a row's tokens among all tokens of its batch, first token first."""
    if batch.keys is None:
        return np.arange(length) + row * batch.input_ids.shape[1]
    block, place = divmod(int(batch.read_tokens[row]), batch.attention.shape[2])
    path: NDArray[np.int64] = batch.keys[block][batch.attention[block, 0, place]].numpy()
    return path
