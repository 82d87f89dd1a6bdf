"""PEFT's adapted linear layers with less traffic: the same weights and files, the same numbers, fewer passes over memory.

PEFT computes the adapter's share apart, scales it, casts it and adds it, and autograd does all that again backwards.
Here the share is accumulated onto the frozen layer's result by the matrix multiplication itself.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear


def slim(model: torch.nn.Module) -> None:
    """Give every plainly adapted linear layer the lean forward pass; others (quantized, DoRA) keep PEFT's."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear and not module.lora_variant:
            module.__class__ = LeanLinear


class LeanLinear(Linear):  # type: ignore[misc]
    """PEFT's linear layer, lean where it has one adapter without dropout; elsewhere as PEFT computes it."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., width in) -> (..., width out)."""
        unlike = self.disable_adapters or self.merged or args or kwargs or len(self.active_adapters) != 1
        name = self.active_adapters[0] if not unlike else ""
        if unlike or (self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity)):
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        weight, bias = self.base_layer.weight, self.base_layer.bias
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return _LoraLinear.apply(x, weight, bias, down, up, self.scaling[name])  # type: ignore[no-any-return,no-untyped-call]


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + scaling (x A') B', with gradients of x, A and B; W and bias are frozen.

    x (..., in), W (out, in), A (rank, in), B (out, rank). Computes in W's type, or autocast's; a gradient has the type of
    what it is the gradient of.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        device = weight.device.type
        if torch.is_autocast_enabled(device):
            weight = weight.to(torch.get_autocast_dtype(device))
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        down_cast, up_cast = down.to(weight.dtype), (up * scaling).to(weight.dtype)
        low = rows @ down_cast.T  # (rows, rank)
        result = torch.nn.functional.linear(rows, weight, bias).addmm_(low, up_cast.T)
        ctx.save_for_backward(rows, weight, low, down_cast, up_cast)
        ctx.scaling, ctx.shape, ctx.types = scaling, x.shape, (x.dtype, down.dtype, up.dtype)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        rows, weight, low, down, up = ctx.saved_tensors
        x_type, down_type, up_type = ctx.types
        gradient = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        low_gradient = gradient @ up  # (rows, rank)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight).addmm_(low_gradient, down).view(ctx.shape).to(x_type)
        of_down = (low_gradient.T @ rows).to(down_type)
        of_up = (gradient.T @ low).to(up_type) * ctx.scaling
        return of_x, None, None, of_down, of_up, None
