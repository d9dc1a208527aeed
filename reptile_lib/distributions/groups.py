"""Tasks that are groups of the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs, each
from reptile_lib.reading import table
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

    @staticmethod
    def from_table(
        path: str | Path,
        *,
        group: str,
        target: str,
        features: Sequence[str] | None = None,
        classes: Sequence[object] = (),
        shots: int,
        query_shots: int = 1,
        drop_small: bool = False,
    ) -> "GroupTasks":
        """Return tasks of the rows of a CSV file; `reading.table` says how it is read.

        Args:
            path: the file.
            group: the column with the group of each row.
            target: the column to predict: numbers, y float32 [rows, 1].
            features: columns of numbers, x float32 [rows, features], left as they are.
                None takes all that have a name and a number, but `group` and `target`.
            classes: for a target of labels, all labels in the order of the model's
                answers; y is int64 [rows].
            shots: support rows per task.
            query_shots: query rows per task.
            drop_small: leave out groups that have too few rows.

        Raises:
            UserError: the file or a column is missing; a field is empty, no number or
                none of `classes`; a group has too few rows.
        """
        check_positive(shots=shots, query_shots=query_shots)
        rows, least = table.read(path), shots + query_shots
        names, numeric = sorted(set(rows.texts(group))), rows.numeric()
        if features is None:
            features = [name for name in numeric if name not in (group, target)]
        features = [features] if isinstance(features, str) else features
        if target in features or not features:
            raise UserError(
                f"features = {list(features)} of {rows.path!r}; name columns of numbers"
                f" other than the target {target!r}"
            )
        if not classes and target in {*rows.header} - {*numeric}:
            raise UserError(
                f"column {target!r} of {rows.path!r} holds no numbers; for labels give"
                " classes=[...], all of them in the order of the model's answers"
            )
        x, numbers = rows.numbers(features), rows.labels(group, names)
        y = rows.labels(target, classes) if classes else rows.numbers([target])
        counts = numbers.bincount()
        enough = (counts >= least)[numbers]
        if not (enough.all() or (drop_small and enough.any())):
            few = int(counts.argmin())
            raise UserError(
                f"{rows.path!r}: group {names[few]!r} has {counts[few]} rows, fewer"
                f" than shots + query_shots = {least}; ask for fewer, or give"
                " drop_small=True"
            )
        return GroupTasks(x[enough], y[enough], numbers[enough], shots, query_shots)

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
