"""Pickled weights (`pytorch_model.bin`) of a model folder -> safetensors, once and on request.

A pickle can hold code. It is read by PyTorch's restricted reader, which makes tensors and nothing
else, and refuses a file that asks for more; what training and scoring open is the safetensors file
that is written here.
"""

import json
import logging
import pickle
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from cardiotune.errors import ConfigError, ModelError
from cardiotune.families import family_named, family_of
from cardiotune.files import private, sha256, write_folder, write_json
from cardiotune.training.model import auto_class, load_tokenizer
from cardiotune.training.weights import check_safe

log = logging.getLogger(__name__)

PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")
SOURCE = "cardiotune_source.json"
"""In the new folder: which files it was made from."""
UNREAD = ("pooler", "position_ids")
"""Parts of weights' names that no risk is read through: a checkpoint may lack them."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a folder of safetensors was made from; kept in it."""

    converted_from: dict[str, str]
    """Name -> sha256 of each pickle."""
    weights_not_used: list[str]
    """Heads of the pretraining, which the model does not have."""


@private()
def convert(folder: Path, out: Path, model_type: str | None = None) -> Conversion:
    """Write the model in `folder` to `out`: config.json, model.safetensors, tokenizer, and a record
    of the pickles' sha256.

    model_type: what config.json is to say, where it says none, as old ones do. Returns the record.
    Raises ConfigError when `out` is there or `model_type` is not what config.json says, ModelError
    for a folder without pickled weights, for a pickle that holds more than tensors, and for weights
    that are not all of the model's, RunError when the disk refuses.
    """
    files = sorted({file for pattern in PICKLES for file in folder.glob(pattern)})
    if not files or not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: expected a model folder with config.json and pytorch_model.bin")
    if out.exists():
        raise ConfigError(f"--out {out}: exists; choose a new folder")
    check_safe(folder)
    config = _config(folder, model_type)
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights |= _tensors(file)
    model, unused = _model(folder, config, weights)
    record = Conversion({file.name: sha256(file) for file in files}, unused)

    def fill(work: Path) -> None:
        model.save_pretrained(work)
        load_tokenizer(folder, config).save_pretrained(work)
        write_json(work / SOURCE, asdict(record))

    write_folder(out, fill)
    log.info(
        "%s: %d tensors written; %d not used (heads of the pretraining)", out, len(model.state_dict()), len(unused)
    )
    return record


def _config(folder: Path, model_type: str | None) -> Any:
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        told = settings.pop("model_type", None)
        if told and model_type and told != model_type:
            raise ConfigError(f"--model-type {model_type}: its config.json says {told}; leave the option out")
        found = told or model_type
        if found is None:
            raise ModelError(f"{folder}: its config.json names no model_type; give it with --model-type, such as bert")
        family_named(found)
        config = AutoConfig.for_model(found, **settings)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: its config.json cannot be read ({str(error).splitlines()[0][:200]})") from None
    family_of(config)
    return config


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor. The file is read as tensors only: what else a pickle could hold is refused,
    not run."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        kind = type(error).__name__
        raise ModelError(f"{file}: holds more than tensors, or is damaged ({kind}); it is not opened") from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError(f"{file}: expected a mapping of names to tensors, as a model's weights are saved")
    return found


def _model(folder: Path, config: Any, weights: dict[str, torch.Tensor]) -> tuple[Any, list[str]]:
    """The model with these weights, and the names of those that are not in it. Old names are known
    to transformers."""
    transformers.logging.set_verbosity_error()  # what does not fit is told below
    kind = auto_class(family_of(config).kind)
    with torch.device("meta"):
        kind = type(kind.from_config(config, trust_remote_code=False))
    dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, told = kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32 if len(dtypes) != 1 else dtypes.pop(),
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: the weights do not fit its config ({str(error).splitlines()[0][:200]})") from None
    absent = [name for name in told["missing_keys"] if not any(part in name.split(".") for part in UNREAD)]
    if absent or told["mismatched_keys"]:
        wrong = sorted(absent) + sorted(str(found[0]) for found in told["mismatched_keys"])
        raise ModelError(
            f"{folder}: {len(wrong)} weights of the model are not in the file or do not fit: {wrong[0]}, ..."
        )
    return model, sorted(told["unexpected_keys"])
