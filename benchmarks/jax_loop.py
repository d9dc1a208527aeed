"""The meta-step in JAX, for the clock: `reptile_lib.frameworks.jax_loop`. Needs jax.

Images have channels last, as JAX's convolutions like them on a CPU. Parameters come in
and go out as reptile_lib's flat vector, so that results can be compared.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

# Else JAX takes most of a GPU's memory at once, and torch finds none.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import torch
from jax import Array
from jax import numpy as jnp

from benchmarks.problems import Cell
from reptile_lib.frameworks import jax_loop as loop
from reptile_lib.frameworks import jax_nets as nets
from reptile_lib.frameworks.weights import channels_first, channels_last
from reptile_lib.params import Layout, unravel
from reptile_lib.tasks import Episodes

Parameters = loop.Parameters

CNN = partial(loop.adapt, nets.conv4, nets.cross_entropy, loop.adam(1e-3))
TASKS = {
    "sine": loop.adapt(nets.mlp, nets.squared_error, loop.sgd(0.02)),
    "conv4": CNN(),
}


def enter(phi: torch.Tensor, where: Layout) -> Parameters:
    """Turn the vector φ [P] into JAX's parameters."""
    named = unravel(phi.detach().cpu(), where)
    turned = channels_last({name: value.numpy() for name, value in named.items()})
    return {name: jnp.asarray(value) for name, value in turned.items()}


def leave(phi: Parameters, where: Layout) -> torch.Tensor:
    """Undo `enter`."""
    found = channels_first({name: np.asarray(phi[name]) for name in where.names})
    return torch.cat([torch.from_numpy(value).flatten() for value in found.values()])


def arrays(tasks: Episodes) -> tuple[Array, Array, Array]:
    """Return support x [n, S, ...], channels last, y [n, S, ...], order [n, k, b]."""
    given = *tasks.support, tasks.order
    x, y, order = (t.cpu().numpy() for t in given if isinstance(t, torch.Tensor))
    if x.ndim == 5:
        x = x.transpose(0, 1, 3, 4, 2)
    return jnp.asarray(x), jnp.asarray(y), jnp.asarray(order)


def meta_step(
    name: str, phi: Parameters, x: Array, y: Array, order: Array, epsilon: float
) -> Parameters:
    """Return φ + ε · mean of (φ̃ᵢ − φ) for tasks stacked on a leading axis."""
    theta, *_ = jax.vmap(partial(TASKS[name], phi, loop.fresh(phi)))(x, y, order)
    return jax.tree.map(lambda p, q: p + epsilon * (q.mean(0) - p), phi, theta)


def compiled(
    cell: Cell, phi: Parameters, tasks: tuple[Array, ...], epsilon: float
) -> Callable[..., Parameters]:
    """Compile the meta-step of one cell; it takes (phi, x, y, order).

    On a CPU a convolution inside a loop of JAX takes several times as long as outside,
    and one that `vmap` has grouped twice as long (seen with jax 0.10). So there Conv4
    goes from task to task, with its inner steps written out.
    """
    if cell.problem == "conv4" and jax.default_backend() == "cpu":
        return _in_turn(phi, tasks, epsilon)

    def step(phi: Parameters, x: Array, y: Array, order: Array) -> Parameters:
        return meta_step(cell.problem, phi, x, y, order, epsilon)

    # Else a GPU rounds the factors of products to 10 bits, which torch is told not to.
    with jax.default_matmul_precision("float32"):
        done: Callable[..., Parameters] = jax.jit(step).lower(phi, *tasks).compile()
    return done


def _in_turn(
    phi: Parameters, tasks: tuple[Array, ...], epsilon: float
) -> Callable[..., Parameters]:
    written_out = CNN(unroll=True)

    def add(phi: Parameters, total: Parameters, *task: Array) -> Parameters:
        theta, *_ = written_out(phi, loop.fresh(phi), *task)
        return jax.tree.map(jnp.add, total, theta)

    def move(phi: Parameters, total: Parameters) -> Parameters:
        share = epsilon / len(tasks[0])
        return jax.tree.map(lambda p, q: (1 - epsilon) * p + share * q, phi, total)

    one = [t[0] for t in tasks]
    add = jax.jit(add).lower(phi, phi, *one).compile()
    move = jax.jit(move).lower(phi, phi).compile()

    def step(phi: Parameters, *tasks: Array) -> Parameters:
        total = jax.tree.map(jnp.zeros_like, phi)
        for task in zip(*tasks, strict=True):
            total = add(phi, total, *task)
        return move(phi, total)

    return step


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
