"""The machine that training and scoring run on, and how a command sets its process up for it."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
import transformers

from cardiotune.processes import current


def set_up(threads: int | None) -> None:
    """Quiet libraries, thread count, deterministic kernels, this process's GPU.

    For commands, whose process is their own. What a user's Python calls leaves its settings alone.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    cores = psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads or max(1, cores // current().local_size))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills every new tensor with NaN, to show reads of what was never
    # written; it costs a pass over each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())


@contextmanager
def settings_kept() -> Iterator[None]:
    """What commands set up inside, and the random numbers that they draw, are afterwards as they
    were."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    gpus = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=gpus), quiet_loading():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Meanwhile transformers shows no bar, and it and bitsandbytes say nothing below an error."""
    verbosity, bars = transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    announces = logging.getLogger("bitsandbytes")
    level = announces.level
    announces.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        announces.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def own_device() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", current().local_rank)
    return torch.device("cpu")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (elsewhere it is slower than
    float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
