"""Reptile's meta-step in PyTorch alone: ``torch.func.grad`` and ``vmap``."""

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

Parameters = dict[str, Tensor]
Inner = Callable[[Parameters, Parameters, Any], tuple[Parameters, Any]]
"""inner(theta, gradient, state) -> theta, state."""


def sgd(lr: float) -> Inner:
    """Return SGD; it has no state."""
    return lambda theta, g, state: ({n: theta[n] - lr * g[n] for n in theta}, state)


def adam(lr: float, beta2: float = 0.999, eps: float = 1e-8) -> Inner:
    """Return Adam with β₁ = 0; its state is the number of steps, and v by name."""

    def step(theta: Parameters, g: Parameters, state: Any) -> tuple[Parameters, Any]:
        count = state["step"] + 1
        v = {n: beta2 * state["v"][n] + (1 - beta2) * g[n] ** 2 for n in g}
        size = -torch.expm1(count * log(beta2))  # 1 − β₂ᵗ; the difference loses digits
        moved = {n: theta[n] - lr * g[n] / ((v[n] / size).sqrt() + eps) for n in g}
        return moved, {"step": count, "v": v}

    return step


def fresh(theta: Parameters) -> Any:
    """Return Adam's state before the first step."""
    some = next(iter(theta.values()))
    return {"step": some.new_zeros(()), "v": tree_map(torch.zeros_like, theta)}


def adapt(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inner: Inner
) -> Callable[..., tuple[Parameters, Any, Tensor]]:
    """Return U(φ, state, x [S, ...], y [S, ...], order [k, b]): k steps on a task."""

    def task(phi: Parameters, state: Any, x: Tensor, y: Tensor, order: Tensor) -> Any:
        def of(theta: Parameters, batch: Tensor) -> Tensor:
            return loss(functional_call(net, theta, (x[batch],)), y[batch])

        theta, losses = phi, []
        for batch in order:
            g, value = grad_and_value(of)(theta, batch)
            theta, state = inner(theta, g, state)
            losses.append(value)
        return theta, state, torch.stack(losses)

    return task


def meta_step(
    task: Any, phi: Parameters, state: Any, tasks: Any, epsilon: float
) -> Any:
    """Return φ + ε · mean of (φ̃ᵢ − φ), the mean state, and the mean loss."""
    found = vmap(task, (None, None, 0, 0, 0))(phi, state, *tasks)
    theta, state, loss = tree_map(lambda t: t.mean(0), found)
    return {n: phi[n] + epsilon * (theta[n] - phi[n]) for n in phi}, state, loss.mean()
