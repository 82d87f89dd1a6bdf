"""Weights that no longer change, laid out for the processor once and not in every product.

PyTorch multiplies float32 on a CPU by MKL, which keeps to half the width of some processors'
vectors, and lays the weights out anew in every call. oneDNN, which PyTorch brings too and uses in
bfloat16, does neither when it may keep the weights in its own layout, and it applies the activation
and the gate's multiplication before the product leaves the cache. Only scoring can have it: there
is no gradient, and the plain weights are gone afterwards.
"""

import platform
from types import MethodType
from typing import Any

import torch
from torch import nn

from cardiotune.training.machine import computes_in_bfloat16

ACTIVATIONS = {"GELUTanh": ("gelu", "tanh"), "SiLUActivation": ("swish", ""), "SiLU": ("swish", "")}
"""Class of an activation -> what oneDNN calls it, and the algorithm."""


def fix_weights(trunk: nn.Module, gated: str = "") -> None:
    """Give a network's linear layers and gated feed-forward networks oneDNN's products, where it
    has them.

    gated: class of its feed-forward networks that are gated and nothing more, as its record in
    `families` says. float32 and, where the processor computes in it, bfloat16, on an x86 CPU;
    quantized layers and those with an adapter that is not summed into them stay as they are.
    Results differ from the plain layers' as two orders of summation do.
    """
    adapted = [module for module in trunk.modules() if hasattr(module, "lora_A")]
    kept = {part for module in adapted for part in module.modules()}
    kept -= {module.base_layer for module in adapted if module.merged}
    fixed = {layer for layer in trunk.modules() if type(layer) is nn.Linear and _has_kernel(layer.weight)} - kept
    for layer in fixed:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        del layer.weight
        layer.register_buffer("weight", weight, persistent=False)
        layer.forward = MethodType(_linear, layer)  # type: ignore[method-assign]
    for module in trunk.modules():
        if type(module).__name__ == gated:
            layers = [_inner(layer) for layer in (module.gate_proj, module.up_proj, module.down_proj)]
            activation = ACTIVATIONS.get(type(module.act_fn).__name__)
            if activation and fixed.issuperset(layers) and layers[1].bias is None:
                module.forward = MethodType(_gated(*activation), module)


def _has_kernel(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):  # type: ignore[no-untyped-call]
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and computes_in_bfloat16(weight.device))


def _inner(layer: Any) -> Any:
    """A layer, or what stands under its adapter when that is summed into it."""
    return layer.base_layer if getattr(layer, "merged", False) else layer


def _linear(self: Any, x: torch.Tensor, activation: str = "none", algorithm: str = "") -> Any:
    """x W' + bias, and an activation of it."""
    return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], algorithm)


def _gated(activation: str, algorithm: str) -> Any:
    def forward(self: Any, x: torch.Tensor) -> Any:
        """(activation(x G') * x U') D' (Shazeer 2020, eq. 6)."""
        gate, up, down = _inner(self.gate_proj), _inner(self.up_proj), _inner(self.down_proj)
        opened = gate(x, activation, algorithm)
        return down(torch.ops.mkldnn._linear_pointwise.binary(x, opened, up.weight, None, "mul"))

    return forward
