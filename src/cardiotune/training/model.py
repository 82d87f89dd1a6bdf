"""Builds the model that the recipe trains, and loads it again. Methods differ here and nowhere else."""

import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cardiotune.config import Config, ModelConfig
from cardiotune.data.serialize import shared_pieces
from cardiotune.data.tokens import PromptEncoder
from cardiotune.errors import ModelError
from cardiotune.training.heads import ClassifierNetwork, LabelTokenNetwork, RiskNetwork, trunk_of
from cardiotune.training.lean import slim
from cardiotune.training.trunk import check_layers

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"


def set_up(threads: int | None) -> torch.device:
    """Quiet libraries, thread count, deterministic kernels; returns the device: this process's GPU, or the CPU."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, _physical_cores() // processes))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills every new tensor with NaN, to show reads of what was never written; it costs a pass over each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def _physical_cores() -> int:
    import psutil

    return int(psutil.cpu_count(logical=False) or 1)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (elsewhere it is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def train_dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    """The type that training computes in."""
    if model.dtype != "auto":
        return DTYPES[model.dtype]
    return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32


def score_dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    """The type that scoring computes in."""
    if model.score_dtype != "auto":
        return DTYPES[model.score_dtype]
    return torch.float32 if device.type == "cpu" else train_dtype(model, device)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({_first_line(error)})") from None


def pad_id_of(tokenizer: Any) -> int:
    """The id that fills padded places; what stands there is never read."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def build_encoder(config: Config, tokenizer: Any) -> PromptEncoder:
    """The prompt encoder of an experiment; with a label-token head, the labels are checked too."""
    encoder = PromptEncoder(
        tokenizer,
        shared_pieces(config.task),
        config.model.prompt,
        config.serialize.max_tokens,
        closed=config.model.family == "encoder",
    )
    if config.task.head == "label_tokens":
        encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    return encoder


# ---------------------------------------------------------------------------------------------------------------------
# base models


def load_base(folder: Path, config: Config, dtype: torch.dtype, device: torch.device) -> Any:
    """The language model in a folder, in evaluation mode, quantized if the method says so."""
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModel if config.model.family == "encoder" else AutoModelForCausalLM
    quantized = _quantization(config, dtype)
    placed = {"quantization_config": quantized, "device_map": {"": device}} if quantized else {}
    try:
        model = kind.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=_attention(config.model, device),
            local_files_only=True,
            use_safetensors=True,
            **placed,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"{folder}: the weights cannot be loaded ({_first_line(error)})") from None
    # bitsandbytes repacks 4-bit weights for inference the first time a CPU model is evaluated, and never back: training
    # would go on after the first look at the validation part with a kernel that has no gradient.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return (model if quantized else model.to(device)).eval()


def _attention(model: ModelConfig, device: torch.device) -> str:
    """The asked attention, or sdpa where flash attention cannot run."""
    if model.attention != "flash_attention_2":
        return model.attention
    absent = (
        "no GPU" if device.type != "cuda" else "" if find_spec("flash_attn") else "the package flash-attn is absent"
    )
    if absent:
        log.warning("model.attention: flash_attention_2 cannot run here (%s); sdpa is used", absent)
    return "sdpa" if absent else "flash_attention_2"


def _quantization(config: Config, dtype: torch.dtype) -> Any:
    """bitsandbytes settings, or None: NF4 with double quantization (Dettmers et al. 2023), or LLM.int8."""
    if config.method.quantization == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError(
            f"method {config.method.quantization} needs bitsandbytes: pip install 'cardiotune[qlora]'"
        ) from None
    from transformers import BitsAndBytesConfig

    if config.method.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read(model: Any, config: Config, encoder: PromptEncoder) -> RiskNetwork:
    """A language model with the experiment's head on it (a fresh one, if it is a classifier)."""
    if config.task.head == "classifier":
        return ClassifierNetwork(model)
    return LabelTokenNetwork(model, encoder.label_tokens(config.task.positive_label, config.task.negative_label))


