"""The two problems that are timed, and how large each timed meta-step is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from reptile_lib import (
    Episodes,
    Examples,
    FewShotTasks,
    InnerOptimizer,
    MetaLearner,
    Sine,
    adam,
    conv4,
    mlp,
    sgd,
)
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import Tasks, minibatches

BATCH = 10
"""Examples an inner step."""

SHOTS = 10
"""Training examples a class of the Conv4 tasks."""

START = 100_000
"""Meta-steps that count as done, so that `fit` works as in the middle of a long run.

Its history then gets a row now and then, not one a meta-step as in a short run.
"""

EPSILON = 0.1
"""Outer step size; it does not change the time."""


SINE_LR = 0.02
"""Inner learning rate of the sine problem."""


@dataclass(frozen=True)
class Cell:
    """One size of a meta-step."""

    problem: str
    """"sine" or "conv4"."""
    meta_batch: int
    """n, tasks."""
    inner_steps: int
    """k."""
    ways: int = 5
    """Classes a task; the sine tasks have none."""


@dataclass(frozen=True)
class Problem:
    """A network, its inner optimiser written twice, and its tasks."""

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    inner: InnerOptimizer
    """As reptile_lib has it."""
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    """As torch.optim has it."""
    tasks: Tasks


def problem(name: str, ways: int, device: torch.device) -> Problem:
    """Make the sine problem or the one with Omniglot's shapes.

    The images of "conv4" are noise: it is timed, nothing is learnt.
    """
    if name == "sine":
        return Problem(
            mlp(1, 64, 64, 1, activation=nn.Tanh).to(device),
            F.mse_loss,
            sgd(SINE_LR),
            lambda parameters: torch.optim.SGD(parameters, SINE_LR),
            Sine(points=10),
        )
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (64, 20, 1, 28, 28), dtype=torch.uint8, generator=noise
    )
    classes = Examples(images, tuple(map(str, range(len(images)))))
    betas = (0.0, 0.999)
    return Problem(
        conv4(ways).to(device),
        F.cross_entropy,
        adam(lr=1e-3, betas=betas),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3, betas=betas),
        FewShotTasks(classes, ways, SHOTS).to(device),
    )


def learner(
    cell: Cell, device: torch.device, **settings: Any
) -> tuple[MetaLearner, Tasks]:
    """Return the library's learner in the middle of a run, and its tasks.

    Moments are reset with each task, as the other contenders have it.

    Args:
        cell: what it learns.
        device: where.
        settings: of `MetaLearner`, in the place of those of the cell.
    """
    it = problem(cell.problem, cell.ways, device)
    own: dict[str, Any] = {
        "inner": it.inner,
        "inner_steps": cell.inner_steps,
        "inner_batch": BATCH,
        "criterion": it.criterion,
        "moments": "reset",
        "device": device,
    }
    made = MetaLearner(it.model, **own | settings)
    made.state = made.state._replace(meta_step=START)
    return made, it.tasks


def episodes(cell: Cell, tasks: Tasks, step: int, device: torch.device) -> Episodes:
    """Return the tasks that `fit` draws for its meta-step `START + step`."""
    steps = range(START + step, START + step + 1)
    who = draws(0, TRAIN, steps, range(cell.meta_batch), device)
    return minibatches(tasks.sample(who), who, cell.inner_steps, BATCH)
