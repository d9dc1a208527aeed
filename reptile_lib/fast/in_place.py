"""Inner steps in a kernel's own memory."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, steps_on
from reptile_lib.tasks import Batch


class Space(Protocol):
    """Where a kernel keeps parameters and their gradient, [n, P] both."""

    @property
    def theta(self) -> Tensor: ...  # noqa: D102
    @property
    def g(self) -> Tensor: ...  # noqa: D102


def steps_in(
    space: Space,
    take: Callable[[Batch], Tensor],
    inner: InnerOptimizer,
    start: tuple[Tensor, State],
    batches: Iterable[Batch],
) -> Adapted:
    """Take an inner step on each minibatch; θ and the gradient stay in their place.

    Args:
        space: where they are.
        take: take(batch) -> losses [n]; leaves the gradient at `space.theta` in
            `space.g`.
        inner: the optimiser; its formula is used where it has one.
        start: theta [n, P] and state to begin with.
        batches: the minibatches.
    """
    theta, state = start
    formula = inner.formula
    if formula is None or inner.stop is not None:

        def gradient(theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            space.theta.copy_(theta)
            losses = take(batch)
            return space.g, losses

        return steps_on(gradient, inner, theta, state, batches)
    space.theta.copy_(theta)
    # dense, and nobody else's
    state = {
        n: v.clone(memory_format=torch.contiguous_format) for n, v in state.items()
    }
    losses = []
    for batch in batches:
        losses.append(take(batch))
        formula.in_place(space.g, state, space.theta)
    k = len(losses)
    stacked = torch.stack(losses, -1) if k else theta.new_zeros(len(theta), 0)
    taken = stacked.new_full((len(theta),), k, dtype=torch.int64)
    return Adapted(space.theta.clone(), state, stacked, taken)
