"""The meta-step in JAX: jit(vmap(scan)). Needs jax.

Images have channels last, as JAX's convolutions like them on a CPU. Parameters come in
and go out as reptile_lib's flat vector, so that results can be compared.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

# Else JAX takes most of a GPU's memory at once, and torch finds none.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import torch
from jax import Array, lax
from jax import numpy as jnp

from benchmarks.problems import Cell
from reptile_lib.params import Layout
from reptile_lib.tasks import Episodes

TOGETHER = 5
"""Conv4 tasks that are vmapped at once on a CPU.

With more, a task takes three times as long there (seen with jax 0.10), so that JAX does
better to go through them in groups of 4.
"""

Parameters = dict[str, Array]
"""By torch's name; filters are [3, 3, C, 64], linear weights [inputs, outputs]."""


def enter(phi: torch.Tensor, where: Layout) -> Parameters:
    """Turn the vector φ [P] into JAX's parameters."""
    found = {}
    parts = phi.detach().cpu().split(where.sizes)
    for name, shape, part in zip(where.names, where.shapes, parts, strict=True):
        value = part.view(shape).numpy()
        if name == "out.weight":  # [ways, 64, h, h]: features come channels first
            side = round((shape[1] / 64) ** 0.5)
            value = value.reshape(shape[0], 64, side, side).transpose(2, 3, 1, 0)
            value = value.reshape(-1, shape[0])
        elif len(shape) == 4:
            value = value.transpose(2, 3, 1, 0)
        elif len(shape) == 2:
            value = value.T
        found[name] = jnp.asarray(value)
    return found


def leave(phi: Parameters, where: Layout) -> torch.Tensor:
    """Undo `enter`."""
    parts = []
    for name, shape in zip(where.names, where.shapes, strict=True):
        value = np.asarray(phi[name])
        if name == "out.weight":
            side = round((shape[1] / 64) ** 0.5)
            value = value.reshape(side, side, 64, shape[0]).transpose(3, 2, 0, 1)
        elif len(shape) == 4:
            value = value.transpose(3, 2, 0, 1)
        elif len(shape) == 2:
            value = value.T
        parts.append(torch.from_numpy(value.reshape(-1).copy()))
    return torch.cat(parts)


def arrays(tasks: Episodes) -> tuple[Array, Array, Array]:
    """Return support x [n, S, ...], channels last, y [n, S, ...], order [n, k, b]."""
    given = *tasks.support, tasks.order
    x, y, order = (t.cpu().numpy() for t in given if isinstance(t, torch.Tensor))
    if x.ndim == 5:
        x = x.transpose(0, 1, 3, 4, 2)
    return jnp.asarray(x), jnp.asarray(y), jnp.asarray(order)


def sine_loss(theta: Parameters, x: Array, y: Array) -> Array:
    """Return the mean squared error of the network 1-64-64-1, tanh."""
    for layer in ("0", "2"):
        x = jnp.tanh(x @ theta[f"{layer}.weight"] + theta[f"{layer}.bias"])
    return jnp.mean((x @ theta["4.weight"] + theta["4.bias"] - y) ** 2)


def conv4_loss(theta: Parameters, x: Array, y: Array) -> Array:
    """Return the cross-entropy of Conv4 on images x [b, 28, 28, 1], labels y [b]."""
    for i in range(4):
        w, bias = (theta[f"convolutions.{i}.{name}"] for name in ("weight", "bias"))
        axes = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=axes)
        x = x + bias
        x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-3)
        x = jax.nn.relu(x * theta[f"norms.{i}.weight"] + theta[f"norms.{i}.bias"])
    logits = x.reshape(len(x), -1) @ theta["out.weight"] + theta["out.bias"]
    scores = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(scores, y[:, None], 1))


def sgd(theta: Parameters, g: Parameters, v: Parameters, step: Array) -> Any:
    """Take a step of SGD; v and step are not used."""
    return jax.tree.map(lambda p, g: p - 0.02 * g, theta, g), v


def adam(theta: Parameters, g: Parameters, v: Parameters, step: Array) -> Any:
    """Take a step of Adam with β₁ = 0, the `step`-th from 1 on."""
    v = jax.tree.map(lambda v, g: 0.999 * v + (1 - 0.999) * g * g, v, g)
    correction = -jnp.expm1(step * np.log(0.999))

    def move(p: Array, g: Array, v: Array) -> Array:
        return p - 1e-3 * g / (jnp.sqrt(v / correction) + 1e-8)

    return jax.tree.map(move, theta, g, v), v


LOSSES = {"sine": sine_loss, "conv4": conv4_loss}
UPDATES = {"sine": sgd, "conv4": adam}


def adapt(name: str, phi: Parameters, x: Array, y: Array, order: Array) -> Parameters:
    """Run k inner steps on one task: x [S, ...], y [S, ...], order [k, b]."""

    def step(carry: Any, now: Any) -> Any:
        (theta, v), (batch, count) = carry, now
        g = jax.grad(LOSSES[name])(theta, x[batch], y[batch])
        return UPDATES[name](theta, g, v, count), None

    v = jax.tree.map(jnp.zeros_like, phi)
    dtype = jax.tree.leaves(phi)[0].dtype
    counts = jnp.arange(1, len(order) + 1, dtype=dtype)
    (theta, _), _ = lax.scan(step, (phi, v), (order, counts))
    return theta


def meta_step(
    name: str, phi: Parameters, x: Array, y: Array, order: Array, epsilon: float
) -> Parameters:
    """Return φ + ε · mean of (φ̃ᵢ − φ) for tasks stacked on a leading axis."""
    adapt_all = jax.vmap(partial(adapt, name, phi))
    if name == "conv4" and len(x) > TOGETHER and jax.default_backend() == "cpu":
        adapt_all = partial(_in_groups, partial(adapt, name, phi))
    adapted = adapt_all(x, y, order)
    return jax.tree.map(lambda p, q: p + epsilon * (q.mean(0) - p), phi, adapted)


def _in_groups(adapt_one: Callable[..., Parameters], *tasks: Array) -> Parameters:
    return lax.map(lambda task: adapt_one(*task), tasks, batch_size=4)


def compiled(
    cell: Cell, phi: Parameters, tasks: tuple[Array, ...], epsilon: float
) -> Callable[..., Parameters]:
    """Compile the meta-step of one cell; it takes (phi, x, y, order)."""

    def step(phi: Parameters, x: Array, y: Array, order: Array) -> Parameters:
        return meta_step(cell.problem, phi, x, y, order, epsilon)

    # Else a GPU rounds the factors of products to 10 bits, which torch is told not to.
    with jax.default_matmul_precision("float32"):
        done: Callable[..., Parameters] = jax.jit(step).lower(phi, *tasks).compile()
    return done


def run(
    step: Callable[..., Parameters],
    phi: Parameters,
    batches: Sequence[tuple[Array, ...]],
    meta_steps: int,
) -> Parameters:
    """Do meta-steps on the tasks of `batches`, over and over; wait for the last."""
    for i in range(meta_steps):
        phi = step(phi, *batches[i % len(batches)])
    return jax.block_until_ready(phi)
