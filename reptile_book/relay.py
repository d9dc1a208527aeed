"""A φ that one framework trains and the others read: the same answers, task by task.

::

    python -m reptile_book.relay

trains Conv4 with few filters on letters in torch, JAX and Keras, each with its loop of
`reptile_lib.frameworks`, and writes φ as safetensors. Then each adapts each φ to the
same 40 new tasks and answers their queries, and so does the library. All of it in
float64: rounding turns no answer over. It prints a line per trainer.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # before TensorFlow: after it, torch's LLVM ends the process
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from reptile_book.conformance import FRAMEWORKS, installed, last
from reptile_lib import FewShotTasks, Reptile, conv4, evaluate, load, sgd
from reptile_lib.frameworks import weights
from reptile_lib.frameworks.weights import Weights, channels_first, channels_last
from reptile_lib.rng import TEST, TRAIN
from reptile_lib.tasks import Episodes

WAYS, FILTERS, SIDE, RATE = 5, 8, 28, 0.3
META_STEPS, INNER_STEPS, INNER_BATCH, TASKS = 100, 5, 10, 40
Given = tuple[NDArray[Any], ...]
"""Support x [n, S, ...] and y [n, S], order [n, k, b]."""


@dataclass(frozen=True)
class Twin:
    """The meta-step of a framework, with its own kind of weights."""

    enter: Callable[[Weights], Any]
    """Weights of a file -> φ."""
    meta_step: Callable[[Any, Given, float], Any]
    """φ, tasks, ε -> φ"""
    answer: Callable[[Any, NDArray[Any]], NDArray[Any]]
    """φ, pictures [B, ...] -> logits [B, ways]"""
    leave: Callable[[Any], Weights]
    """Undo `enter`."""
    channels_last: bool


def network() -> nn.Module:
    """Return the network in torch."""
    return conv4(WAYS, size=SIDE, filters=FILTERS).double()


@cache
def letters(part: str) -> FewShotTasks:
    """Return tasks of train or test letters: five to tell apart, from five drawings."""
    return FewShotTasks(getattr(load("glyphs"), part), WAYS, 5, query_shots=5)


@cache
def drawn(part: str, count: int, seed: int = 0) -> Episodes:
    """Return tasks; of test letters, those of `evaluate`."""
    stream = TRAIN if part == "train" else TEST
    how = {"inner_steps": INNER_STEPS, "inner_batch": INNER_BATCH}
    found = letters(part).draw(count, seed, stream=stream, **how)
    return found.for_model(torch.zeros((), dtype=torch.float64))


def given(twin: Twin, tasks: Episodes) -> Given:
    """Return what a meta-step takes of the tasks."""
    (x, y), _, order = tasks
    assert isinstance(x, torch.Tensor)
    return _pictures(twin, x), y.numpy(), order.numpy()


def _pictures(twin: Twin, x: torch.Tensor) -> NDArray[Any]:
    return last(x) if twin.channels_last else x.numpy()


def trained(twin: Twin) -> Weights:
    """Train φ, a task per meta-step; ε falls to zero."""
    phi = twin.enter({n: p.detach().numpy() for n, p in network().named_parameters()})
    for step in range(META_STEPS):
        tasks = given(twin, drawn("train", 1, step))
        phi = twin.meta_step(phi, tasks, 1 - step / META_STEPS)
    return twin.leave(phi)


def answers(twin: Twin, file: Path) -> NDArray[Any]:
    """Adapt the φ of a file to each task and return the answers [tasks, queries].

    A meta-step with one task and ε = 1 ends at the weights that fit this task.
    """
    tasks = drawn("test", TASKS)
    phi, found = twin.enter(weights.read(file)), []
    x, y, order = given(twin, tasks)
    assert isinstance(tasks.query.x, torch.Tensor)
    queries = _pictures(twin, tasks.query.x)
    for i in range(TASKS):
        one = x[i : i + 1], y[i : i + 1], order[i : i + 1]
        theta = twin.meta_step(phi, one, 1.0)
        found.append(twin.answer(theta, queries[i]).argmax(1))
    return np.stack(found)


def right(answered: NDArray[Any]) -> NDArray[Any]:
    """Return the share of right answers in each task."""
    share: NDArray[Any] = (answered == drawn("test", TASKS).query.y.numpy()).mean(1)
    return share


def right_in_library(file: Path) -> NDArray[Any]:
    """Return the same by the library's `evaluate`."""
    net = network()
    read = {name: torch.from_numpy(w) for name, w in weights.read(file).items()}
    net.load_state_dict(read)
    learner = Reptile(net, sgd(RATE), INNER_STEPS, inner_batch=10, device="cpu")
    scores = evaluate(learner, letters("test"), inner_steps=INNER_STEPS, count=TASKS)
    return scores.transductive.values.numpy()


