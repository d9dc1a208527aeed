"""What a task is, and the task distributions of the book.

A distribution has two methods: `to` moves its data to a device, and `sample` returns
the tasks that `Draws` names, as stacked tensors. Sine waves, few-shot classification
and groups of rows are here, quadratic bowls in `theory.quadratics`; any object with
these methods will do.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Inputs, each
from reptile_lib.rng import ORDER, TEST, Draws, draws


class Batch(NamedTuple):
    """Examples and what to answer, of one task or stacked on a leading task axis."""

    x: Inputs
    """``[..., examples, *shape]``; a tuple of such where a model takes several."""
    y: Tensor
    """``[..., examples]`` or ``[..., examples, *shape]``"""

    def map(self, act: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `act` to every tensor."""
        return Batch(each(act, self.x), act(self.y))


class Episodes(NamedTuple):
    """The data of m tasks."""

    support: Batch
    """[m, S, ...]: what the inner loop learns from."""
    query: Batch
    """[m, Q, ...]: held out, to measure what was learnt."""
    order: Tensor = torch.empty(0, 0, 0, dtype=torch.int64)
    """[m, k, b]: which support examples make up each minibatch.

    The learner cuts them (`minibatches`), unless the distribution has done it.
    """

    def map(self, act: Callable[[Tensor], Tensor]) -> "Episodes":
        """Apply `act` to every tensor."""
        return Episodes(self.support.map(act), self.query.map(act), act(self.order))

    def for_model(self, phi: Tensor) -> "Episodes":
        """Return the tasks with floats of φ's type, and labels of the usual one."""
        found = self.map(lambda t: t.to(phi) if t.is_floating_point() else t)

        def labelled(batch: Batch) -> Batch:
            y = batch.y
            return batch if y.is_floating_point() else batch._replace(y=y.long())

        return found._replace(
            support=labelled(found.support), query=labelled(found.query)
        )


class Tasks(Protocol):
    """A task distribution."""

    def to(self, device: torch.device) -> "Tasks":
        """Return the distribution with its data on `device`."""
        ...

    def sample(self, draws: Draws) -> Episodes:
        """Return the tasks of `draws`, on the device of `draws`, without minibatches.

        The slot `rng.ORDER` of `draws` is for the minibatches.
        """
        ...


