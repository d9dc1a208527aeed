"""The serial loop as textbooks have it: deepcopy, backward(), torch.optim.

It shares no code with reptile_lib, which the tests compare with it.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

Criterion = Callable[[Tensor, Tensor], Tensor]


def model_at(model: nn.Module, phi: Tensor) -> nn.Module:
    """Return a copy of `model` with the parameters `phi`."""
    copy = deepcopy(model)
    vector_to_parameters(phi.clone(), copy.parameters())
    return copy


def vector(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


def gradient(
    model: nn.Module, criterion: Criterion, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient as a vector, and the loss."""
    loss = criterion(model(x), y)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return parameters_to_vector(parts), loss.detach()


def descend(
    model: nn.Module,
    optimizer: Optimizer,
    criterion: Criterion,
    x: Tensor,
    y: Tensor,
    order: Iterable[Tensor],
) -> list[float]:
    """Take a step on each minibatch of one task, in place; return the losses."""
    losses = []
    for batch in order:
        optimizer.zero_grad()
        loss = criterion(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def adam_from(
    model: nn.Module, state: dict[str, Tensor], lr: float, betas: tuple[float, float]
) -> torch.optim.Adam:
    """Return an Adam that goes on from flat moments, as reptile_lib keeps them."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=betas)
    sizes = [p.numel() for p in model.parameters()]
    v = state["v"].split(sizes)
    m = state["m"].split(sizes) if "m" in state else [torch.zeros_like(s) for s in v]
    for p, first, second in zip(model.parameters(), m, v, strict=True):
        optimizer.state[p] = {
            "step": state["step"].clone(),
            "exp_avg": first.view_as(p).clone(),
            "exp_avg_sq": second.view_as(p).clone(),
        }
    return optimizer
