"""What this machine can run: processor, memory, GPU, number formats, optional libraries, weights."""

import importlib.util
import os
import shutil
from importlib import metadata
from typing import Any

from cardiotune.config import load_model, shipped


def examine() -> dict[str, Any]:
    """Facts by name; nothing is converted, downloaded or changed."""
    import psutil
    import torch

    from cardiotune.training.model import computes_in_bfloat16
    from cardiotune.training.weights import cache_folder, describe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    models = {name: load_model(path) for name, path in shipped("models").items()}
    return {
        "cpu_cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(os.getcwd()).free / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "bfloat16": computes_in_bfloat16(device),
        "libraries": {name: _version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "deepspeed")},
        "weights": {name: describe(model) for name, model in models.items()},
        "cache": str(cache_folder()),
        "hub_token": bool(os.environ.get("HF_TOKEN")),
    }


def _version(package: str) -> str | None:
    return metadata.version(package) if importlib.util.find_spec(package) else None
