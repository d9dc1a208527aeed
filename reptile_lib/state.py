"""What the meta-steps of a run have in common, and what they change."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reptile_lib.engine import Loss
from reptile_lib.inner import State
from reptile_lib.meta import Rule, Schedule
from reptile_lib.tasks import Tasks


@dataclass(frozen=True)
class Run:
    """What the meta-steps of one `fit` have in common."""

    loss: Loss
    rule: Rule
    tasks: Tasks
    meta_steps: int
    meta_batch: int
    epsilon: Schedule
    seed: int


class MetaState(NamedTuple):
    """Where training stands; replaced as a whole, so never half-updated."""

    phi: Tensor
    """[P]"""
    inner_state: State | None
    """Mean over the tasks of the last meta-step."""
    outer_state: State | None
    """Of the outer optimiser, if there is one."""
    meta_step: int
    """Meta-steps done."""

    def to(self, device: torch.device | str) -> "MetaState":
        """Return the state with its tensors on a device."""
        inner, outer = (
            state and {name: value.to(device) for name, value in state.items()}
            for state in (self.inner_state, self.outer_state)
        )
        return MetaState(self.phi.to(device), inner, outer, self.meta_step)
