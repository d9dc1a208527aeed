"""Do other frameworks find the library's φ, from the same weights and tasks?

::

    python -m reptile_book.conformance                  (all that are installed)
    python -m reptile_book.conformance --only jax --json

Each cell takes three meta-steps on the same batches of tasks by `reptile_lib.meta` and
by a loop of `reptile_lib.frameworks`. What is printed is the largest difference of a
weight of φ, and whether all queries get the same answer after adaptation. Adam divides
a gradient by its own size, so where the first one of a loop is zero but for its
rounding, rounding decides on a step of full length. Such weights are left out: biases
in front of a batch norm, and those whose first gradient is below 10⁻⁵ of the largest.
How many they are is printed. Tasks of Conv4 are drawn anew where a ReLU stands on its
edge (`steady`).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.distributions.sine import Sine
from reptile_lib.examples import Examples
from reptile_lib.fast.choose import make_kernel
from reptile_lib.frameworks.weights import Weights, channels_first, channels_last
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import outer_step, reptile
from reptile_lib.models.conv4 import conv4
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import adam, sgd
from reptile_lib.params import layout, ravel, unravel
from reptile_lib.rng import TRAIN
from reptile_lib.tasks import Batch, Episodes, draw_tasks

FRAMEWORKS = {"torch": "torch", "jax": "jax", "keras": "tensorflow"}
"""The loops, and the package that each needs."""
SIZES, FILTERS, SIDE, WAYS = (1, 16, 16, 1), 8, 28, 3
META_STEPS, EPSILON = 3, 0.5
RATES = {"sgd": 0.05, "adam": 0.002}
NEAR_ZERO = 1e-5  # of the largest gradient: rounding reaches as far
MOVED = 1e-6  # of a weight: as far as float32 may be off after some layers
BOUNDS = {"float64": 1e-10, "float32": 1e-5}


@dataclass(frozen=True)
class Cell:
    """What is compared."""

    model: str
    """dense or conv4"""
    inner: str
    """sgd, adam (fresh in every meta-step) or adam carried"""
    inner_steps: int
    tasks: int
    precision: str
    """float64 or float32"""


def cells() -> Iterator[Cell]:
    """Yield all cells of the table."""
    shapes = {"dense": ((1, 3), (4, 1), (10, 3)), "conv4": ((1, 3), (3, 3), (10, 1))}
    for precision, (model, pairs) in product(BOUNDS, shapes.items()):
        for (k, n), inner in product(pairs, ("sgd", "adam", "adam carried")):
            yield Cell(model, inner, k, n, precision)


def net_of(cell: Cell) -> nn.Module:
    """Return the network at its start."""
    if cell.model == "dense":
        net = mlp(*SIZES, activation=nn.Tanh, seed=1)
    else:
        net = conv4(WAYS, size=SIDE, filters=FILTERS, seed=1)
    return net.to(getattr(torch, cell.precision))


@cache
def steady(cell: Cell) -> int:
    """Return which draw of tasks to take: the first that does not hang on rounding.

    A ReLU that stands on its edge is turned on or off by the last digit of its input,
    and with it all that follows. Whether one does, weights tell that are moved by some
    of float32's last digits, in float64 and by the library alone.
    """
    if cell.model == "dense":  # tanh has no edge
        return 0
    exact = replace(cell, precision="float64")
    for draw in range(50):
        phi, _, told = with_library(exact, draw)
        others = [with_library(exact, draw, moved)[0] for moved in range(1, 7)]
        off = max(
            float(np.abs((other[n] - phi[n]) * told[n]).max())
            for other in others
            for n in phi
            if not _before_norm(n)
        )
        if off < BOUNDS["float32"]:
            return draw
    raise ValueError(f"no steady tasks for {cell}")


def batches(cell: Cell, draw: int | None = None) -> list[Episodes]:
    """Return the tasks of each meta-step, and behind them those of an evaluation."""
    draw = steady(cell) if draw is None else draw
    like = torch.zeros((), dtype=getattr(torch, cell.precision))
    how: dict[str, Any] = {"inner_steps": cell.inner_steps, "inner_batch": 4}
    tasks: Any = Sine(points=8, query_points=6)
    if cell.model == "conv4":
        # noise: of drawings, all the paper has one value, and where that is near the
        # edge of a ReLU, rounding turns hundreds of pixels on or off at once
        noise = torch.Generator().manual_seed(0)
        pictures = torch.rand(9, 4, 1, SIDE, SIDE, generator=noise, dtype=torch.float64)
        classes = Examples(pictures.to(like), tuple(map(str, range(9))))
        tasks = FewShotTasks(classes, WAYS, 2, query_shots=2)
    return [
        draw_tasks(tasks, cell.tasks, seed, stream=TRAIN, **how).for_model(like)
        for seed in range(10 * draw, 10 * draw + META_STEPS + 1)
    ]


def numbers(model: nn.Module, phi: Tensor) -> Weights:
    """Return a vector [P] as arrays by name."""
    named = unravel(phi.detach(), layout(model))
    return {name: value.numpy() for name, value in named.items()}


def with_library(
    cell: Cell, draw: int | None = None, moved: int = 0
) -> tuple[Weights, NDArray[Any], Weights]:
    """Return φ after the meta-steps, answers [tasks, queries, ...], and what counts.

    The last is True for weights whose first gradients are not near zero.

    Args:
        cell: what is compared.
        draw: of the tasks; None takes the steady ones.
        moved: a seed of small changes to the start; 0 leaves it.
    """
    net, tasks = net_of(cell), batches(cell, draw)
    start = ravel(net)
    if moved:
        noise = torch.Generator().manual_seed(moved)
        factors = torch.randn(len(start), generator=noise, dtype=torch.float64)
        start = start * (1 + MOVED * factors)
    criterion = F.mse_loss if cell.model == "dense" else F.cross_entropy
    kernel = make_kernel(net, criterion, device=torch.device("cpu"))
    inner = {"sgd": sgd, "adam": adam}[cell.inner.split()[0]](rate(cell))
    U, phi, state = InnerLoop(kernel, inner), kernel.pack(start), None
    counts = torch.ones_like(phi, dtype=torch.bool)
    for some in tasks[:-1]:
        if "adam" in cell.inner and state is None:
            g, _ = U.gradient(phi.expand(cell.tasks, -1), first_batch(some))
            size = g.abs()
            counts &= (size > NEAR_ZERO * size.amax(1, keepdim=True)).all(0)
        target = reptile(U, phi, some, state)
        phi, _ = outer_step(phi, target.phi, EPSILON)
        state = target.state if "carried" in cell.inner else None
    theta = U(phi, tasks[-1].support, tasks[-1].order, state).theta
    answers = kernel.outputs(theta, tasks[-1].query.x)
    told = numbers(net, kernel.unpack(counts))
    return numbers(net, kernel.unpack(phi)), answers.detach().numpy(), told


def first_batch(tasks: Episodes) -> Batch:
    """Return what the first inner step of each task takes."""
    rows = tasks.order[:, 0]
    each = torch.arange(len(rows))[:, None]
    return tasks.support.map(lambda t: t[each, rows])


def rate(cell: Cell) -> float:
    """Return α."""
    return RATES[cell.inner.split()[0]]


def with_torch(cell: Cell) -> tuple[Weights, NDArray[Any]]:
    """Do as `with_library` with the loop of `frameworks.torch_loop`."""
    from torch.func import functional_call, vmap

    from reptile_lib.frameworks import torch_loop as loop

    net, tasks = net_of(cell), batches(cell)
    loss = F.mse_loss if cell.model == "dense" else F.cross_entropy
    inner = {"sgd": loop.sgd, "adam": loop.adam}[cell.inner.split()[0]](rate(cell))
    task = loop.adapt(net, loss, inner)
    phi = unravel(ravel(net), layout(net))
    state = first = loop.fresh(phi)
    for (x, y), _, order in tasks[:-1]:
        phi, state, _ = loop.meta_step(task, phi, state, (x, y, order), EPSILON)
        state = state if "carried" in cell.inner else first
    (x, y), query, order = tasks[-1]
    theta, *_ = vmap(task, (None, None, 0, 0, 0))(phi, state, x, y, order)
    answers = vmap(lambda t, q: functional_call(net, t, (q,)))(theta, query.x)
    found = {name: value.detach().numpy() for name, value in phi.items()}
    return found, answers.detach().numpy()


def with_jax(cell: Cell) -> tuple[Weights, NDArray[Any]]:
    """Do as `with_library` with the loop of `frameworks.jax_loop`."""
    import jax

    jax.config.update("jax_enable_x64", cell.precision == "float64")
    from reptile_lib.frameworks import jax_loop as loop

    task, net = _jax_parts(cell.model, cell.inner.split()[0])
    model = net_of(cell)
    start = channels_last(numbers(model, ravel(model)))
    phi = {name: jax.numpy.asarray(value) for name, value in start.items()}
    tasks = [
        tree_map(lambda t: jax.numpy.asarray(last(t)), some) for some in batches(cell)
    ]
    state = first = loop.fresh(phi)
    for (x, y), _, order in tasks[:-1]:
        phi, state, _ = loop.meta_step(task, phi, state, (x, y, order), EPSILON)
        state = state if "carried" in cell.inner else first
    answers = []
    for alone, x in one_by_one(tasks[-1], jax.numpy.stack):
        theta, *_ = loop.meta_step(task, phi, state, alone, 1.0)
        answers.append(np.asarray(net(theta, x)))
    # jit sorts a dict by name
    found = {n: np.asarray(phi[n]) for n in start}
    return channels_first(found), np.stack(answers)


@cache
def _jax_parts(model: str, inner: str) -> tuple[Any, Any]:
    """Return a task and a network; the same ones, so that jit knows them."""
    import jax

    from reptile_lib.frameworks import jax_loop as loop
    from reptile_lib.frameworks import jax_nets as nets

    net, loss = {
        "dense": (nets.mlp, nets.squared_error),
        "conv4": (nets.conv4, nets.cross_entropy),
    }[model]
    made = {"sgd": loop.sgd, "adam": loop.adam}[inner](RATES[inner])
    return loop.adapt(net, loss, made), jax.jit(net)


def one_by_one(tasks: Any, stack: Callable[..., Any]) -> Iterator[tuple[Any, Any]]:
    """Yield for each of n tasks a meta-batch of this one n times, and its queries.

    A meta-step on it with ε = 1 ends at the task's θ, and of the shape of the steps
    before it, so that nothing is compiled anew.
    """
    (x, y), query, order = tasks
    n = len(y)
    for i in range(n):
        yield tuple(stack([t[i]] * n) for t in (x, y, order)), query.x[i]


def last(x: Tensor) -> NDArray[Any]:
    """Return pictures [n, B, C, H, W] channels last; other arrays as they are."""
    return (x.permute(0, 1, 3, 4, 2) if x.dim() == 5 else x).numpy()


def with_keras(cell: Cell) -> tuple[Weights, NDArray[Any]]:
    """Do as `with_library` with the loop of `frameworks.keras_loop`."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from reptile_lib.frameworks import keras_loop as loop
    from reptile_lib.frameworks import keras_nets as nets

    net, step = _keras_parts(cell.model, cell.inner.split()[0], cell.precision)
    model = net_of(cell)
    start = numbers(model, ravel(model))
    phi = nets.enter(net, channels_last(start))
    tasks = [tree_map(lambda t: tf.constant(last(t)), some) for some in batches(cell)]
    state = first = loop.fresh(phi)
    epsilon = tf.constant(EPSILON, phi[0].dtype)
    for (x, y), _, order in tasks[:-1]:
        phi, state, _ = step(phi, state, (x, y, order), epsilon)
        state = state if "carried" in cell.inner else first
    one = tf.constant(1.0, phi[0].dtype)
    rest = [v.value for v in net.non_trainable_variables]
    answers = []
    for alone, x in one_by_one(tasks[-1], tf.stack):
        theta, *_ = step(phi, state, alone, one)
        answers.append(net.stateless_call(theta, rest, x, training=True)[0])
    found = nets.leave(net, phi, list(start))
    return channels_first(found), np.stack([np.asarray(a) for a in answers])