def torch_twin() -> Twin:
    """Return the loop of `frameworks.torch_loop`."""
    from torch.func import functional_call

    from reptile_lib.frameworks import torch_loop as loop

    net = network()
    task = loop.adapt(net, F.cross_entropy, loop.sgd(RATE))

    def meta_step(phi: Any, tasks: Given, epsilon: float) -> Any:
        given = tuple(map(torch.from_numpy, tasks))
        return loop.meta_step(task, phi, {}, given, epsilon)[0]

    def answer(phi: Any, x: NDArray[Any]) -> NDArray[Any]:
        outputs = functional_call(net, phi, (torch.from_numpy(x),))
        logits: NDArray[Any] = outputs.detach().numpy()
        return logits

    return Twin(
        lambda w: {name: torch.from_numpy(value) for name, value in w.items()},
        meta_step,
        answer,
        lambda phi: {name: value.detach().numpy() for name, value in phi.items()},
        channels_last=False,
    )


def jax_twin() -> Twin:
    """Return the loop of `frameworks.jax_loop`."""
    import jax

    from reptile_lib.frameworks import jax_loop as loop
    from reptile_lib.frameworks import jax_nets as nets

    order = [name for name, _ in network().named_parameters()]
    task = loop.adapt(nets.conv4, nets.cross_entropy, loop.sgd(RATE))
    net = jax.jit(nets.conv4)

    def enter(given: Weights) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(jax.numpy.asarray, channels_last(given))

    def meta_step(phi: Any, tasks: Given, epsilon: float) -> Any:
        with jax.enable_x64(True):
            return loop.meta_step(task, phi, None, tasks, epsilon)[0]

    def answer(phi: Any, x: NDArray[Any]) -> NDArray[Any]:
        with jax.enable_x64(True):
            return np.asarray(net(phi, x))

    def leave(phi: Any) -> Weights:
        return channels_first({name: np.asarray(phi[name]) for name in order})

    return Twin(enter, meta_step, answer, leave, channels_last=True)


def keras_twin() -> Twin:
    """Return the loop of `frameworks.keras_loop`."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    from reptile_lib.frameworks import keras_loop as loop
    from reptile_lib.frameworks import keras_nets as nets

    net = nets.conv4(WAYS, size=SIDE, filters=FILTERS, dtype="float64")
    step = loop.meta_step(net, nets.cross_entropy, loop.sgd(RATE))
    rest = [v.value for v in net.non_trainable_variables]
    order = [name for name, _ in network().named_parameters()]

    def meta_step(phi: Any, tasks: Given, epsilon: float) -> Any:
        given = tuple(map(tf.constant, tasks))
        return step(phi, (), given, tf.constant(epsilon, tf.float64))[0]

    def answer(phi: Any, x: NDArray[Any]) -> NDArray[Any]:
        logits, _ = net.stateless_call(phi, rest, x, training=True)
        return np.asarray(logits)

    return Twin(
        lambda given: nets.enter(net, channels_last(given)),
        meta_step,
        answer,
        lambda phi: channels_first(nets.leave(net, phi, order)),
        channels_last=True,
    )


TWINS = {"torch": torch_twin, "jax": jax_twin, "keras": keras_twin}


@cache
def twin(framework: str) -> Twin:
    """Return a framework's twin; always the same one, so that graphs are reused."""
    return TWINS[framework]()


def compare(twins: Mapping[str, Twin]) -> bool:
    """Print a line per trainer; return whether all answers are alike."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for trainer in twins:
            file = Path(folder, f"{trainer}.safetensors")
            weights.write(file, trained(twins[trainer]))
            found = {reader: answers(it, file) for reader, it in twins.items()}
            expected = right(found[trainer])
            alike = {n: bool((a == found[trainer]).all()) for n, a in found.items()}
            alike["library"] = bool((right_in_library(file) == expected).all())
            good &= all(alike.values())
            words = ", ".join(n if same else f"NOT {n}" for n, same in alike.items())
            print(f"{trainer}: {100 * expected.mean():.1f} % right; alike: {words}")
    return good


def main() -> int:
    """Print the table; return 0 if all answers are alike, else 1."""
    names = installed()
    for missing in sorted({*FRAMEWORKS} - {*names}):
        print(f"{missing} is left out: {FRAMEWORKS[missing]} is not installed")
    return 0 if compare({name: twin(name) for name in names}) else 1


if __name__ == "__main__":
    sys.exit(main())
