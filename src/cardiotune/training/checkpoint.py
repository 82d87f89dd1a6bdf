"""Checkpoints: whole or absent, checked before they are trusted, and enough to go on exactly where
training stopped.

A folder is written beside its place, flushed to disk, given the sha256 of each of its files, and
then renamed. It holds the adapter or model (`weights/`), the optimizer, the random number
generators and the progress; nothing is pickled except what DeepSpeed writes of its own state.
"""

import hashlib
import logging
import shutil
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cardiotune.errors import ConfigError, ModelError
from cardiotune.files import HASHES, read_json, sha256, write_json
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.heads import ClassifierNetwork, RiskNetwork
from cardiotune.training.model import ADAPTER_FILE, HEAD_FILE
from cardiotune.training.weights import WANTED, check_safe

log = logging.getLogger(__name__)

PROBE = "probe.json"
State = dict[str, torch.Tensor]


def version_of(folder: Path) -> str:
    """First digits of the sha256 of a saved model's record of hashes: which weights these are."""
    return sha256(folder / HASHES)[:12]


def verify(folder: Path, inside: str = "") -> None:
    """ModelError when a file of a saved folder (or one `inside` a folder of it) is missing, differs
    from its recorded hash, or is one that a library would read and that nobody has recorded; and
    when loading the folder is not safe.

    A checkpoint's `weights/` is vouched for by the checkpoint's own record.
    """
    if folder.name == "weights" and not (folder / HASHES).is_file():
        folder = folder.parent
    if not (folder / HASHES).is_file():
        raise ModelError(f"{folder}: no {HASHES}; it is not whole, train the run first")
    check_safe(folder)
    recorded: dict[str, str] = read_json(folder / HASHES)
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    wanted = {name: digest for name, digest in recorded.items() if name.startswith(inside)}
    wrong = [name for name, digest in wanted.items() if name not in names or sha256(folder / name) != digest]
    added = {name for name in names - {*recorded, HASHES, PROBE} if name.startswith(inside)}
    wrong += sorted(name for name in added if any(fnmatch(name, pattern) for pattern in WANTED))
    if wrong:
        raise ModelError(f"{folder}: {', '.join(wrong)} changed since it was saved; restore it or train the run again")


def own_checkpoint(run: RunFolder, config: Config, checkpoint: Path) -> Path:
    """The folder of a checkpoint of this run, by its path or by that within the run; its weights
    are as recorded.

    ConfigError when it is none, or of a run with other settings; ModelError when it is damaged.
    """
    folder = checkpoint if checkpoint.is_dir() else run.path / checkpoint
    if not (folder / "weights").is_dir():
        kept = ", ".join(sorted(f"checkpoints/{path.name}" for path in run.checkpoints.glob("step-*")))
        raise ConfigError(f"{folder}: not a checkpoint of this run; it keeps {kept or 'none'}")
    made_with = read_json(folder / "state.json").get("config", {})
    if made_with != config.model_dump(mode="json"):
        raise ConfigError(f"{folder}: a checkpoint of another run ({made_with.get('name')})")
    verify(folder, inside="weights/")
    return folder


# --------------------------------------------------------------------------------------------------
# weights


def trained_state(network: RiskNetwork) -> State:
    """Name -> value of every weight that trains, on the CPU; gathered when ZeRO-3 has cut it up,
    else not copied there.

    Without adapters, of every weight: a whole model is saved, and ZeRO-3 cuts up the frozen ones
    too.
    """
    whole = not hasattr(network.model, "peft_config")
    weights = {name: weight for name, weight in network.named_parameters() if whole or weight.requires_grad}
    if not any(hasattr(weight, "ds_id") for weight in weights.values()):
        return {name: weight.detach().cpu() for name, weight in weights.items()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(weights.values())):
        return {name: weight.detach().cpu().clone() for name, weight in weights.items()}


def save_weights(network: RiskNetwork, state: State, folder: Path) -> None:
    """Write adapter or model, and the classifier's head, into an existing folder, in the field's
    formats."""
    inside = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    model: Any = network.model
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder, state_dict=inside, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a form that nobody filled in
    else:
        model.save_pretrained(folder, state_dict={**dict(model.named_buffers()), **inside})
    if isinstance(network, ClassifierNetwork):
        head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
        save_file(head, folder / HEAD_FILE)


def load_weights(network: RiskNetwork, folder: Path) -> None:
    """Put saved weights into a network of the same build, before it is spread over processes."""
    check_safe(folder)
    model: Any = network.model
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        found = set_peft_model_state_dict(model, load_file(folder / ADAPTER_FILE))
        if found.unexpected_keys:
            raise ModelError(f"{folder}: holds weights that this model does not have")
    else:
        # Through transformers, which writes some families' weights under other names than it holds
        # them.
        model.load_state_dict(_read_back(model, folder).state_dict())
    if isinstance(network, ClassifierNetwork):
        network.head.load_state_dict(load_file(folder / HEAD_FILE))