# ---------------------------------------------------------------------------------------------------------------------
# to train


def build(base: Any, config: Config, encoder: PromptEncoder) -> RiskNetwork:
    """The model to train.

    lora: the base is frozen and carries fresh adapters (Hu et al. 2021) whose weights are float32. full: every weight
    of the text path trains.
    """
    network = read(_adapt(base, config) if config.method.kind == "lora" else _unfreeze(base), config, encoder)
    if config.train.gradient_checkpointing:
        network.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.method.kind == "lora":
            network.base.enable_input_require_grads()
    if not config.deepspeed:  # ZeRO-3 gathers a layer's weights when that layer is called
        slim(network)
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    log.info("%s: %.2f M of %.0f M weights train", config.method.name, trainable / 1e6, total / 1e6)
    return network


def _unfreeze(base: Any) -> Any:
    """Only what text runs through trains: a vision tower stays as it is, and is no dead weight in the optimizer."""
    base.requires_grad_(False)
    trunk_of(base).requires_grad_(True)
    # An encoder's pooler comes after the hidden states that are read, so no gradient would reach it.
    if getattr(base, "pooler", None) is not None:
        base.pooler.requires_grad_(False)
    return base


def _adapt(base: Any, config: Config) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    method = config.method
    lora = LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        use_dora=method.dora,
        use_rslora=method.rslora,
        target_modules=_targets(base, method.target_modules, method.top_layers),
        task_type=TaskType.CAUSAL_LM if config.model.family == "decoder" else TaskType.FEATURE_EXTRACTION,
        revision=config.model.revision,
    )
    try:
        adapted = get_peft_model(base, lora)
    except ValueError as error:
        raise ModelError(
            f"method.target_modules: match no layer of {config.model.name} ({_first_line(error)[:80]}); "
            f"its linear layers are {', '.join(_linear_layers(base))}"
        ) from None
    # Adapters are float32 and compute under autocast; PEFT would first cast every activation up to float32.
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    # Not the cache folder of this machine: an adapter travels.
    adapted.peft_config["default"].base_model_name_or_path = config.model.hub_id or config.model.name
    return adapted


def _linear_layers(base: Any) -> list[str]:
    """Names of the trunk's linear layers, without the pooler, each once."""
    layers = trunk_of(base).named_modules()
    found = {n.rsplit(".", 1)[-1] for n, m in layers if isinstance(m, torch.nn.Linear) and not n.startswith("pooler")}
    return sorted(found)


def _targets(base: Any, wanted: str | list[str], top_layers: int | None) -> str | list[str]:
    """`all-linear` means the text path: a pattern, where the model has a vision tower or a pooler beside it."""
    trunk = trunk_of(base)
    if top_layers:
        check_layers(trunk, top_layers)
    elif wanted != "all-linear" or (trunk is not base and not hasattr(base.config, "vision_config")):
        return wanted
    prefix = next((name + "." for name, module in base.named_modules() if module is trunk and name), "")
    layers = _linear_layers(base) if wanted == "all-linear" else wanted
    places = ".*"
    if top_layers:
        number = len(trunk.layers)
        places = rf"layers\.({'|'.join(map(str, range(number - top_layers, number)))})\..*"
    return rf"{prefix.replace('.', chr(92) + '.')}(?!pooler){places}\.({'|'.join(layers)})"


# ---------------------------------------------------------------------------------------------------------------------
# to score


def load_tuned(
    weights: Path, saved: Path, config: Config, encoder: PromptEncoder, dtype: torch.dtype, device: torch.device
) -> RiskNetwork:
    """The model that a run saved: an adapter on the base weights, or a whole model; with its trained head.

    Raises ModelError when what is saved does not fit exactly; a head is never made afresh. An adapter of PEFT's for
    sequence classification brings its own head, two scores or one.
    """
    if (saved / "adapter_config.json").is_file():
        model = _with_adapter(load_base(weights, config, dtype, device), saved)
    elif (saved / "config.json").is_file():
        model = load_base(saved, config, dtype, device)
    else:
        raise ModelError(f"{saved}: neither an adapter nor a model folder; train the run first")
    network = read(model, config, encoder)
    if isinstance(network, ClassifierNetwork):
        load_head(network, saved)
    return network.eval()


