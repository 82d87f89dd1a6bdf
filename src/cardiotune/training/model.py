"""Builds the model that the recipe trains, and loads it again. Methods differ here and nowhere
else."""

import json
import logging
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from cardiotune.compatibility import Scoring, score_refusals
from cardiotune.data.serialize import shared_pieces
from cardiotune.data.tokens import Capacity, PromptEncoder
from cardiotune.errors import ModelError
from cardiotune.families import Family, Kind, family_of
from cardiotune.settings import Config, ModelConfig
from cardiotune.training.heads import (
    ClassifierNetwork,
    LabelTokenNetwork,
    RiskNetwork,
    output_is_own,
    own_output,
    trunk_of,
    untie,
)
from cardiotune.training.lean import slim
from cardiotune.training.machine import computes_in_bfloat16, quiet_loading
from cardiotune.training.trunk import check_layers
from cardiotune.training.weights import check_base, check_safe

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
TOKENIZER_KIND = re.compile(rb'"model":\s*\{\s*"type":\s*"(\w+)"')
"""In `tokenizer.json`: BPE, WordPiece, Unigram or WordLevel."""
FOREIGN_HEADS = ("score", "classifier", "pre_classifier")
"""Layers that PEFT saves of a model for sequence classification: a decoder's, and those of
encoders."""
ADAPTERS = ("ADALORA", "BOFT", "HRA", "IA3", "LOHA", "LOKR", "LORA", "OFT", "RANDLORA", "VERA")
"""PEFT's kinds that are summed into the weights; others bring prompts, or adapters of other
folders."""


def train_dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    """The type that training computes in."""
    if model.dtype != "auto":
        return DTYPES[model.dtype]
    return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32


def score_dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    """The type that scoring computes in. ModelError when the device has none such."""
    if model.score_dtype == "auto":
        return torch.float32 if device.type == "cpu" else train_dtype(model, device)
    if reasons := score_refusals(Scoring(model.score_dtype, device.type)):
        raise ModelError(f"model.score_dtype: {reasons[0]}")
    return DTYPES[model.score_dtype]