def minibatches(
    episodes: Episodes, draws: Draws, inner_steps: int, inner_batch: int | None
) -> Episodes:
    """Cut reshuffled passes over the support sets into minibatches.

    As the Reptile authors' code does: examples are drawn without replacement, the order
    is shuffled anew whenever it runs out, and a minibatch may span that seam. None for
    `inner_batch` takes all examples in every step (full batch).
    """
    size = episodes.support.y.shape[1]
    b = size if inner_batch is None else inner_batch
    check_positive(inner_batch=b)
    passes = -(-inner_steps * b // size)
    orders = draws.permutations(ORDER, passes, size).flatten(1)
    order = orders[:, : inner_steps * b].reshape(len(orders), inner_steps, b)
    return episodes._replace(order=order)


def draw_tasks(
    tasks: Tasks,
    count: int = 1,
    seed: int = 0,
    *,
    stream: int = TEST,
    inner_steps: int = 0,
    inner_batch: int | None = None,
) -> Episodes:
    """Draw `count` tasks on the CPU, to look at; `fit` and `evaluate` draw their own.

    Args:
        tasks: the distribution.
        count: how many.
        seed: which ones; those of `evaluate` with this seed.
        stream: `rng.TRAIN`, `VALIDATE` or `TEST`.
        inner_steps: k, minibatches a task.
        inner_batch: examples a minibatch; None takes the whole support set.

    >>> tasks = draw(Sine(points=10), 3, inner_steps=5, inner_batch=4)
    >>> tasks.support.x.shape, tasks.query.y.shape, tasks.order.shape
    (torch.Size([3, 10, 1]), torch.Size([3, 100, 1]), torch.Size([3, 5, 4]))
    """
    cpu = torch.device("cpu")
    who = draws(seed, stream, range(1), range(count), cpu)
    return minibatches(tasks.to(cpu).sample(who), who, inner_steps, inner_batch)


draw = draw_tasks  # a function here, and a method of the distributions below


def in_parts(
    sample: Callable[[range, range], Episodes], steps: range, tasks: range, at_most: int
) -> Iterator[Iterator[Episodes]]:
    """Draw the tasks of many meta-steps, holding at most `at_most` of them at a time.

    Args:
        sample: sample(steps, tasks) -> the tasks of these meta-steps, step by step.
        steps: meta-steps.
        tasks: numbers of the tasks within a meta-step.
        at_most: how many tasks to draw at once.

    Yields:
        for each meta-step, its tasks in parts.
    """
    n = len(tasks)
    if n > at_most:
        for step in steps:
            some = (tasks[i : i + at_most] for i in range(0, n, at_most))
            yield (sample(range(step, step + 1), few) for few in some)
        return
    together = max(1, at_most // max(1, n))
    for first in range(steps.start, steps.stop, together):
        chunk = range(first, min(first + together, steps.stop))
        episodes = sample(chunk, tasks)
        for i in range(len(chunk)):
            rows = slice(i * n, (i + 1) * n)
            yield iter([episodes.map(lambda t, rows=rows: t[rows])])  # type: ignore[misc]


def check_positive(**counts: int) -> None:
    """Raise UserError for a number below 1."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} = {value}; give at least 1")


@dataclass(frozen=True)
class Sine:
    """Regression on sine waves y = a sin(x + b) (Finn et al. 2017, section 5.1).

    Amplitude a ~ U[0.1, 5], phase b ~ U[0, 2π], support inputs x ~ U[−5, 5]. The query
    set is an even grid over [−5, 5], so that query losses are integrals, not samples.

    >>> support, query, _ = draw(Sine(points=10, query_points=5))
    >>> support.x.shape, query.x.flatten()
    (torch.Size([1, 10, 1]), tensor([-5.0000, -2.5000,  0.0000,  2.5000,  5.0000]))
    """

    points: int = 10
    query_points: int = 100

    draw = draw_tasks

    def __post_init__(self) -> None:
        """Raise UserError for fewer than one point."""
        check_positive(points=self.points, query_points=self.query_points)

    def to(self, device: torch.device) -> "Sine":
        """Return itself: there is no data to move."""
        return self

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x and y of shape [m, points, 1]."""
        a, b = draws.uniform(0, 2, 1, 1).unbind(1)  # [m, 1, 1]
        a, b = 0.1 + 4.9 * a, 2 * math.pi * b
        support_x = 10 * draws.uniform(1, self.points, 1) - 5
        grid = torch.linspace(-5, 5, self.query_points, dtype=a.dtype, device=a.device)
        query_x = grid[:, None].expand(len(a), -1, -1)
        dtype = torch.get_default_dtype()
        support, query = (
            Batch(x.to(dtype), (a * torch.sin(x + b)).to(dtype))
            for x in (support_x, query_x)
        )
        return Episodes(support, query)


@dataclass(frozen=True)
class FewShotTasks:
    """N-way classification of classes drawn at random.

    Each task picks `ways` classes, numbers them at random, and takes `shots` examples
    of each for the support set and `query_shots` others for the query set. Pixels are
    scaled to [0, 1]; ink is 0, as in the Reptile authors' code.

    >>> from reptile_lib import load
    >>> tasks = FewShotTasks(load("glyphs").train, ways=3, shots=2)
    >>> support, query, _ = draw(tasks)
    >>> support.x.shape, support.y, query.y
    (torch.Size([1, 6, 1, 28, 28]), tensor([[0, 0, 1, 1, 2, 2]]), tensor([[0, 1, 2]]))
    """

    classes: Examples
    ways: int
    shots: int
    query_shots: int = 1

    draw = draw_tasks

    def __post_init__(self) -> None:
        """Raise UserError if the classes or their examples do not suffice."""
        check_positive(ways=self.ways, shots=self.shots, query_shots=self.query_shots)
        if not isinstance(self.classes, Examples):
            raise UserError(
                f"classes are a {type(self.classes).__name__}; give Examples, such as"
                ' load("glyphs").train'
            )
        count, fewest = len(self.classes), min(self.classes.counts, default=0)
        if self.ways > count:
            raise UserError(
                f"ways = {self.ways}, but there are {count} classes; ask for at most"
                f" {count} ways"
            )
        if self.shots + self.query_shots > fewest:
            raise UserError(
                f"shots = {self.shots} and query_shots = {self.query_shots}, but a"
                f" class has {fewest} examples; ask for at most {fewest} together"
            )

    def to(self, device: torch.device) -> "FewShotTasks":
        """Return the tasks with their examples on `device`."""
        return replace(self, classes=self.classes.to(device))

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x [m, ways·shots, ...] and labels y [m, ways·shots]."""
        it, device = self.classes, draws.device
        counts = torch.tensor(it.counts, device=device)
        chosen = draws.distinct(0, self.ways, len(it))[..., None]  # [m, ways, 1]
        order = draws.uniform(1, self.ways, max(it.counts))
        if len(set(it.counts)) > 1:  # examples that a class does not have come last
            absent = torch.arange(max(it.counts), device=device) >= counts[chosen]
            order = order + absent
        which = order.argsort(-1) + (counts.cumsum(0) - counts)[chosen]
        labels = torch.arange(self.ways, device=device)

        def batch(which: Tensor) -> Batch:
            rows = which.flatten(1)
            y = labels.repeat_interleave(which.shape[2]).expand(len(rows), -1)
            return Batch(it.to_input(each(lambda x: x[rows], it.pool)), y)

        last = self.shots + self.query_shots
        support, query = which[..., : self.shots], which[..., self.shots : last]
        return Episodes(batch(support), batch(query))
