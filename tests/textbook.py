"""The serial loop as textbooks have it: deepcopy, backward(), torch.optim.

It shares no code with reptile_lib, which the tests compare with it.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

Criterion = Callable[[Tensor, Tensor], Tensor]
Inputs = Tensor | tuple[Tensor, ...]


def model_at(model: nn.Module, phi: Tensor) -> nn.Module:
    """Return a copy of `model` with the parameters `phi`."""
    copy = deepcopy(model)
    vector_to_parameters(phi.clone(), copy.parameters())
    return copy


def vector(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


def rows(x: Inputs, which: Tensor | int | slice) -> tuple[Tensor, ...]:
    """Return these examples (or this task's), an entry for each argument of a model."""
    return tuple(t[which] for t in (x if isinstance(x, tuple) else (x,)))


def gradient(
    model: nn.Module, criterion: Criterion, x: Inputs, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient as a vector, and the loss."""
    loss = criterion(model(*rows(x, slice(None))), y)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return parameters_to_vector(parts), loss.detach()


def descend(
    model: nn.Module,
    optimizer: Optimizer,
    criterion: Criterion,
    x: Inputs,
    y: Tensor,
    order: Iterable[Tensor],
    threshold: float = -torch.inf,
) -> list[float]:
    """Take a step on each minibatch of one task, in place; return the losses.

    Stop where the loss of a minibatch is below the threshold.
    """
    losses: list[float] = []
    for batch in order:
        optimizer.zero_grad()
        loss = criterion(model(*rows(x, batch)), y[batch])
        if loss.item() < threshold:
            break
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def unrolled(
    model: nn.Module,
    phi: Tensor,
    criterion: Criterion,
    x: Inputs,
    y: Tensor,
    order: Iterable[Tensor],
    lr: float,
) -> Tensor:
    """Return the loss on all of a task after SGD steps, as a function of φ."""

    def loss(theta: Tensor, batch: Tensor) -> Tensor:
        named = dict(model.named_parameters())
        parts = theta.split([p.numel() for p in named.values()])
        views = {
            name: part.view_as(p)
            for (name, p), part in zip(named.items(), parts, strict=True)
        }
        return criterion(functional_call(model, views, rows(x, batch)), y[batch])

    theta = phi
    for batch in order:
        (g,) = torch.autograd.grad(loss(theta, batch), theta, create_graph=True)
        theta = theta - lr * g
    return loss(theta, torch.arange(len(y)))


class OneRateAWeight(Optimizer):
    """Another optimiser's steps at rate 1, each move times the weight's own rate."""

    def __init__(self, model: nn.Module, steps: Optimizer, rates: Tensor) -> None:
        super().__init__(model.parameters(), {})
        self.model, self.steps, self.rates = model, steps, rates

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        before = vector(self.model)
        self.steps.step()
        move = vector(self.model) - before
        vector_to_parameters(before + self.rates * move, self.model.parameters())


class WithLastGradient(Optimizer):
    """SGD along the gradient plus half of the last one's."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__(model.parameters(), {})
        self.model, self.lr = model, lr
        self.last = torch.zeros_like(vector(model))

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        g = torch.cat([p.grad.flatten() for p in self.model.parameters()])  # type: ignore[union-attr]
        theta = vector(self.model) - self.lr * (g + 0.5 * self.last)
        self.last = g.clone()
        vector_to_parameters(theta, self.model.parameters())


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
