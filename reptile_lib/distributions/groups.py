"""Tasks that are groups of the rows of a table."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs, each
from reptile_lib.rng import Draws
from reptile_lib.tasks import Batch, Episodes, check_positive, draw_tasks


@dataclass(frozen=True)
class GroupTasks:
    """Tasks that are groups of rows: the ratings of a user, the days of a machine.

    Each task is one group, drawn with equal chances; `shots` of its rows, at random,
    are its support set and `query_shots` others its query set.

    Args:
        x: ``[rows, *shape]``, or a tuple of such.
        y: ``[rows]`` labels, or ``[rows, *shape]`` values to predict.
        group: int64 [rows], the group of each row.
        shots: support rows a task.
        query_shots: query rows a task.
    """

    x: Inputs
    y: Tensor
    group: Tensor
    shots: int
    query_shots: int = 1

    draw = draw_tasks

    def __post_init__(self) -> None:
        """Raise UserError if rows do not fit together, or a group has too few."""
        check_positive(shots=self.shots, query_shots=self.query_shots)
        xs = self.x if isinstance(self.x, tuple) else (self.x,)
        rows = [len(t) for t in (*xs, self.y, self.group)]
        if len(set(rows)) != 1 or self.group.dim() != 1 or not rows[0]:
            raise UserError(f"x, y and group have {rows} rows; give one of each a row")
        names, counts = torch.unique(self.group, return_counts=True)
        least = self.shots + self.query_shots
        if (counts < least).any():
            small = int(counts.argmin())
            raise UserError(
                f"group {names[small].item()} has {counts[small].item()} rows; leave"
                f" out groups of fewer than shots + query_shots = {least}"
            )

    def to(self, device: torch.device) -> "GroupTasks":
        """Return the tasks with their rows on `device`."""
        x, y, group = each(lambda t: t.to(device), self.x), self.y, self.group
        return replace(self, x=x, y=y.to(device), group=group.to(device))

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x [m, shots, ...] and y [m, shots, ...]."""
        _, counts = torch.unique(self.group, return_counts=True)
        by_group = self.group.argsort(stable=True)
        chosen = (draws.uniform(0, 1) * len(counts)).long()  # [m, 1]
        order = draws.uniform(1, int(counts.max()))
        order = order + (
            torch.arange(len(order[0]), device=draws.device) >= counts[chosen]
        )
        starts = (counts.cumsum(0) - counts)[chosen]
        rows = by_group[starts + order.argsort(1)[:, : self.shots + self.query_shots]]

        def batch(rows: Tensor) -> Batch:
            return Batch(each(lambda t: t[rows], self.x), self.y[rows])

        return Episodes(batch(rows[:, : self.shots]), batch(rows[:, self.shots :]))
