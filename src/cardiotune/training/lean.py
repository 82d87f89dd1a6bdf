"""A leaner step: layers of a loaded network compute the same numbers with fewer passes over memory.

Matrix products aside, a training step on a CPU spends its time in reading and writing activations.
Two kinds of layer do that most: PEFT's adapters (four passes over the output beside the two
products) and root-mean-square norms (automatic differentiation keeps and reads several copies of
the input). Both get a forward and a backward pass of their own here; what they compute is what the
layers compute (tests: 1e-6 in float32).
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from cardiotune.training.heads import RiskNetwork

Tensor = torch.Tensor


def slim(network: RiskNetwork) -> None:
    """Give the layers of a network their leaner passes, where these are exact: float32 norms,
    adapters without extras."""
    family = network.family
    for module in network.modules():
        if type(module).__name__ == family.norm:
            module.forward = MethodType(_norm_forward(type(module).forward, float(family.norm_adds_one)), module)
        elif hasattr(module, "lora_A") and type(getattr(module, "base_layer", None)) is nn.Linear:  # not quantized
            module.forward = MethodType(_adapter_forward(type(module).forward), module)


# --------------------------------------------------------------------------------------------------
# norms


def _norm_forward(plain: Any, added: float) -> Any:
    def forward(self: Any, states: Tensor) -> Any:
        # In half precision the plain ones round before they scale; those that scale by one plus
        # their weight, afterwards.
        if states.dtype != torch.float32 and not added:
            return plain(self, states)
        epsilon = self.eps if hasattr(self, "eps") else self.variance_epsilon
        return _Norm.apply(states, self.weight.float() + added, epsilon)  # type: ignore[no-untyped-call]

    return forward


class _Norm(torch.autograd.Function):
    """x / root mean square of x * scale (Zhang & Sennrich 2019, eq. 4), over the last dimension;
    computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
        single, width = x.float(), x.shape[-1]
        inverse = (torch.linalg.vector_norm(single, dim=-1, keepdim=True).square_() / width + epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, inverse)
        out: Tensor = (single * inverse).mul_(scale)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        given, scale, inverse = ctx.saved_tensors
        x = given.float()
        grad_scale = (grad * x * inverse).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad_x = grad * scale  # float32, as scale is
        along = torch.linalg.vecdot(grad_x, x)[..., None] * inverse.pow(3) / x.shape[-1]
        return grad_x.mul_(inverse).addcmul_(x, along, value=-1).to(given.dtype), grad_scale, None


# --------------------------------------------------------------------------------------------------
# adapters


def _adapter_forward(plain: Any) -> Any:
    def forward(self: Any, x: Tensor, *arguments: Any, **settings: Any) -> Any:
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
        extras = arguments or settings or self.disable_adapters or self.merged or name in self.lora_variant
        if extras or name not in self.lora_A or not isinstance(self.lora_dropout[name], nn.Identity):
            return plain(self, x, *arguments, **settings)
        base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
        kind = x.device.type
        computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if a.bias is not None or b.bias is not None or base.weight.dtype != computed or base.weight.requires_grad:
            return plain(self, x)
        a, b = a.weight.to(computed), b.weight.to(computed)
        rows = x.to(computed).reshape(-1, x.shape[-1])  # (tokens, in)
        found = _Adapted.apply(rows, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)  # out here, for some models change it in place

    return forward


class _Adapted(torch.autograd.Function):
    """x W' + bias + scaling (x A') B' (Hu et al. 2021, eq. 3) of rows x (tokens, in); W is frozen,
    so only x, A and B have gradients."""

    @staticmethod
    def forward(  # tensors of one product, for PyTorch to save
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        low = rows @ a.T  # (tokens, r)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scaling = scaling
        out = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        return out.addmm_(low, b.T, alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_low, a)
        return grad_x, None, None, grad_low.T @ rows, (grad.T @ low).mul_(ctx.scaling), None