@cache
def _keras_parts(model: str, inner: str, precision: str) -> tuple[Any, Any]:
    """Return a network and its meta-step; the same ones, so that graphs are reused."""
    from reptile_lib.frameworks import keras_loop as loop
    from reptile_lib.frameworks import keras_nets as nets

    if model == "dense":
        net, loss = nets.mlp(*SIZES, dtype=precision), nets.squared_error
    else:
        net = nets.conv4(WAYS, size=SIDE, filters=FILTERS, dtype=precision)
        loss = nets.cross_entropy
    made = {"sgd": loop.sgd, "adam": loop.adam}[inner](RATES[inner])
    return net, loop.meta_step(net, loss, made)


LOOPS: dict[str, Callable[[Cell], tuple[Weights, NDArray[Any]]]] = {
    "torch": with_torch,
    "jax": with_jax,
    "keras": with_keras,
}


def compared(framework: str, cell: Cell) -> dict[str, Any]:
    """Return what a cell of the table says."""
    expected, truth, counts = with_library(cell)
    found, answers = LOOPS[framework](cell)
    assert list(found) == list(expected)
    off, left_out = 0.0, 0
    for name, value in expected.items():
        told = counts[name] & (not _before_norm(name))
        left_out += int(told.size - told.sum())
        if told.any():
            off = max(off, float(np.abs(found[name] - value)[told].max()))
    if cell.model == "conv4":
        same = bool((answers.argmax(-1) == truth.argmax(-1)).all())
    else:
        same = bool(np.abs(answers - truth).max() < 100 * BOUNDS[cell.precision])
    return {
        "framework": framework,
        **asdict(cell),
        "difference": off,
        "bound": BOUNDS[cell.precision],
        "left_out": left_out,
        "same_answers": same,
    }


def _before_norm(name: str) -> bool:
    return name.startswith("convolutions") and name.endswith("bias")


def installed() -> list[str]:
    """Return the frameworks that can be imported."""
    return [name for name, package in FRAMEWORKS.items() if find_spec(package)]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 0 if all cells are within their bounds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m reptile_book.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=FRAMEWORKS, help="one of the frameworks")
    parser.add_argument("--json", action="store_true", help="a line of JSON per cell")
    options = parser.parse_args(arguments)
    good = True
    for framework in [options.only] if options.only else installed():
        for cell in cells():
            found = compared(framework, cell)
            good &= found["difference"] <= found["bound"] and found["same_answers"]
            if options.json:
                print(json.dumps(found), flush=True)
            else:
                words = "{framework:6} {model:6} {inner:13} k = {inner_steps:2}"
                words += ", {tasks} tasks, {precision}: {difference:.1e}"
                words += ", {left_out} left out, same answers: {same_answers}"
                print(words.format(**found), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
