"""Inner optimisers.

An inner optimiser is a pair of pure functions on parameter vectors::

    init(theta)                    -> state
    update(gradient, state, theta) -> theta, state

They serve one task, theta [P], and a stack of n tasks, theta [n, P], alike. A state is
a dict of tensors: "v" and "m" have the shape of theta, "step" that of theta[..., 0].
`optimizers.formulas` has those of the book.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What an inner optimiser remembers: named tensors."""

Stop = Callable[[int, Tensor], Tensor]
"""stop(steps done, minibatch loss [...] before the next step) -> bool [...]."""

Rate = float | Tensor
"""A learning rate; as a tensor, it broadcasts with theta."""

Moments = Literal["carry", "reset"]
"""Whether the inner optimiser's state outlives a task."""


class Formula(Protocol):
    """An optimiser that is written over what it is given.

    It treats all entries alike, but for what its state says of them, and keeps none of
    its arguments: a kernel hands it vectors in an order of its own, in memory that it
    uses again.
    """

    def init(self, theta: Tensor) -> State:
        """Return the state to begin with."""
        ...

    def in_place(self, g: Tensor, state: State, theta: Tensor) -> None:
        """Take a step: write the new theta and state over the old."""
        ...


@dataclass(frozen=True)
class OnCopies:
    """The pure update of a formula: what it writes, it writes on copies."""

    formula: Formula

    def __call__(self, g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        """Return theta and state after a step."""
        theta, state = theta.clone(), {name: v.clone() for name, v in state.items()}
        self.formula.in_place(g, state, theta)
        return theta, state


@dataclass(frozen=True)
class InnerOptimizer:
    """A pure (init, update) pair.

    Attributes:
        name: for messages.
        lr: the rate: a number, or the tensor that `with_rates` was given.
        init: init(theta) -> state.
        update: update(gradient, state, theta) -> theta, state.
        full_batch: whether every step takes all support examples, not a minibatch.
        stop: says when a task takes no more steps, see `SwitchAtThreshold`.
    """

    name: str
    lr: Rate
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
    full_batch: bool = False
    stop: Stop | None = None

    @property
    def formula(self) -> Formula | None:
        """What `update` does, as a kernel may do it in its own memory; None if not."""
        return self.update.formula if isinstance(self.update, OnCopies) else None

    def until(self, stop: Stop) -> "InnerOptimizer":
        """Return the optimiser with a rule that ends a task's inner loop."""
        return replace(self, stop=stop)

    def advance(
        self,
        step: int,
        g: Tensor,
        loss: Tensor,
        theta: Tensor,
        state: State,
        taken: Tensor | None,
    ) -> tuple[Tensor, State, Tensor | None]:
        """Take an inner step in the tasks that have not stopped; the others stay.

        Args:
            step: how many steps were tried before, the same for all tasks.
            g: [..., P], gradients at theta.
            loss: [...], the losses they belong to.
            theta: [..., P].
            state: entries ``[..., *]``.
            taken: int64 [...], the steps that each task took; None without `stop`.

        Returns:
            theta, state, taken.
        """
        moved, after = self.update(g, state, theta)
        if self.stop is None or taken is None:
            return moved, after, taken
        # A task that missed a step has stopped for good.
        goes_on = (taken == step) & ~self.stop(step, loss)

        def kept(new: Tensor, old: Tensor) -> Tensor:
            ends = (1,) * (new.dim() - goes_on.dim())
            return torch.where(goes_on.view((*goes_on.shape, *ends)), new, old)

        after = {name: kept(value, state[name]) for name, value in after.items()}
        return kept(moved, theta), after, taken + goes_on

    def counter(self, loss: Tensor) -> Tensor | None:
        """Return `taken` before the first step, for losses [...]."""
        return None if self.stop is None else torch.zeros_like(loss, dtype=torch.int64)


def mean_state(states: State) -> State:
    """Average a stack of states [n, ...] over the tasks: what `carry` hands on."""
    return {name: v[0] if name == "lr" else v.mean(0) for name, v in states.items()}
