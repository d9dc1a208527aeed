"""What a task is.

A task distribution has two methods: `to` moves its data to a device, and `sample`
returns the tasks that `Draws` names, as stacked tensors. Sine waves, few-shot
classification and groups of rows are in `distributions`, quadratic bowls in
`theory.quadratics`; any object with these methods will do. On a GPU, one whose `sample`
asks the host for nothing may say so: `fit.graphs.recordable`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs, each
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
        support, query = (
            batch if batch.y.is_floating_point() else Batch(batch.x, batch.y.long())
            for batch in (found.support, found.query)
        )
        return Episodes(support, query, found.order)


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

    >>> from reptile_lib import Sine
    >>> tasks = draw(Sine(points=10), 3, inner_steps=5, inner_batch=4)
    >>> tasks.support.x.shape, tasks.query.y.shape, tasks.order.shape
    (torch.Size([3, 10, 1]), torch.Size([3, 100, 1]), torch.Size([3, 5, 4]))
    """
    cpu = torch.device("cpu")
    who = draws(seed, stream, range(1), range(count), cpu)
    return minibatches(tasks.to(cpu).sample(who), who, inner_steps, inner_batch)


draw = draw_tasks  # a function here, and a method of the book's distributions


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
