"""Reptile's meta-step in JAX: ``grad``, ``scan`` over the steps, ``vmap``, ``jit``."""

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

Parameters = dict[str, Array]
Inner = Callable[[Parameters, Parameters, Any], tuple[Parameters, Any]]
"""inner(theta, gradient, state) -> theta, state."""


def sgd(lr: float) -> Inner:
    """Return SGD; it has no state."""
    return lambda theta, g, s: (jax.tree.map(lambda p, d: p - lr * d, theta, g), s)


def adam(lr: float, beta2: float = 0.999, eps: float = 1e-8) -> Inner:
    """Return Adam with β₁ = 0; its state is the number of steps, and v."""

    def step(theta: Parameters, g: Parameters, state: Any) -> tuple[Parameters, Any]:
        count = state["step"] + 1
        v = jax.tree.map(lambda v, d: beta2 * v + (1 - beta2) * d**2, state["v"], g)
        size = -jnp.expm1(count * log(beta2))  # 1 − β₂ᵗ; the difference loses digits

        def move(p: Array, d: Array, v: Array) -> Array:
            return p - lr * d / (jnp.sqrt(v / size) + eps)

        return jax.tree.map(move, theta, g, v), {"step": count, "v": v}

    return step


def fresh(theta: Parameters) -> Any:
    """Return Adam's state before the first step."""
    dtype = jax.tree.leaves(theta)[0].dtype
    return {"step": jnp.zeros((), dtype), "v": jax.tree.map(jnp.zeros_like, theta)}


def adapt(
    net: Callable[..., Array],
    loss: Callable[..., Array],
    inner: Inner,
    unroll: bool = False,
) -> Any:
    """Return U(φ, state, x [S, ...], y [S, ...], order [k, b]): k steps on a task.

    `unroll` writes the k steps out, one behind the other, instead of making a loop.
    """

    def task(phi: Parameters, state: Any, x: Array, y: Array, order: Array) -> Any:
        def step(now: Any, batch: Array) -> Any:
            of = lambda theta: loss(net(theta, x[batch]), y[batch])  # noqa: E731
            value, g = jax.value_and_grad(of)(now[0])
            return inner(now[0], g, now[1]), value

        (theta, state), losses = lax.scan(step, (phi, state), order, unroll=unroll)
        return theta, state, losses

    return task


@partial(jax.jit, static_argnums=0)
def meta_step(
    task: Any, phi: Parameters, state: Any, tasks: Any, epsilon: float
) -> Any:
    """Return φ + ε · mean of (φ̃ᵢ − φ), the mean state, and the mean loss."""
    found = jax.vmap(task, (None, None, 0, 0, 0))(phi, state, *tasks)
    theta, state, loss = jax.tree.map(lambda t: t.mean(0), found)
    phi = jax.tree.map(lambda p, q: p + epsilon * (q - p), phi, theta)
    return phi, state, loss.mean()
