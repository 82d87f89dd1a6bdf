"""The training loss, in one place."""

import torch


def mean_log_loss(logits: torch.Tensor, events: torch.Tensor, rows: int) -> torch.Tensor:
    """Sum of the rows' log-losses divided by `rows`, the rows of the whole optimizer step.

    logits, events: (rows of this forward pass,). Dividing by the step's rows, not the pass's, makes the gradient the
    same however the step is cut into passes.
    """
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, events, reduction="sum")
    return losses / rows
