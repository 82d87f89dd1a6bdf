"""Training that begins from weights that were trained before: whose they are, whether they fit, and
putting them in.

The base model, the head and, of adapters, rank and layers must be the same: then the network
computes before the first step what the earlier one did.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cardiotune.config import load_resolved
from cardiotune.errors import ConfigError, ModelError
from cardiotune.files import HASHES, read_json, sha256
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, MethodConfig
from cardiotune.training import checkpoint
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.model import ADAPTER_FILE, HEAD_FILE
from cardiotune.training.weights import check_safe, weights_hashes

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
ALIKE = ("kind", "r", "alpha", "target_modules", "top_layers", "dora", "rslora")
"""Settings of the method that say which weights train."""
IN_PEFT = {"r": "r", "alpha": "lora_alpha", "dora": "use_dora", "rslora": "use_rslora"}
"""Those that an adapter's own file says, and what it calls them."""


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to begin from."""

    folder: Path
    """An adapter, or a whole model."""
    run: RunFolder | None
    """Whose they are; None where only the weights are there."""

    @property
    def name(self) -> str:
        """What the log and the manifest call it: a folder's name, never its path."""
        return (self.run.path if self.run else self.folder).resolve().name

    @property
    def config(self) -> Config | None:
        """Settings of its run."""
        return load_resolved(self.run.checked(self.run.config)) if self.run else None

    @property
    def hashes(self) -> dict[str, str]:
        """File -> sha256 of the weights."""
        return {file.name: sha256(file) for file in sorted(self.folder.glob("*.safetensors"))}


def find_start(path: str) -> Start:
    """The weights that `train.start_from` names: those of a run, or a folder of an adapter or a
    model. ConfigError where there are none."""
    place = Path(path)
    if (place / "manifest.json").is_file():
        run = RunFolder(place)
        folder = run.tuned_folder(load_resolved(run.checked(run.config)).method.kind)
        if not folder.is_dir():
            raise ConfigError(f"train.start_from: {place} has no tuned model; train it first, or name another")
        return Start(folder, run)
    if not any((place / name).is_file() for name in (ADAPTER_CONFIG, "config.json")):
        raise ConfigError(f"train.start_from: {place} is neither a run folder nor one of an adapter or a model")
    above = RunFolder(place.resolve().parent)
    own = place.resolve().name in (above.adapter.name, above.model.name) and above.manifest.is_file()
    return Start(place, above if own else None)


def check_start(start: Start, config: Config, weights: Path) -> None:
    """ConfigError naming what differs where the weights are of another base, method or head;
    ModelError where they are damaged."""
    check_safe(start.folder)
    if (start.folder / HASHES).is_file():
        checkpoint.verify(start.folder)
    differ = _of_run(start, config, weights) if start.run else _of_folder(start.folder, config)
    if differ:
        raise ConfigError(f"train.start_from: {start.name} is not of this experiment's kind: {'; '.join(differ)}")


def _of_run(start: Start, config: Config, weights: Path) -> list[str]:
    source = start.config
    assert start.run and source
    if start.folder.name in (start.run.adapter.name, start.run.model.name):
        start.run.checked(start.folder / HASHES)
    theirs, ours = start.run.read_manifest().get("base_model", {}).get("sha256", {}), weights_hashes(weights)
    changed = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    differ = [f"its base model {source.model.name} has other files ({', '.join(changed)})"] if changed else []
    differ += _method(source.method, config.method)
    return differ + _unlike("task.head", source.task.head, config.task.head) + _labels(source, config)


def _method(theirs: MethodConfig, ours: MethodConfig) -> list[str]:
    names = ALIKE if theirs.kind == ours.kind == "lora" else ("kind",)
    return [line for name in names for line in _unlike(f"method.{name}", getattr(theirs, name), getattr(ours, name))]


def _labels(source: Config, config: Config) -> list[str]:
    if not source.task.head == config.task.head == "label_tokens":
        return []
    names = ("positive_label", "negative_label")
    return [
        line
        for name in names
        for line in _unlike(f"task.{name}", getattr(source.task, name), getattr(config.task, name))
    ]


def _of_folder(folder: Path, config: Config) -> list[str]:
    """What a folder by itself says; of the base model the name alone."""
    kind = "lora" if (folder / ADAPTER_CONFIG).is_file() else "full"
    differ = _unlike("method.kind", kind, config.method.kind)
    head = "classifier" if (folder / HEAD_FILE).is_file() else "label_tokens"
    differ += _unlike("task.head", head, config.task.head)
    if differ or kind == "full":
        return differ
    own = read_json(folder / ADAPTER_CONFIG)
    for name, key in IN_PEFT.items():
        ours = getattr(config.method, name)
        differ += _unlike(f"method.{name}", own.get(key, type(ours)()), ours)
    base, names = str(own.get("base_model_name_or_path") or ""), (config.model.hub_id or "", config.model.name)
    if base and Path(base).name.casefold() not in {Path(name).name.casefold() for name in names}:
        differ.append(f"its base model is {Path(base).name}, here it is {config.model.name}")
    else:
        log.warning("train.start_from: %s says only the name of its base model; it was not compared", folder.name)
    return differ


def _unlike(name: str, theirs: Any, ours: Any) -> list[str]:
    return [] if theirs == ours else [f"{name} was {theirs}, is {ours}"]


def begin_from(network: RiskNetwork, config: Config, run: RunFolder) -> None:
    """Give a fresh network the weights that `train.start_from` names. ModelError where they have
    changed since the run was prepared, or are of other layers."""
    assert config.train.start_from
    start = find_start(config.train.start_from)
    recorded = run.read_manifest().get("training", {}).get("start_from", {}).get("sha256")
    if recorded is not None and recorded != start.hashes:
        raise ModelError(f"{start.folder}: has changed since this run was prepared; restore it, or start a new run")
    if config.method.kind == "lora":
        _check_layers(network, start)
    checkpoint.load_weights(network, start.folder)
    log.info("training starts from the weights of %s", start.name)


def _check_layers(network: RiskNetwork, start: Start) -> None:
    """ModelError unless the saved adapters are those that train here, by place and shape."""
    from peft import get_peft_model_state_dict

    model: Any = network.model
    ours = {n: tuple(w.shape) for n, w in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    with safe_open(start.folder / ADAPTER_FILE, "pt") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    unlike = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if unlike:
        raise ModelError(
            f"train.start_from: {start.name} has other adapters than method.target_modules and method.r ask for "
            f"({len(unlike)} differ, such as {unlike[0]})"
        )
