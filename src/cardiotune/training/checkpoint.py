"""Saving adapters so that a folder under its final name is always whole, and checking that what was saved is right."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cardiotune.errors import ModelError, RunError
from cardiotune.runs import hash_files, write_json
from cardiotune.training.heads import LabelTokenModel

HASHES = "sha256.json"
PROBE = "probe.json"


def save_adapter(model: LabelTokenModel, folder: Path) -> None:
    """Write the adapter beside its place, flush it to disk, add the hashes of its files, and rename."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            model.model.save_pretrained(work, save_embedding_layers=False)  # type: ignore[operator]
            (work / "README.md").unlink(missing_ok=True)  # a form that nobody filled in
            write_json(work / HASHES, hash_files(work))
            publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise RunError(
            f"{folder}: the checkpoint could not be saved ({error.strerror}); the one before is whole"
        ) from None


def publish(work: Path, folder: Path) -> None:
    """Flush every file of `work` and move it to `folder`, replacing what was there."""
    for file in work.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    work.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    work.replace(folder)
    parent = os.open(folder.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def verify(folder: Path) -> None:
    """ModelError when a file of a saved adapter is missing or differs from its recorded hash."""
    if not (folder / HASHES).is_file():
        raise ModelError(f"{folder}: no {HASHES}; the adapter is not whole, train the run first")
    recorded: dict[str, str] = json.loads((folder / HASHES).read_text())
    present = hash_files(folder)
    wrong = [name for name, digest in recorded.items() if present.get(name) != digest]
    if wrong:
        raise ModelError(f"{folder}: {', '.join(wrong)} changed since it was saved; restore it or train the run again")


def check_same_weights(model: LabelTokenModel, folder: Path) -> None:
    """ModelError when the saved adapter differs, in a single bit, from the one in memory."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    held: dict[str, Any] = get_peft_model_state_dict(model.model, save_embedding_layers=False)
    same = saved.keys() == held.keys() and all(torch.equal(saved[name], held[name].cpu()) for name in held)
    if not same:
        raise ModelError(f"{folder}: the saved adapter is not the one in memory")


def record_probe(folder: Path, logits: np.ndarray, dtype: torch.dtype) -> None:
    """Keep the logits of a fixed synthetic sample beside the adapter, for `check_probe` in later processes."""
    write_json(folder / PROBE, {"dtype": str(dtype), "logits": [round(float(z), 6) for z in logits]})


def check_probe(folder: Path, logits: np.ndarray, dtype: torch.dtype) -> None:
    """ModelError when the loaded model does not give the recorded logits: wrong base, wrong adapter, wrong prompt.

    Tolerance: 0.01 in float32, 0.25 in 16-bit types (logits, not probabilities), enough for another machine's kernels.
    """
    if not (folder / PROBE).is_file():
        return
    recorded = json.loads((folder / PROBE).read_text())
    exact = dtype == torch.float32 and recorded["dtype"] == str(dtype)
    apart = float(np.max(np.abs(np.array(recorded["logits"]) - logits)))
    if apart > (0.01 if exact else 0.25):
        raise ModelError(
            f"{folder}: the model does not score the recorded sample as it did when saved (logits {apart:.3g} apart); "
            "the base weights, the tokenizer or the adapter are not the same"
        )
