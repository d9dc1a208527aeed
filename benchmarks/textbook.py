"""The meta-step as textbooks have it: deepcopy, backward(), torch.optim.

One task after the other. It shares no code with the library's loops.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reptile_lib import Episodes


def meta_step(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    tasks: Episodes,
    epsilon: float,
) -> None:
    """Move the parameters φ of `model`, in place: φ ← φ + ε · mean of (φ̃ᵢ − φ).

    Args:
        model: holds φ.
        criterion: criterion(outputs, y) -> scalar loss.
        optimizer: makes the inner optimiser of some parameters; each task gets its own.
        tasks: support x [n, S, ...] and y [n, S, ...], order [n, k, b].
        epsilon: outer step size ε.
    """
    sums = [torch.zeros_like(p) for p in model.parameters()]
    for x, y, order in zip(*tasks.support, tasks.order, strict=True):
        adapted = deepcopy(model)
        inner = optimizer(adapted.parameters())
        for batch in order:
            inner.zero_grad()
            criterion(adapted(x[batch]), y[batch]).backward()
            inner.step()
        with torch.no_grad():
            for total, p in zip(sums, adapted.parameters(), strict=True):
                total += p
    with torch.no_grad():
        for p, total in zip(model.parameters(), sums, strict=True):
            p.add_(epsilon * (total / len(tasks.order) - p))
