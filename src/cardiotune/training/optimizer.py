"""Optimizers by name."""

import logging
from typing import Any

import torch

from cardiotune.errors import ModelError
from cardiotune.settings import MethodConfig, TrainConfig
from cardiotune.training.heads import RiskNetwork

log = logging.getLogger(__name__)


def build_optimizer(network: RiskNetwork, settings: TrainConfig, method: MethodConfig) -> torch.optim.Optimizer:
    """The optimizer over the weights that train.

    With `method.lora_plus`, the adapters' B matrices learn that many times faster than A (LoRA+,
    Hayou et al. 2024).
    """
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    fast = [weight for name, weight in named if method.lora_plus and "lora_B" in name]
    slow = [weight for name, weight in named if not (method.lora_plus and "lora_B" in name)]
    groups: list[dict[str, Any]] = [{"params": slow, "lr": settings.learning_rate}]
    if fast:
        groups.append({"params": fast, "lr": settings.learning_rate * (method.lora_plus or 1)})
    decay = settings.weight_decay
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, weight_decay=decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=decay)
    if settings.optimizer == "paged_adamw_32bit" and not torch.cuda.is_available():
        log.info("optimizer paged_adamw_32bit needs CUDA; plain AdamW is used instead, with the same arithmetic")
    elif settings.optimizer == "paged_adamw_32bit":
        try:
            from bitsandbytes.optim import PagedAdamW32bit
        except ImportError:
            raise ModelError(
                "optimizer paged_adamw_32bit needs bitsandbytes: pip install 'cardiotune[qlora]'"
            ) from None
        return PagedAdamW32bit(groups, weight_decay=decay)  # type: ignore[no-any-return]
    return torch.optim.AdamW(groups, weight_decay=decay, fused=True)  # one pass over the weights, on a CPU too
