"""What this machine can run: processor, memory, GPU, number formats, libraries, weights; and
whether an experiment fits."""

import importlib.util
import os
import shutil
from dataclasses import asdict
from importlib import metadata
from typing import Any

import psutil
import torch

from cardiotune.config import load_model, shipped
from cardiotune.errors import ModelError, PromptsTooLongError
from cardiotune.settings import Config
from cardiotune.training.machine import computes_in_bfloat16, own_device
from cardiotune.training.memory import estimate
from cardiotune.training.weights import cache_folder, describe, find_weights


def examine() -> dict[str, Any]:
    """Facts by name; nothing is converted, downloaded or changed."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    models = {name: load_model(path) for name, path in shipped("models").items()}
    return {
        "cpu_cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(os.getcwd()).free / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "bfloat16": computes_in_bfloat16(own_device()),
        "libraries": {name: _version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "deepspeed")},
        "weights": {name: describe(model) for name, model in models.items()},
        "cache": str(cache_folder()),
        "hub_token": bool(os.environ.get("HF_TOKEN")),
    }


def examine_experiment(config: Config) -> dict[str, Any]:
    """Whether a (checked) config can train here: its combination, its libraries, and its memory
    beside what is free.

    Memory in MiB, of each process; null with a reason where the weights are not on this machine.
    """
    choice = config.choice
    gpu = torch.cuda.is_available()
    needed = {"bitsandbytes": config.method.quantization != "none", "deepspeed": config.deepspeed is not None}
    absent = [name for name, wanted in needed.items() if wanted and _version(name) is None]
    found: dict[str, Any] = {
        "combination": " x ".join((choice.method, choice.head, choice.stage, choice.dtype, choice.family)),
        "verdict": f"missing: {', '.join(absent)}" if absent else "works",
    }
    try:
        memory = estimate(config, find_weights(config.model), own_device())
    except (ModelError, PromptsTooLongError) as error:
        return {**found, "memory_mib": None, "reason": str(error)}
    free = torch.cuda.mem_get_info()[0] if gpu else psutil.virtual_memory().available / config.launch.processes
    parts = {name: round(value) for name, value in asdict(memory).items() if value}
    fits = "fits" if memory.peak * 2**20 < free else "does not fit: " + _remedies(config)
    found["memory_mib"] = {**parts, "peak": round(memory.peak), "free_for_each_process": round(free / 2**20)}
    return {**found, "memory_verdict": fits}


def _remedies(config: Config) -> str:
    ways = {
        "use.method=lora": config.method.kind == "full",
        "use.method=qlora": config.method.kind == "lora" and config.method.quantization == "none",
        "train.gradient_checkpointing=true": not config.train.gradient_checkpointing,
        "a smaller train.batch_size with more train.gradient_accumulation": config.train.batch_size > 1,
    }
    return "try " + ", or ".join(way for way, helps in ways.items() if helps)


def _version(package: str) -> str | None:
    return metadata.version(package) if importlib.util.find_spec(package) else None