def load_tokenizer(folder: Path, config: Any = None) -> Any:
    """The tokenizer of a model folder; `config` where the one in the folder does not say what model
    it is. ModelError when it cannot be loaded, or would cut texts otherwise than its file says."""
    check_safe(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, **_casing(folder)
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({_first_line(error)})") from None
    except TypeError:  # a class that was given the words of another kind
        raise _other_kind(folder) from None
    file = folder / "tokenizer.json"
    kind = TOKENIZER_KIND.search(file.read_bytes()) if file.is_file() else None
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if kind and backend is not None and kind[1].decode() != type(backend.model).__name__:
        raise _other_kind(folder)
    return tokenizer


def _other_kind(folder: Path) -> ModelError:
    return ModelError(
        f"{folder}: the tokenizer_class of tokenizer_config.json does not read the kind of tokenizer that tokenizer.json "
        "holds; name the right one, or TokenizersBackend, which reads any"
    )


def _casing(folder: Path) -> dict[str, bool]:
    """Whether a tokenizer that is a list of words alone puts all in lower case: what nothing says,
    the words do.

    The library would, and so would not know a word with a capital in it.
    """
    words, told = folder / "vocab.txt", folder / "tokenizer_config.json"
    if not words.is_file() or (folder / "tokenizer.json").is_file():
        return {}
    if told.is_file() and "do_lower_case" in json.loads(told.read_text("utf-8")):
        return {}
    listed = words.read_text("utf-8").splitlines()
    return {"do_lower_case": not any(word != word.lower() for word in listed if not word.startswith("["))}


def read_config(folder: Path) -> Any:
    """The config of a model folder. ModelError when transformers does not know the model type."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: its config cannot be read ({_first_line(error)})") from None


def auto_class(kind: Kind) -> Any:
    """The class of transformers that makes models of this kind."""
    return AutoModel if kind == "encoder" else AutoModelForCausalLM


def known_family(config: Any, model: ModelConfig) -> Family:
    """The record of the text path of the model in whose folder `config` is, as an experiment takes
    it by `model`.

    ModelError when there is none, when its activations do not fit the number type, or when the
    experiment takes a decoder for an encoder or the other way: it would read the wrong token, and
    say nothing.
    """
    family_of(config)
    text = config.get_text_config()
    found = family_of(text)
    kind = "encoder" if getattr(text, "use_bidirectional_attention", None) is True else found.kind
    if not found.float16 and "float16" in (model.dtype, model.score_dtype):
        raise ModelError(
            f"model.dtype, model.score_dtype: {text.model_type} overflows float16; use bfloat16 or float32"
        )
    if kind != model.family:
        raise ModelError(
            f"model.family: {model.family}, but {text.model_type} is of kind {kind}; set model.family={kind}"
        )
    return found


def build_encoder(config: Config, folder: Path) -> PromptEncoder:
    """An experiment's prompt encoder for the model in a folder; with a label-token head, the labels
    are checked too.

    Everything that reads a prompt asks for it here first: ModelError for a model that is not known
    (`families`), or not as the experiment takes it.
    """
    tokenizer = load_tokenizer(folder)  # checks the folder, before a library opens a file of it
    settings = read_config(folder)
    family = known_family(settings, config.model)
    text = settings.get_text_config()
    encoder = PromptEncoder(
        tokenizer,
        shared_pieces(config.task, config.data.name_of("text") is not None),
        config.model.prompt,
        config.serialize.max_tokens,
        closed=config.model.family == "encoder",
        capacity=Capacity(family.longest(text), text.vocab_size),
    )
    if config.task.head == "label_tokens":
        encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    return encoder


# --------------------------------------------------------------------------------------------------
# base models


def load_base(folder: Path, config: Config, dtype: torch.dtype, device: torch.device) -> Any:
    """The language model in a folder, in evaluation mode, quantized if the method says so."""
    check_safe(folder)
    check_base(folder)
    quantized = _quantization(config, dtype)
    placed = {"quantization_config": quantized, "device_map": {"": device}} if quantized else {}
    try:
        with quiet_loading():
            model = auto_class(config.model.family).from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention_of(config.model, folder, device),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                **placed,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"{folder}: the weights cannot be loaded ({_first_line(error)})") from None
    # bitsandbytes repacks 4-bit weights for inference the first time a CPU model is evaluated, and
    # never back: training would go on after the first look at the validation part with a kernel
    # that has no gradient.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return (model if quantized else model.to(device)).eval()


def attention_of(model: ModelConfig, folder: Path, device: torch.device) -> str:
    """The asked attention, sdpa where flash attention cannot run, and the model's own code where it
    has no sdpa."""
    plain = "sdpa" if family_of(read_config(folder)).sdpa else "eager"
    if model.attention != "flash_attention_2":
        return plain if model.attention == "sdpa" else model.attention
    absent = (
        "no GPU" if device.type != "cuda" else "" if find_spec("flash_attn") else "the package flash-attn is absent"
    )
    if absent:
        log.warning("model.attention: flash_attention_2 cannot run here (%s); %s is used", absent, plain)
    return plain if absent else "flash_attention_2"


def _quantization(config: Config, dtype: torch.dtype) -> Any:
    """bitsandbytes settings, or None: NF4 with double quantization (Dettmers et al. 2023), or
    LLM.int8."""
    if config.method.quantization == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError(
            f"method {config.method.quantization} needs bitsandbytes: pip install 'cardiotune[qlora]'"
        ) from None
    if config.method.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def with_head(model: Any, config: Config, encoder: PromptEncoder) -> RiskNetwork:
    """A language model with the experiment's head on it (a fresh one, if it is a classifier)."""
    if config.task.head == "classifier":
        return ClassifierNetwork(model)
    return LabelTokenNetwork(model, encoder.label_tokens(config.task.positive_label, config.task.negative_label))


# --------------------------------------------------------------------------------------------------
# to train


def build(base: Any, config: Config, encoder: PromptEncoder) -> RiskNetwork:
    """The model to train.

    lora: the base is frozen and carries fresh adapters (Hu et al. 2021) whose weights are float32.
    full: every weight of the way from text to risk trains.
    """
    trained = _adapt(base, config) if config.method.kind == "lora" else _unfreeze(base, config.task.head)
    network = with_head(trained, config, encoder)
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


def _unfreeze(base: Any, head: str) -> Any:
    """Only what text runs through trains: a vision tower stays as it is, and is no dead weight in
    the optimizer.

    The output matrix is on that way when labels are read from it, tied to the embeddings or not.
    """
    base.requires_grad_(False)
    trunk_of(base).requires_grad_(True)
    if head == "label_tokens":
        base.get_output_embeddings().requires_grad_(True)
    # An encoder's pooler comes after the hidden states that are read, so no gradient would reach
    # it.
    if getattr(base, "pooler", None) is not None:
        base.pooler.requires_grad_(False)
    return base


def _adapt(base: Any, config: Config) -> Any:
    with quiet_loading():  # PEFT brings bitsandbytes along, slow and with a line of its own
        from peft import LoraConfig, TaskType, get_peft_model

    method = config.method
    lora = LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        use_dora=method.dora,
        use_rslora=method.rslora,
        target_modules=_targets(base, config),
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
    # Adapters are float32 and compute under autocast; PEFT would first cast every activation up to
    # float32.
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    own_output(base)
    # Not the cache folder of this machine: an adapter travels.
    adapted.peft_config["default"].base_model_name_or_path = config.model.hub_id or config.model.name
    return adapted


def _linear_layers(base: Any) -> list[str]:
    """Names of the trunk's linear layers, without the pooler, each once."""
    layers = trunk_of(base).named_modules()
    found = {n.rsplit(".", 1)[-1] for n, m in layers if isinstance(m, torch.nn.Linear) and not n.startswith("pooler")}
    return sorted(found)


def _targets(base: Any, config: Config) -> str | list[str]:
    """What PEFT is told: `all-linear` means the text path, and names mean its layers, not those of
    a vision tower beside it or of a pooler behind it. ModelError for a name that no adapter could
    train at.
    """
    trunk, wanted, top_layers = trunk_of(base), config.method.target_modules, config.method.top_layers
    if top_layers:
        check_layers(trunk, top_layers)
    prefix = next((name + "." for name, module in base.named_modules() if module is trunk and name), "")
    places = ".*"
    if top_layers:
        number = len(trunk.layers)
        places = rf"layers\.({'|'.join(map(str, range(number - top_layers, number)))})\..*"
    layers = _linear_layers(base) if wanted == "all-linear" else wanted
    before = rf"{prefix.replace('.', chr(92) + '.')}(?!pooler)"
    pattern = rf"{before}{places}\.({'|'.join(layers)})"
    if wanted != "all-linear":
        inside = places if top_layers else "(.*)"  # the last part of a layer's name may be the trunk's own
        pattern = rf"{before}{inside}(?<![^.])({'|'.join(map(re.escape, wanted))})"
        output = _output_name(base) if config.task.head == "label_tokens" and not top_layers else None
        if output and any(output == one or output.endswith(f".{one}") for one in wanted):
            pattern += f"|{re.escape(output)}"
        _check_targets(base, wanted, pattern, config)
    whole = trunk is not base and base.config.get_text_config() is base.config
    return wanted if whole and not top_layers else pattern


def _output_name(base: Any) -> str | None:
    """Name of the output matrix's layer; None in an encoder."""
    output = base.get_output_embeddings()
    return None if output is None else next(name for name, module in base.named_modules() if module is output)


def _check_targets(base: Any, wanted: list[str], pattern: str, config: Config) -> None:
    """PEFT passes over a name that matches nothing, and puts adapters where no gradient comes."""
    names = [name for name, _ in base.named_modules()]
    for one in wanted:
        found = [name for name in names if name == one or name.endswith(f".{one}")]
        if not found:
            raise ModelError(
                f"method.target_modules: {one} matches no layer of {config.model.name}; its linear layers are "
                + ", ".join(_linear_layers(base))
            )
        if not any(re.fullmatch(pattern, name) for name in found):
            where = f"is in none of the top {config.method.top_layers} layers" if config.method.top_layers else ""
            raise ModelError(
                f"method.target_modules: {one} {where or f'is not on the way to what the {config.task.head} head reads'}, "
                "so an adapter there would never train; leave it out"
            )


# --------------------------------------------------------------------------------------------------
# to score


def load_tuned(
    weights: Path, saved: Path, config: Config, encoder: PromptEncoder, dtype: torch.dtype, device: torch.device
) -> RiskNetwork:
    """The model that a run saved: an adapter on the base weights, or a whole model; with its
    trained head.

    Raises ModelError when what is saved does not fit exactly; a head is never made afresh. An
    adapter of PEFT's for sequence classification brings its own head, two scores or one.
    """
    if (saved / "adapter_config.json").is_file():
        model = _with_adapter(load_base(weights, config, dtype, device), saved)
    elif (saved / "config.json").is_file():
        model = load_base(saved, config, dtype, device)
    else:
        raise ModelError(f"{saved}: neither an adapter nor a model folder; train the run first")
    network = with_head(model, config, encoder)
    if isinstance(network, ClassifierNetwork):
        load_head(network, saved)
    return network.eval()


def load_plain(weights: Path, saved: Path, config: Config) -> Any:
    """What a run saved as a plain model of transformers: float32, on the CPU, adapters summed into
    the weights.

    Weights that were quantized are those that the adapters were trained on, written out. Errors as
    `load_tuned`.
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
    if model.get_output_embeddings() is not None and output_is_own(model):
        untie(model)
    return model


def _with_adapter(base: Any, folder: Path) -> Any:
    with quiet_loading():  # as above
        from peft import PeftConfig, PeftModel, TaskType

    if not (folder / ADAPTER_FILE).is_file():
        raise ModelError(f"{folder}: {ADAPTER_FILE} is missing; the adapter is not whole")
    check_safe(folder)
    try:
        config = PeftConfig.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - damaged files fail in many ways, all mean the same
        raise ModelError(f"{folder}: its adapter_config.json is damaged ({_first_line(error)})") from None
    _check_readable(config, folder)
    try:
        if config.task_type == TaskType.SEQ_CLS:  # its head is read by `load_head`
            others = [name for name in config.modules_to_save or [] if name not in FOREIGN_HEADS]
            config.task_type, config.modules_to_save = TaskType.CAUSAL_LM, others or None
        with quiet_loading():
            # PEFT only warns when weights are missing, and goes on with untrained ones.
            warnings.filterwarnings("error", message=".*[Mm]issing.*keys.*")
            adapted = PeftModel.from_pretrained(base, folder, is_trainable=False, config=config)
    except Exception as error:  # noqa: BLE001 - as above
        raise ModelError(f"{folder}: does not fit this base model or is damaged ({_first_line(error)})") from None
    own_output(base)
    if not getattr(base, "is_quantized", False):
        adapted.merge_adapter()  # summed in float32, rounded once
    return adapted


def _check_readable(config: Any, folder: Path) -> None:
    """ModelError for an adapter that is more than changed layers: the risk is read from the layers
    alone."""
    from peft import TaskType

    kinds = (None, TaskType.CAUSAL_LM, TaskType.SEQ_CLS, TaskType.FEATURE_EXTRACTION)
    if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
        raise ModelError(f"{folder}: an adapter of kind {config.peft_type.value} changes the prompt; expected LoRA")
    if config.peft_type.value not in ADAPTERS:
        raise ModelError(
            f"{folder}: an adapter of kind {config.peft_type.value}; expected one of {', '.join(ADAPTERS)}"
        )
    if config.task_type not in kinds:
        raise ModelError(f"{folder}: an adapter for {config.task_type}; expected one for CAUSAL_LM or SEQ_CLS")


def load_head(network: ClassifierNetwork, folder: Path) -> None:
    """Put a saved head on a classifier; ModelError when there is none or it does not fit."""
    if (found := _foreign_head(folder)) is not None:
        weight, bias = found
        network.head.weight.data, network.head.bias.data = weight.to(network.head.weight), bias.to(network.head.bias)
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
    """Whether a saved adapter or model has a classifier: ours, or that of a PEFT adapter from
    elsewhere."""
    return (folder / HEAD_FILE).is_file() or _foreign_head(folder) is not None


def _foreign_head(folder: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weights (1, width) and bias (1,) of the head in a PEFT adapter for sequence classification:
    event minus no event.

    ModelError for a head that is more than a linear layer on the last token, as those of encoders
    are.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return None
    with safe_open(folder / ADAPTER_FILE, "pt") as file:
        names = set(file.keys())
        if any(part in FOREIGN_HEADS[1:] for name in names for part in name.split(".")):
            raise ModelError(
                f"{folder}: the head of an encoder for sequence classification, which stands on a pooler; only a decoder's "
                "head can be read, so train this one here with task.head=classifier"
            )
        found = [name for name in names if name.endswith(f"{FOREIGN_HEADS[0]}.weight")]
        if not found:
            return None
        weight: torch.Tensor = file.get_tensor(found[0]).float()  # (classes, width)
        own = found[0].removesuffix("weight") + "bias"
        bias = file.get_tensor(own).float() if own in names else torch.zeros(len(weight))
    if len(weight) > 2:
        raise ModelError(f"{folder}: its head has {len(weight)} classes; expected a yes/no outcome, two or one")
    both = len(weight) == 2
    return (weight[-1:] - weight[:1], bias[-1:] - bias[:1]) if both else (weight, bias)
