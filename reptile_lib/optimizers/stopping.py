"""Rules that end inner loops: when to switch to the next task.

::

    inner = sgd(0.02).until(SwitchAtThreshold(0.1))

Tasks of a batch stop on their own. One that has stopped is masked: its parameters and
its optimiser's state stay, and its steps are no longer counted. The arithmetic is done
for all and thrown away for some, so that stopping saves steps, not time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reptile_lib.errors import UserError


@dataclass(frozen=True)
class SwitchEvery:
    """Stop after a number of inner steps."""

    steps: int

    def __post_init__(self) -> None:
        """Raise UserError for a negative number."""
        if self.steps < 0:
            raise UserError(f"SwitchEvery: steps = {self.steps}; give 0 or more")

    def __call__(self, done: int, loss: Tensor) -> Tensor:
        """Say which tasks stop: all or none."""
        return torch.full_like(loss, done >= self.steps, dtype=torch.bool)


@dataclass(frozen=True)
class SwitchAtThreshold:
    """Stop before the first inner step whose minibatch loss is below `loss`."""

    loss: float

    def __call__(self, done: int, loss: Tensor) -> Tensor:
        """Say which tasks stop."""
        return loss < self.loss
