"""Few-shot classification."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, each, scaled
from reptile_lib.rng import Draws
from reptile_lib.tasks import Batch, Episodes, check_positive, draw_tasks


@dataclass(frozen=True)
class FewShotTasks:
    """N-way classification of classes drawn at random.

    Each task picks `ways` classes, numbers them at random, and takes `shots` examples
    of each for the support set and `query_shots` others for the query set. Classes may
    differ in size: each is as likely to be drawn, and each of its examples. Pixels are
    scaled to [0, 1]; ink is 0, as in the Reptile authors' code.

    >>> from reptile_lib import load
    >>> tasks = FewShotTasks(load("glyphs").train, ways=3, shots=2)
    >>> support, query, _ = tasks.draw()
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
        count, least = len(self.classes), self.shots + self.query_shots
        if self.ways > count:
            raise UserError(
                f"ways = {self.ways}, but there are {count} classes; ask for at most"
                f" {count} ways"
            )
        pairs = zip(self.classes.counts, self.classes.names, strict=True)
        if small := sorted(pair for pair in pairs if pair[0] < least):
            named = [f"{name!r} ({n})" for n, name in small[:5]] + ["..."]
            remedies = [f"ask for at most {small[0][0]} together"] * (small[0][0] > 1)
            if count - len(small) >= self.ways:
                call = f"reptile_lib.reading.split.only(classes, at_least={least})"
                remedies.append(f"leave such classes out: {call}")
            raise UserError(
                f"shots = {self.shots} and query_shots = {self.query_shots}, but"
                f" {len(small)} of {count} classes have too few examples:"
                f" {', '.join(named[: len(small)])};"
                f" {', or '.join(remedies) or 'get more'}"
            )

    def to(self, device: torch.device) -> "FewShotTasks":
        """Return the tasks with their examples on `device`."""
        return replace(self, classes=self.classes.to(device))

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """The first row of each class in the pool, and how many it has: [classes].

        Put on the device once: a graph cannot fetch them from the host.
        """
        pool = self.classes.pool
        device = (pool if isinstance(pool, Tensor) else pool[0]).device
        counts = torch.tensor(self.classes.counts, device=device)
        return counts.cumsum(0) - counts, counts

    @property
    def recordable(self) -> bool:
        """Whether `sample` asks the host for nothing, and so goes into a graph."""
        return self.classes.to_input is scaled

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x [m, ways·shots, ...] and labels y [m, ways·shots]."""
        it, device = self.classes, draws.device
        firsts, counts = self._rows
        chosen = draws.distinct(0, self.ways, len(it))[..., None]  # [m, ways, 1]
        order = draws.uniform(1, self.ways, max(it.counts))
        if len(set(it.counts)) > 1:  # examples that a class does not have come last
            absent = torch.arange(max(it.counts), device=device) >= counts[chosen]
            order = order + absent
        which = order.argsort(-1) + firsts[chosen]
        labels = torch.arange(self.ways, device=device)

        def batch(which: Tensor) -> Batch:
            rows = which.flatten(1)
            y = labels[:, None].expand(which.shape).flatten(1)
            return Batch(it.to_input(each(lambda x: x[rows], it.pool)), y)

        last = self.shots + self.query_shots
        support, query = which[..., : self.shots], which[..., self.shots : last]
        return Episodes(batch(support), batch(query))
