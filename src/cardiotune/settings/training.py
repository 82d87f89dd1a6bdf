"""The recipe: class imbalance, DeepSpeed, steps, processes."""

from typing import Literal

from pydantic import Field

from cardiotune.settings.strict import Settings, Share


class Oversample(Settings):
    """Repeat training rows of one outcome."""

    label: Literal[0, 1] = 1
    """Outcome of the rows that are repeated: 1 is an event."""
    times: float = Field(1, ge=1)
    """How many rows there are in the end for each row of this label."""
    to_prevalence: float | None = Field(None, gt=0, lt=1)
    """Instead of `times`: repeat events until they are this share of the training rows."""


class Imbalance(Settings):
    """Class weights and oversampling: off by default, training part only, and taken out of the
    probabilities again."""

    class_weights: Literal["none", "balanced"] | tuple[float, float] = "none"
    """Loss weight of a row without and with the event; `balanced` gives both outcomes the same
    total weight."""
    oversample: Oversample | None = None
    """Default: no row is repeated."""


class DeepSpeed(Settings):
    """ZeRO (Rajbhandari et al. 2020)."""

    name: str = "zero2"
    """What the report calls it."""
    stage: Literal[2, 3] = 2
    """2 cuts gradients and optimizer among the processes, 3 the weights as well."""
    offload_optimizer: bool = False
    """Keep the optimizer in the processor's memory."""
    offload_weights: bool = False
    """Stage 3: keep the weights there too."""


class TrainConfig(Settings):
    """The recipe's numbers."""

    epochs: float = Field(3, gt=0)
    """Passes over the training part; 0.5 is half of one."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; stops before `epochs` when given."""
    batch_size: int = Field(8, ge=1)
    """Rows per forward pass."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    optimizer: Literal["adamw", "paged_adamw_32bit", "adafactor", "sgd"] = "adamw"
    """`adamw` keeps two numbers a trained weight; `paged_adamw_32bit` (bitsandbytes, a GPU) moves
    them out of the GPU's memory where that is short; `adafactor` keeps far fewer; `sgd` one
    (momentum 0.9)."""
    start_from: str | None = None
    """A run folder, or one of an adapter or a model, whose trained weights the training begins
    from; of the same base model, method and head. Default: fresh adapters, or the base model's
    weights."""
    teacher: Literal["logistic_regression", "lightgbm"] | None = None
    """A model on columns whose risks of the training rows, with all their columns, are learned from
    beside the outcomes: they are less noisy, and the language model reads them off any wording
    (distillation: Hinton et al., arXiv 1503.02531, section 2). Fitted on the training part alone.
    Default: outcomes alone."""
    teacher_weight: Share = 0.8
    """What its risks count beside the outcomes, in the target of a row's log-loss."""
    learning_rate: float = Field(4e-4, gt=0)
    """The highest, at the end of the warm-up. Full fine-tuning wants about a twentieth
    of LoRA's."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: to zero along a cosine or a line, or not."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """Share of a weight, times the learning rate, that a step takes off it."""
    max_grad_norm: float = Field(1.0, gt=0)
    """A gradient of a larger norm is scaled down to it."""
    evaluate_every: int | None = Field(None, ge=1)
    """Optimizer steps between two looks at the validation part. Default: once an epoch, and at the
    end."""
    select_on: Literal["log_loss", "brier", "auroc"] = "log_loss"
    """Validation metric that picks the checkpoint."""
    early_stopping: int | None = Field(3, ge=1)
    """Stop after this many looks without a better one; null never stops."""
    gradient_checkpointing: bool = False
    """Compute hidden states again in the backward pass instead of keeping them: less memory, a
    third slower."""
    save_every: int | None = Field(None, ge=1)
    """Optimizer steps between two checkpoints, beside those at every look at the validation
    part."""
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints to keep, beside the best one."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process. Default: the physical cores, divided by the processes."""


class LaunchConfig(Settings):
    """Processes."""

    processes: int = Field(1, ge=1)
    """Processes on this machine."""
