"""Those that race: each does meta-steps of one cell and returns the seconds.

All start from the same φ and see the same tasks. The library draws them inside the
timing, as `fit` does; the others are handed tasks drawn beforehand.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from benchmarks import plain_calls, textbook
from benchmarks.problems import EPSILON, SINE_LR, Cell, episodes, learner, problem
from benchmarks.timing import synchronize
from reptile_lib import Episodes
from reptile_lib.fit.graphs import IN_A_ROW
from reptile_lib.frameworks import torch_loop
from reptile_lib.params import layout, ravel, unravel

NO_JAX = "JAX is left out: it is in requirements-frameworks.txt"
NO_KERAS = "Keras is left out: it is in requirements-frameworks.txt"


def drawn(cell: Cell, device: torch.device) -> list[Episodes]:
    """Draw the tasks of up to 16 meta-steps, 256 tasks at most."""
    tasks = problem(cell.problem, cell.ways, device).tasks
    count = max(1, min(16, 256 // cell.meta_batch))
    return [episodes(cell, tasks, step, device) for step in range(count)]


class Library:
    """`MetaLearner.fit` in the middle of a run; with several processes, this one's.

    On a CPU the timing is that of the whole call. On a GPU `fit` begins by recording
    graphs, which pays in a run of thousands of meta-steps, not in the few of a
    repetition: there, full rounds of drawing go by before the clock starts.
    """

    def __init__(self, cell: Cell, device: torch.device, **settings: Any) -> None:
        """Make the learner of a cell with these `settings` of `MetaLearner`."""
        self.cell, self.device = cell, device
        self.learner, self.tasks = learner(cell, device, **settings)
        self.begin: Callable[[], None] = lambda: None
        """Called when the clock starts."""
        self.skipped = 0
        if device.type == "cuda":
            drawn_at_once = max(1, self.learner.at_once // cell.meta_batch)
            # in which all graphs are met: rows, and single meta-steps with a state
            rounds = max(2, -(-(IN_A_ROW + 2) // drawn_at_once))
            self.skipped = drawn_at_once * rounds

    def __call__(self, meta_steps: int) -> float:
        """Do the next meta-steps of the run."""
        self.learner.history.clear()
        total = self.learner.state.meta_step + self.skipped + meta_steps
        waiting, began = True, 0.0

        def epsilon(done: float) -> float:  # `fit` asks for it before a meta-step
            nonlocal waiting, began
            if waiting and round(done * total) >= total - meta_steps:
                waiting = False
                synchronize(self.device)
                self.begin()
                began = time.perf_counter()
            return EPSILON

        if not self.skipped:
            epsilon(1.0)
        self.learner.fit(
            self.tasks,
            meta_steps=total,
            meta_batch=self.cell.meta_batch,
            epsilon=epsilon,
        )
        synchronize(self.device)
        return time.perf_counter() - began

    @property
    def phi(self) -> Tensor:
        """φ [P] as it is now."""
        return self.learner.phi


class Textbook:
    """The serial loop of `textbook`."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        self.problem, self.device = problem(cell.problem, cell.ways, device), device
        self.batches = drawn(cell, device)

    def __call__(self, meta_steps: int) -> float:
        """Do meta-steps on the drawn tasks, over and over."""
        it = self.problem
        began = time.perf_counter()
        for i in range(meta_steps):
            tasks = self.batches[i % len(self.batches)]
            textbook.meta_step(it.model, it.criterion, it.optimizer, tasks, EPSILON)
        synchronize(self.device)
        return time.perf_counter() - began

    @property
    def phi(self) -> Tensor:
        """φ [P] as it is now."""
        return parameters_to_vector(self.problem.model.parameters()).detach()


