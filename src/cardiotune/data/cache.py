"""Token ids of a run's rows, kept in its folder: training, every epoch and scoring read them
instead of tokenizing again.

They are known by what made them: the texts themselves (so table, dictionary, template and column
order) and the tokenizer. Where one of these differs, or a file is damaged, they are made anew. They
can be turned back into the patients' texts, so only the owner of the folder may read them.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.tokens import PromptEncoder, TokenRows
from cardiotune.errors import RunError
from cardiotune.files import atomic, make_folder, sha256, write_json
from cardiotune.runs import RunFolder

log = logging.getLogger(__name__)

FORMAT = 1
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""What a tokenizer is read from. The folder's other small files, hashed too, can only cost a
needless renewal."""


def run_tokens(run: RunFolder, texts: Sequence[str], encoder: PromptEncoder, weights: Path) -> TokenRows:
    """The encoder's prompts of all texts of a run, from its cache; where that has none that fit,
    they are made and kept.

    weights: the model folder that holds the tokenizer. DataError as `PromptEncoder.prompts` raises
    it.
    """
    origin = _origin(texts, weights)
    rows = _read(_folder(run), origin)
    if rows is None:
        rows = encoder.prompts(texts)
        _write(_folder(run), origin, rows)
    return encoder.prompts(rows)


def keep_tokens(run: RunFolder, texts: Sequence[str], rows: TokenRows, weights: Path) -> None:
    """Put the prompts of all texts of a run, as the encoder made them, into its cache."""
    _write(_folder(run), _origin(texts, weights), rows)


def _folder(run: RunFolder) -> Path:
    return run.path / "tokens"


def _origin(texts: Sequence[str], weights: Path) -> dict[str, Any]:
    """What the tokens depend on. A newer library may split a text otherwise with the same files."""
    written = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        written.update(len(encoded).to_bytes(8, "little"))  # else "a", "bc" would be "ab", "c"
        written.update(encoded)
    files = sorted({file for pattern in TOKENIZER_FILES for file in weights.glob(pattern)})
    return {
        "format": FORMAT,
        "texts": written.hexdigest(),
        "tokenizer": {file.name: sha256(file) for file in files},
        "versions": {name: metadata.version(name) for name in ("tokenizers", "transformers")},
    }


def _read(folder: Path, origin: dict[str, Any]) -> TokenRows | None:
    """Rows without prefix and suffix, mapped from disk and so shared by all processes; None when
    there are none to use."""
    try:
        record = json.loads((folder / "record.json").read_text("utf-8"))
        tokens, starts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "starts"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        record = None
    # The mapped content is hashed, not the file: another process may be replacing that.
    if record is None or record != _record(origin, tokens, starts):
        log.warning("%s: damaged, or made of other texts or by another tokenizer; made anew", folder)
        return None
    return TokenRows(tokens, starts[:-1], starts[1:])


def _write(folder: Path, origin: dict[str, Any], rows: TokenRows) -> None:
    """Each file whole or not at all, the record last. Processes that write at once write the same,
    so none can harm."""
    starts = np.append(rows.first, len(rows.tokens))
    try:
        make_folder(folder)
        folder.chmod(0o700)  # before a file is in it, whoever made it
        for name, array in (("tokens", rows.tokens), ("starts", starts)):
            file = folder / f"{name}.npy"
            with atomic(file) as temporary, temporary.open("wb") as out:
                np.save(out, array)
        write_json(folder / "record.json", _record(origin, rows.tokens, starts))
    except (OSError, RunError) as error:
        log.warning("%s; tokens are not kept, so every stage will make them anew", error)


def _record(origin: dict[str, Any], tokens: NDArray[Any], starts: NDArray[Any]) -> dict[str, Any]:
    return {**origin, "content": {"tokens": _digest(tokens), "starts": _digest(starts)}}


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    digest.update(array.data)
    return digest.hexdigest()
