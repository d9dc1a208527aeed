"""How good a start φ is for sine waves: losses after steps from it, tuned for it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.distributions.sine import Sine
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.kernel import Kernel
from reptile_lib.learner import MetaLearner
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.tasks import Episodes, draw_tasks

How = tuple[str, float]
"""An optimiser's name and its rate."""


def network(sizes: Sequence[int], seed: int) -> nn.Module:
    """Return the untrained network of a seed."""
    return mlp(*sizes, activation=nn.Tanh, seed=seed)


def waves(points: int, steps: int, count: int, *, seed: int, stream: int) -> Episodes:
    """Draw new waves with so many points, for so many steps of adaptation."""
    tasks = Sine(points, query_points=25)
    return draw_tasks(tasks, count, seed, stream=stream, inner_steps=steps)


def kernel_of(sizes: Sequence[int]) -> Kernel:
    """Return how the gradients of adaptation are computed."""
    learner = MetaLearner(
        network(sizes, 0), sgd(1.0), 1, criterion=F.mse_loss, device="cpu"
    )
    return learner.kernel


def losses(
    kernel: Kernel,
    phi: Tensor,
    inner: InnerOptimizer,
    tasks: Episodes,
    after: Sequence[int],
) -> Tensor:
    """Return query losses [tasks, after] of φ [P] after so many steps of `order`."""
    U = InnerLoop(kernel, inner)
    theta = kernel.pack(phi).expand(len(tasks.order), -1)
    state: State | None = None
    found = []
    for start, stop in pairwise([0, *after]):
        if stop > start:
            adapted = U(theta, tasks.support, tasks.order[:, start:stop], state)
            theta, state = adapted.theta, adapted.state
        found.append(kernel.losses(theta, tasks.query))
    return torch.stack(found, 1).nan_to_num(inf, inf)


def means(
    kernel: Kernel,
    phi: Tensor,
    offered: Mapping[How, InnerOptimizer],
    tasks: Episodes,
    after: Sequence[int],
) -> Tensor:
    """Return mean losses over tasks [offered, after]."""
    each = [losses(kernel, phi, inner, tasks, after) for inner in offered.values()]
    return torch.stack(each).mean(1)


def tuned(
    kernel: Kernel,
    phi: Tensor,
    offered: Mapping[How, InnerOptimizer],
    tasks: tuple[Episodes, Episodes],
    after: Sequence[int],
) -> tuple[list[How], Tensor]:
    """Choose how to adapt on validation tasks, for each number of steps; test that.

    Args:
        kernel: of the network.
        phi: the start, [P].
        offered: ways to adapt.
        tasks: for validation, and for the test.
        after: numbers of steps.

    Returns:
        what was chosen for each number of steps, and losses [test tasks, after].
    """
    validation, test = tasks
    names, scores = list(offered), means(kernel, phi, offered, validation, after)
    best = [names[i] for i in scores.argmin(0).tolist()]
    tables = {how: losses(kernel, phi, offered[how], test, after) for how in set(best)}
    return best, torch.stack([tables[how][:, j] for j, how in enumerate(best)], 1)
