"""How much memory a fine-tuning needs, before it is tried.

The model is built from its config.json alone, on tensors that have a shape and no content, and
makes one forward pass over the longest rows that the data dictionary allows for; what autograd
keeps for the backward pass is counted.
"""

import ctypes
import gc
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows
from cardiotune.errors import ModelError
from cardiotune.families import family_of
from cardiotune.settings import Config
from cardiotune.training import train  # noqa: F401 - a process that trains holds what it imports, too
from cardiotune.training.heads import RiskNetwork, trunk_of
from cardiotune.training.model import auto_class, build, build_encoder, read_config, score_dtype, train_dtype
from cardiotune.training.packing import Batch, lay_out

MIB = 1 << 20
NF4_BYTES = 0.516
"""Bytes a weight in NF4 with double quantization: 4 bits, and 0.127 for the scales (Dettmers et al.
2023, section 3)."""
MOMENTS = {"adamw": 2.0, "paged_adamw_32bit": 2.0, "adafactor": 0.02, "sgd": 1.0}
"""Float32 numbers that an optimizer keeps for each weight that trains; Adafactor keeps rows and
columns of a matrix."""
CPU_SLACK = 1.5
"""On a CPU: memory held over what autograd keeps, by temporary results and by an allocator that
gives little back. Measured on small models (docs/results.md)."""


def release() -> None:
    """Give memory that is no longer used back to the system; the C library would keep it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim:
            trim(0)


@dataclass(frozen=True)
class Memory:
    """MiB of one process at its peak, in a training step or while the weights are loaded or
    saved."""

    process: float
    """Python and its libraries (on a CPU)."""
    weights: float
    gradients: float
    optimizer: float
    activations: float
    """Kept by the forward pass of one batch for the backward pass."""
    files: float
    """On a CPU: beyond the step, when weights are read, saved and read back."""

    @property
    def peak(self) -> float:
        """The sum."""
        return float(sum(asdict(self).values()))


def estimate(config: Config, folder: Path, device: torch.device) -> Memory:
    """Memory of each process when `config` is trained on the weights in `folder`."""
    on_cpu = device.type == "cpu"
    network, activations = _forward_pass(config, folder, device)
    dtype = train_dtype(config.model, device)
    full = config.method.kind == "full"
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    quantized = _quantized_weights(network, config) if config.method.quantization != "none" else 0
    kept = sum(weight.numel() for weight in frozen) - quantized
    size = {"none": 0.0, "nf4": NF4_BYTES, "int8": 1.0}[config.method.quantization]
    base = kept * (4 if full else dtype.itemsize) + quantized * size
    share = 1 / config.launch.processes if config.deepspeed else 1.0
    share_of_weights = share if config.deepspeed and config.deepspeed.stage == 3 else 1.0
    offloaded = bool(config.deepspeed and config.deepspeed.offload_optimizer and device.type != "cpu")
    step = (
        (base + 4 * trained) * share_of_weights,
        4 * trained * share,
        0.0 if offloaded else 4 * trained * MOMENTS[config.train.optimizer] * share,
        activations * (CPU_SLACK if on_cpu else 1),
    )
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if on_cpu else 0
    # Beyond what a step holds: the file behind weights that are read in; when all weights are
    # saved, they are on their way to the file, and read back; then the base is loaded afresh, to be
    # scored, in the type for scoring: mapped where that is the file's, but for the linear layers,
    # which are laid out anew (`fixed_weights`).
    scored = sum(weight.numel() for weight in network.parameters()) * score_dtype(config.model, device).itemsize
    laid_out = sum(layer.weight.numel() for layer in _linear(network)) * score_dtype(config.model, device).itemsize
    loading = stored + (base if not full else 4 * trained)
    saving = step[0] + step[2] + (8 * trained if full else 0)
    probing = stored + (laid_out if 0.95 < scored / max(stored, 1) < 1.05 else scored)
    files = max(0.0, max(loading, saving, probing) - sum(step)) if on_cpu else 0.0
    process = _process_bytes() if on_cpu else 0.0
    return Memory(*(value / MIB for value in (process, *step, files)))


def _process_bytes() -> float:
    """What this process, which has loaded the same libraries, holds now."""
    return float(psutil.Process(os.getpid()).memory_info().rss)


def _forward_pass(config: Config, folder: Path, device: torch.device) -> tuple[RiskNetwork, int]:
    """The network, and the bytes that autograd keeps after a forward pass of one batch; nothing is
    computed."""
    encoder = build_encoder(config, folder)
    rows = synthetic_rows(config.data, max(64, config.train.batch_size), config.seed)
    order = column_order(rows, config.data, config.serialize)
    prompts = encoder.encode(serialize_rows(rows, order, config.data, config.serialize))[: config.train.batch_size]
    dtype = train_dtype(config.model, device)
    settings = read_config(folder)
    attention = "sdpa" if family_of(settings).sdpa and config.model.attention != "eager" else "eager"
    kept_in = torch.float32 if config.method.kind == "full" else dtype
    with torch.device("meta"):
        base = auto_class(config.model.family).from_config(
            settings, attn_implementation=attention, dtype=kept_in, trust_remote_code=False
        )
        network = build(base, config, encoder).train()
    batch = lay_out(prompts, encoder.pad_id, network.layout)
    if batch.attention.ndim == 2:  # a ready mask: for one of another shape, values would be looked at
        rows_and_tokens = batch.attention.bool()
        mask = rows_and_tokens[:, None, None, :].expand(-1, 1, batch.input_ids.shape[1], -1)
        batch = replace(batch, attention=mask)
    # Meta tensors know no autocast; fake ones of a CPU do.
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        fakes = {name: torch.empty_like(t, device="cpu", requires_grad=t.requires_grad) for name, t in state.items()}
        own = {fake.untyped_storage()._cdata for fake in fakes.values()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = _called(network, fakes, batch)
        kept_bytes = sum(kept.values())
        del logits
    return network, kept_bytes


def _called(network: RiskNetwork, fakes: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """ModelError for a model that cannot be followed on tensors without content, as some mixtures
    of experts."""
    try:
        return torch.func.functional_call(network, fakes, (batch,))  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        kind = type(error).__name__
        raise ModelError(f"memory of a {network.trunk.config.model_type} cannot be told in advance ({kind})") from None


def _quantized_weights(network: RiskNetwork, config: Config) -> int:
    """How many weights bitsandbytes would keep in few bits: the frozen linear layers', not the
    output matrix."""
    return sum(layer.weight.numel() for layer in _linear(network) if not layer.weight.requires_grad)


def _linear(network: RiskNetwork) -> list[torch.nn.Linear]:
    trunk: Any = trunk_of(network.base)
    return [module for module in trunk.modules() if isinstance(module, torch.nn.Linear)]
