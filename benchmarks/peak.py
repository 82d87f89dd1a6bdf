"""What the processor can do at best, and how much of it a model needs: the two sides of a share of
the peak."""

import time
from pathlib import Path

import torch

from cardiotune.training.fixed_weights import fix_weights

SIZES = (1024, 2048, 4096)
"""Rows and columns of the square matrices."""
LONGEST = 1.5
"""Seconds of one product, at most."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def multiplication_peak(sizes: tuple[int, ...] = SIZES, repeats: int = 3) -> dict[str, float]:
    """Type -> the highest GFLOP/s of a linear layer over square `sizes`, plain or with fixed
    weights; 2 n^3 FLOP each.

    Where the hardware does not compute in a type, larger matrices would take minutes and tell
    nothing more: a product is left out when it would take longer than `LONGEST`.
    """
    found = {}
    for name, dtype in TYPES.items():
        rates: list[float] = []
        for size in sorted(sizes):
            if rates and 2 * size**3 / rates[-1] / 1e9 > LONGEST:
                break
            rates.append(_rate(size, dtype, repeats))
        found[name] = max(rates)
    return found


@torch.no_grad()
def _rate(size: int, dtype: torch.dtype, repeats: int) -> float:
    x, layer = torch.randn(size, size, dtype=dtype), torch.nn.Linear(size, size, bias=False, dtype=dtype)
    seconds = []
    for change in (None, fix_weights):
        if change:
            change(layer)
        layer(x)  # the first call chooses and prepares a kernel
        for _ in range(repeats):
            start = time.perf_counter()
            layer(x)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def weights_multiplied(folder: Path) -> int:
    """Weights that every token is multiplied with: those of the model without embeddings and output
    matrix."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        trunk = AutoModel.from_config(settings, trust_remote_code=False)
    total = sum(weight.numel() for weight in trunk.parameters())
    return int(total - trunk.get_input_embeddings().weight.numel())


def flop_per_token(weights: int, training: bool) -> int:
    """FLOP that one token needs: 2 a weight to score; 4 to train adapters, whose frozen base
    weights take part in the forward pass and in the way of the gradient back through the
    activations, but get no gradient of their own.

    Left out, for all contenders alike: attention scores, adapters (a few percent) and the output
    matrix, which one logit a row does not need. So a share of the peak that is computed from it is
    a little too low.
    """
    return (4 if training else 2) * weights