class PlainCalls:
    """The loop of `plain_calls`; for the sine problem, on a CPU."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        self.phi = ravel(problem(cell.problem, cell.ways, device).model)
        self.batches = drawn(cell, device)

    def __call__(self, meta_steps: int) -> float:
        """Do meta-steps on the drawn tasks, over and over."""
        began = time.perf_counter()
        for i in range(meta_steps):
            tasks = self.batches[i % len(self.batches)]
            self.phi = plain_calls.meta_step(self.phi, tasks, SINE_LR, EPSILON)
        return time.perf_counter() - began


class Torch:
    """The loop of `frameworks.torch_loop`: `vmap` of what `torch.func.grad` makes."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        it = problem(cell.problem, cell.ways, device)
        inner = {"sine": torch_loop.sgd(SINE_LR), "conv4": torch_loop.adam(1e-3)}
        self.task = torch_loop.adapt(it.model, it.criterion, inner[cell.problem])
        self.parameters = unravel(ravel(it.model), layout(it.model))
        self.fresh = torch_loop.fresh(self.parameters)
        self.device = device
        like = next(iter(self.parameters.values()))
        self.batches = [tasks.for_model(like) for tasks in drawn(cell, device)]

    def __call__(self, meta_steps: int) -> float:
        """Do meta-steps on the drawn tasks, over and over."""
        began = time.perf_counter()
        for i in range(meta_steps):
            (x, y), _, order = self.batches[i % len(self.batches)]
            self.parameters, *_ = torch_loop.meta_step(
                self.task, self.parameters, self.fresh, (x, y, order), EPSILON
            )
        synchronize(self.device)
        return time.perf_counter() - began

    @property
    def phi(self) -> Tensor:
        """φ [P] as it is now."""
        return torch.cat([value.flatten() for value in self.parameters.values()])


class Jax:
    """The compiled loop of `jax_loop`; making one compiles it."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        from benchmarks import jax_loop

        self.loop = jax_loop
        it = problem(cell.problem, cell.ways, device)
        self.where = layout(it.model)
        self.parameters = jax_loop.enter(ravel(it.model), self.where)
        self.batches = [jax_loop.arrays(tasks) for tasks in drawn(cell, device)]
        began = time.perf_counter()
        self.step = jax_loop.compiled(cell, self.parameters, self.batches[0], EPSILON)
        self.compile_seconds = time.perf_counter() - began

    def __call__(self, meta_steps: int) -> float:
        """Do meta-steps on the drawn tasks, over and over."""
        began = time.perf_counter()
        self.parameters = self.loop.run(
            self.step, self.parameters, self.batches, meta_steps
        )
        return time.perf_counter() - began

    @property
    def phi(self) -> Tensor:
        """φ [P] as it is now."""
        return self.loop.leave(self.parameters, self.where)


class Keras:
    """The graph of `keras_loop`; making one traces it and runs it once. On a CPU."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        from benchmarks import keras_loop

        self.loop = keras_loop
        it = problem(cell.problem, cell.ways, device)
        self.where = layout(it.model)
        self.net, self.step = keras_loop.made(cell, str(ravel(it.model).dtype))
        self.weights = keras_loop.enter(self.net, ravel(it.model), self.where)
        self.batches = [keras_loop.tensors(tasks) for tasks in drawn(cell, device)]
        began = time.perf_counter()
        keras_loop.run(self.step, self.weights, self.batches, 1)
        self.compile_seconds = time.perf_counter() - began

    def __call__(self, meta_steps: int) -> float:
        """Do meta-steps on the drawn tasks, over and over."""
        began = time.perf_counter()
        self.weights = self.loop.run(self.step, self.weights, self.batches, meta_steps)
        return time.perf_counter() - began

    @property
    def phi(self) -> Tensor:
        """φ [P] as it is now."""
        return self.loop.leave(self.net, self.weights, self.where)


def keras_version(device: torch.device) -> str | None:
    """Return TensorFlow's version; None where it is missing, and on a GPU."""
    if device.type != "cpu" or find_spec("tensorflow") is None:
        return None
    from benchmarks import keras_loop

    return keras_loop.VERSION


def jax_version(device: torch.device) -> str | None:
    """Return JAX's version; None where it is missing or cannot use `device`."""
    if find_spec("jax") is None:
        return None
    from benchmarks import jax_loop  # sets JAX up

    jax: Any = vars(jax_loop)["jax"]

    usable: Any = device.type == "cpu" or jax.default_backend() == "gpu"
    version: str = jax.__version__
    return version if usable else None