def load_plain(weights: Path, saved: Path, config: Config) -> Any:
    """What a run saved as a plain model of transformers: float32, on the CPU, adapters summed into the weights.

    Weights that were quantized are those that the adapters were trained on, written out. Errors as `load_tuned`.
    """
    cpu = torch.device("cpu")
    if (saved / "adapter_config.json").is_file():
        base = load_base(weights, config, torch.float32, cpu)
        if getattr(base, "is_quantized", False):
            base = base.dequantize()
        model = _with_adapter(base, saved).unload()
    else:
        model = load_base(saved, config, torch.float32, cpu)
    model.config._name_or_path = ""  # a folder of this machine
    return model


def _with_adapter(base: Any, folder: Path) -> Any:
    from peft import PeftConfig, PeftModel, TaskType

    if not (folder / ADAPTER_FILE).is_file():
        raise ModelError(f"{folder}: {ADAPTER_FILE} is missing; the adapter is not whole")
    try:
        config = PeftConfig.from_pretrained(folder)
        if config.task_type == TaskType.SEQ_CLS:  # its head is read by `load_head`
            config.task_type, config.modules_to_save = TaskType.CAUSAL_LM, None
        with warnings.catch_warnings():
            # PEFT only warns when weights are missing, and goes on with untrained ones.
            warnings.filterwarnings("error", message=".*[Mm]issing.*keys.*")
            adapted = PeftModel.from_pretrained(base, folder, is_trainable=False, config=config)
    except Exception as error:  # noqa: BLE001 - damaged files fail in many ways, all mean the same
        raise ModelError(f"{folder}: does not fit this base model or is damaged ({_first_line(error)})") from None
    if not getattr(base, "is_quantized", False):
        adapted.merge_adapter()  # summed in float32, rounded once
    return adapted


def load_head(network: ClassifierNetwork, folder: Path) -> None:
    """Put a saved head on a classifier; ModelError when there is none or it does not fit."""
    from safetensors.torch import load_file

    if (weight := _foreign_head(folder)) is not None:
        network.head.weight.data, network.head.bias.data = weight.to(network.head.weight), network.head.bias * 0
        return
    if not (folder / HEAD_FILE).is_file():
        raise ModelError(f"{folder}: {HEAD_FILE} is missing; a classifier without its trained head would guess")
    try:
        network.head.load_state_dict(load_file(folder / HEAD_FILE))
    except Exception as error:  # noqa: BLE001 - as above
        raise ModelError(
            f"{folder / HEAD_FILE}: does not fit this model or is damaged ({_first_line(error)})"
        ) from None


def has_head(folder: Path) -> bool:
    """Whether a saved adapter or model has a classifier: ours, or that of a PEFT adapter from elsewhere."""
    return (folder / HEAD_FILE).is_file() or _foreign_head(folder) is not None


def _foreign_head(folder: Path) -> torch.Tensor | None:
    """(1, width) weights of the head in a PEFT adapter for sequence classification: event minus no event."""
    from safetensors import safe_open

    if not (folder / ADAPTER_FILE).is_file():
        return None
    with safe_open(folder / ADAPTER_FILE, "pt") as file:
        names = [name for name in file.keys() if name.endswith(("score.weight", "classifier.weight"))]  # noqa: SIM118
        if not names:
            return None
        weight: torch.Tensor = file.get_tensor(names[0]).float()  # (classes, width)
    if len(weight) > 2:
        raise ModelError(f"{folder}: its head has {len(weight)} classes; expected a yes/no outcome, two or one")
    return weight[-1:] - weight[:1] if len(weight) == 2 else weight
