"""What a task is, and the task distributions of the book.

A distribution has one method, `sample`: given who the tasks are, it returns their data
as stacked tensors on its device. Sine waves and few-shot classification are here,
quadratic bowls in `quadratics`; any object with such a method will do.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reptile_lib.data.classes import Classes
from reptile_lib.errors import UserError
from reptile_lib.inner import Batch
from reptile_lib.rng import Draws


class Episodes(NamedTuple):
    """The data of m tasks."""

    support: Batch
    """[m, S, ...]: what the inner loop learns from."""
    order: Tensor
    """[m, k, b]: which support examples make up each minibatch."""
    query: Batch
    """[m, Q, ...]: held out, to measure what was learnt."""

    def part(self, tasks: slice) -> "Episodes":
        """Return some of the tasks."""
        (x, y), order, (query_x, query_y) = self
        return Episodes(
            Batch(x[tasks], y[tasks]),
            order[tasks],
            Batch(query_x[tasks], query_y[tasks]),
        )


class Tasks(Protocol):
    """A task distribution."""

    def to(self, device: torch.device) -> "Tasks":
        """Return the distribution with its data on `device`."""
        ...

    def sample(
        self, draws: Draws, inner_steps: int, inner_batch: int | None
    ) -> Episodes:
        """Return the tasks of `draws`, on the device of `draws`.

        `inner_batch` examples a minibatch; None means all of them (full batch).
        """
        ...


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
    if n * len(steps) <= at_most:
        episodes = sample(steps, tasks)
        for i in range(len(steps)):
            yield iter([episodes.part(slice(i * n, (i + 1) * n))])
        return
    for step in steps:
        some = (tasks[i : i + at_most] for i in range(0, n, at_most))
        yield (sample(range(step, step + 1), few) for few in some)


def minibatch_order(
    draws: Draws, slot: int, size: int, inner_steps: int, inner_batch: int | None
) -> Tensor:
    """Cut reshuffled passes over `size` examples into minibatches, [m, k, b].

    As the Reptile authors' code does: examples are drawn without replacement, the order
    is shuffled anew whenever it runs out, and a minibatch may span that seam.
    """
    b = size if inner_batch is None else inner_batch
    _positive(inner_batch=b)
    passes = -(-inner_steps * b // size)
    orders = draws.permutations(slot, passes, size).flatten(1)
    return orders[:, : inner_steps * b].reshape(len(orders), inner_steps, b)


def _positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} = {value}; give at least 1")


@dataclass(frozen=True)
class Sine:
    """Regression on sine waves y = a sin(x + b) (Finn et al. 2017, section 5.1).

    Amplitude a ~ U[0.1, 5], phase b ~ U[0, 2π], support inputs x ~ U[−5, 5]. The query
    set is an even grid over [−5, 5], so that query losses are integrals, not samples.
    """

    points: int = 10
    query_points: int = 100

    def __post_init__(self) -> None:
        """Raise UserError for fewer than one point."""
        _positive(points=self.points, query_points=self.query_points)

    def to(self, device: torch.device) -> "Sine":
        """Return itself: there is no data to move."""
        return self

    def sample(
        self, draws: Draws, inner_steps: int, inner_batch: int | None
    ) -> Episodes:
        """Return tasks with x and y of shape [m, points, 1]."""
        a, b = draws.uniform(0, 2, 1, 1).unbind(1)  # [m, 1, 1]
        a, b = 0.1 + 4.9 * a, 2 * math.pi * b
        support_x = 10 * draws.uniform(1, self.points, 1) - 5
        grid = torch.linspace(-5, 5, self.query_points, dtype=a.dtype, device=a.device)
        query_x = grid[:, None].expand(len(a), -1, -1)
        order = minibatch_order(draws, 2, self.points, inner_steps, inner_batch)
        dtype = torch.get_default_dtype()
        support, query = (
            Batch(x.to(dtype), (a * torch.sin(x + b)).to(dtype))
            for x in (support_x, query_x)
        )
        return Episodes(support, order, query)


def quadratic_loss(theta: Tensor, batch: Batch) -> Tensor:
    """Return ½ (θ − w)ᵀ H (θ − w) for θ [d], averaged over H [b, d, d], w [b, d]."""
    off = theta - batch.y
    return 0.5 * torch.einsum("bi,bij,bj->b", off, batch.x, off).mean()


@dataclass(frozen=True)
class FewShotTasks:
    """N-way classification of classes drawn at random.

    Each task picks `ways` classes, numbers them at random, and takes `shots` examples
    of each for the support set and `query_shots` others for the query set. Pixels are
    scaled to [0, 1]; ink is 0, as in the Reptile authors' code.
    """

    classes: Classes
    ways: int
    shots: int
    query_shots: int = 1

    def __post_init__(self) -> None:
        """Raise UserError if the classes or their examples do not suffice."""
        _positive(ways=self.ways, shots=self.shots, query_shots=self.query_shots)
        count, examples = self.classes.images.shape[:2]
        if self.ways > count:
            raise UserError(
                f"ways = {self.ways}, but there are {count} classes; ask for at most"
                f" {count} ways"
            )
        if self.shots + self.query_shots > examples:
            raise UserError(
                f"shots = {self.shots} and query_shots = {self.query_shots}, but a"
                f" class has {examples} examples; ask for at most {examples} together"
            )

    def to(self, device: torch.device) -> "FewShotTasks":
        """Return the tasks with their images on `device`."""
        images = self.classes.images.to(device)
        return replace(self, classes=replace(self.classes, images=images))

    def sample(
        self, draws: Draws, inner_steps: int, inner_batch: int | None
    ) -> Episodes:
        """Return tasks with x [m, ways·shots, channels, h, w] and labels y."""
        images = self.classes.images
        count, examples = images.shape[:2]
        chosen = draws.distinct(0, self.ways, count)  # [m, ways]
        which = draws.permutations(1, self.ways, examples)  # [m, ways, examples]
        labels = torch.arange(self.ways, device=images.device)

        def batch(which: Tensor) -> Batch:
            x = images[chosen[..., None], which].flatten(1, 2)
            y = labels.repeat_interleave(which.shape[2]).expand(len(x), -1)
            return Batch(x.to(torch.get_default_dtype()).div_(255), y)

        support = batch(which[..., : self.shots])
        query = batch(which[..., self.shots : self.shots + self.query_shots])
        size = self.ways * self.shots
        order = minibatch_order(draws, 2, size, inner_steps, inner_batch)
        return Episodes(support, order, query)