def check_same_weights(network: RiskNetwork, state: State, folder: Path) -> None:
    """ModelError unless every weight in memory is found in the saved files, to the last bit.

    By content and not by name: files use the field's names, which are not those in memory.
    """
    held = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    model: Any = network.model
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        held = get_peft_model_state_dict(model, state_dict=held, save_embedding_layers=False)
    held |= {name: value for name, value in state.items() if name.startswith("head.")}
    saved: set[bytes] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:  # a tensor at a time: a whole model stands in memory already
            saved |= {_digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    held = {name: value for name, value in held.items() if _digest(value) not in saved}
    if not held:
        return
    # Some families' weights are cut and joined on their way to the file: those are read back as
    # they will be.
    whole = not hasattr(model, "peft_config") and _read_back(model, folder).state_dict()
    if not whole or not all(name in whole and torch.equal(value, whole[name]) for name, value in held.items()):
        raise ModelError(f"{folder}: the saved weights are not those in memory")


def _read_back(model: Any, folder: Path) -> Any:
    return type(model).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )


def _digest(value: torch.Tensor) -> bytes:
    content = value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else value.numpy()
    return hashlib.sha256(repr((value.dtype, value.shape)).encode() + content.tobytes()).digest()


# --------------------------------------------------------------------------------------------------
# training state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> State:
    """The optimizer's state as named tensors: `<weight number>.<name>`, or `<weight
    number>.<group>/<name>`."""
    found: State = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            # bitsandbytes keeps its moments in a dictionary of their own.
            inner = {f"{name}/{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
            found |= {f"{number}.{key}": torch.as_tensor(item).cpu() for key, item in inner.items()}
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    """Undo `optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        group, slash, inner = name.partition("/")
        own = state.setdefault(int(number), {})
        if slash:
            own.setdefault(group, {})[inner] = value
        else:
            own[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def good_checkpoints(run: RunFolder) -> list[Path]:
    """Checkpoints that pass their hashes, newest first. A damaged one is said aloud and passed
    over."""
    good = []
    for folder in sorted(run.checkpoints.glob("step-*"), reverse=True):
        try:
            verify(folder)
            good.append(folder)
        except ModelError as error:
            log.warning("damaged checkpoint passed over: %s", error)
    return good


def drop_old(run: RunFolder, keep: set[int], newest: int, current: int) -> None:
    """Remove checkpoints but for those of the steps in `keep` and the `newest` last ones; and
    left-over fragments.

    What stands after the `current` step was passed over as damaged, or is of an earlier training,
    and goes first.
    """
    folders = {int(folder.name.removeprefix("step-")): folder for folder in run.checkpoints.glob("step-*")}
    behind = sorted(step for step in folders if step <= current)
    wanted = keep | set(behind[-newest:])
    for step, folder in folders.items():
        if step not in wanted:
            shutil.rmtree(folder)
    for fragment in run.checkpoints.glob(".step-*"):
        shutil.rmtree(fragment, ignore_errors=True)


# --------------------------------------------------------------------------------------------------
# the same model in a later process


@dataclass(frozen=True, slots=True)
class Probe:
    """How a saved model scores a fixed synthetic sample."""

    dtype: str
    """What it was computed in, as PyTorch names it."""
    logits: list[float]
    """(rows of the sample,), six decimals."""


def record_probe(folder: Path, logits: np.ndarray, dtype: torch.dtype) -> None:
    """Keep the logits of a fixed synthetic sample beside the weights, for `check_probe` in later
    processes."""
    write_json(folder / PROBE, asdict(Probe(str(dtype), [round(float(z), 6) for z in logits])))


def check_probe(folder: Path, logits: np.ndarray, dtype: torch.dtype) -> None:
    """ModelError when the loaded model does not give the recorded logits: wrong base, wrong
    adapter, wrong prompt.

    Tolerance: 0.01 in float32, 0.25 in 16-bit types (logits, not probabilities), enough for another
    machine's kernels.
    """
    if not (folder / PROBE).is_file():
        return
    recorded = Probe(**read_json(folder / PROBE))
    exact = dtype == torch.float32 and recorded.dtype == str(dtype)
    apart = float(np.max(np.abs(np.array(recorded.logits) - logits)))
    if not apart <= (0.01 if exact else 0.25):
        raise ModelError(
            f"{folder}: the model does not score the recorded sample as it did when saved (logits {apart:.3g} apart); "
            "the base weights, the tokenizer or the trained weights are not the same"
        )
