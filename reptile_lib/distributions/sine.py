"""Regression on sine waves."""

import math
from dataclasses import dataclass

import torch

from reptile_lib.rng import Draws
from reptile_lib.tasks import Batch, Episodes, check_positive, draw_tasks


@dataclass(frozen=True)
class Sine:
    """Regression on sine waves y = a sin(x + b) (Nichol et al. 2018, section 4).

    Amplitude a ~ U[0.1, 5], phase b ~ U[0, 2π], support inputs x ~ U[−5, 5]. (In the
    problem of Finn et al. 2017, section 5.1, b lies in [0, π].) The query set is a grid
    over [−5, 5], so that query losses are integrals, not samples.

    >>> support, query, _ = Sine(points=10, query_points=5).draw()
    >>> support.x.shape, query.x.flatten()
    (torch.Size([1, 10, 1]), tensor([-5.0000, -2.5000,  0.0000,  2.5000,  5.0000]))
    """

    points: int = 10
    query_points: int = 100

    draw = draw_tasks
    recordable = True

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
