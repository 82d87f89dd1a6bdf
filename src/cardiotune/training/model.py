"""Builds the model that the recipe trains, and loads it again. Methods differ here and nowhere else."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from cardiotune.config import Config, MethodConfig, ModelConfig
from cardiotune.data.serialize import shared_pieces
from cardiotune.data.tokens import LabelTokens, PromptEncoder
from cardiotune.errors import ModelError
from cardiotune.training.heads import LabelTokenModel

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def set_up(threads: int | None) -> torch.device:
    """Quiet libraries, thread count, deterministic kernels; returns the device: the first GPU, or the CPU."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    torch.set_num_threads(threads or _physical_cores())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def build_encoder(config: Config, tokenizer: Any) -> tuple[PromptEncoder, LabelTokens]:
    """Prompt encoder and label tokens of an experiment."""
    encoder = PromptEncoder(tokenizer, shared_pieces(config.task), config.model.prompt, config.serialize.max_tokens)
    return encoder, encoder.label_tokens(config.task.positive_label, config.task.negative_label)


def load_base(folder: Path, dtype: torch.dtype, attention: Literal["sdpa", "eager"]) -> Any:
    """The causal language model in a folder, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: the weights cannot be loaded ({_first_line(error)})") from None
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def build(base: Any, method: MethodConfig, model: ModelConfig, labels: LabelTokens) -> LabelTokenModel:
    """The model to train: frozen base with fresh LoRA adapters (Hu et al. 2021) whose weights are float32."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=method.target_modules,
        task_type="CAUSAL_LM",
        revision=model.revision,
    )
    try:
        adapted = get_peft_model(base, lora)
    except ValueError as error:
        linear = {n.rsplit(".", 1)[-1] for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
        raise ModelError(
            f"method.target_modules: match no layer of {model.name} ({_first_line(error)[:80]}); "
            f"its linear layers are {', '.join(sorted(linear))}"
        ) from None
    # Adapters are float32 and compute under autocast; PEFT would first cast every activation up to float32.
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    # Not the cache folder of this machine: an adapter travels.
    adapted.peft_config["default"].base_model_name_or_path = model.hub_id or model.name
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    total = sum(p.numel() for p in adapted.parameters())
    log.info(
        "LoRA r %d on %s: %.2f M of %.0f M weights train",
        method.r,
        method.target_modules,
        trainable / 1e6,
        total / 1e6,
    )
    return LabelTokenModel(adapted, labels)


def load_adapted(base: Any, adapter: Path, labels: LabelTokens) -> LabelTokenModel:
    """The base model with a saved adapter; ModelError when the adapter does not fit it exactly."""
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file() or not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{adapter}: not an adapter (adapter_config.json, adapter_model.safetensors); train the run first"
        )
    try:
        with warnings.catch_warnings():
            # PEFT only warns when weights are missing, and goes on with untrained ones.
            warnings.filterwarnings("error", message=".*[Mm]issing.*keys.*")
            adapted = PeftModel.from_pretrained(base, adapter, is_trainable=False)
    except Exception as error:  # noqa: BLE001 - damaged files fail in many ways, all mean the same
        raise ModelError(f"{adapter}: does not fit this base model or is damaged ({_first_line(error)})") from None
    return LabelTokenModel(adapted.eval(), labels)
