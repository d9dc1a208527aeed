"""The cross-entropy of a stack of tasks, with its gradient written out."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


def reduction(criterion: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """Return what cross-entropy makes of the examples; None if it is another loss."""
    if criterion is F.cross_entropy:
        return "mean"
    if isinstance(criterion, partial) and criterion.func is F.cross_entropy:
        only = not criterion.args and set(criterion.keywords) == {"reduction"}
        return criterion.keywords["reduction"] if only else None
    return None


def with_gradient(logits: Tensor, y: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """Return losses [n] and their gradients by the logits.

    Args:
        logits: [n, B, ways].
        y: labels in [0, ways), int64 [n, B].
        summed: whether the loss is summed over the examples; else it is their mean.
    """
    scores, chosen = logits.log_softmax(2), y[:, :, None]
    divisor = 1 if summed else y.shape[1]
    values = scores.gather(2, chosen).neg_()
    d = scores.exp_().scatter_add_(2, chosen, -torch.ones_like(values)).div_(divisor)
    return values.sum((1, 2)).div_(divisor), d
