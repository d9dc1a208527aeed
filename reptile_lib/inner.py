"""Inner optimisers.

An inner optimiser is a pair of pure functions on parameter vectors::

    init(theta)                    -> state
    update(gradient, state, theta) -> theta, state

They serve one task, theta [P], and a stack of n tasks, theta [n, P], alike. A state is
a dict of tensors: "v" and "m" have the shape of theta, "step" that of theta[..., 0].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reptile_lib.errors import UserError

State = dict[str, Tensor]
"""What an inner optimiser remembers: named tensors."""

Stop = Callable[[int, Tensor], Tensor]
"""stop(steps done, minibatch loss [...] before the next step) -> bool [...]."""

Moments = Literal["carry", "reset"]
"""Whether the inner optimiser's state outlives a task."""


class Batch(NamedTuple):
    """Examples and what to answer, of one task or stacked on a leading task axis."""

    x: Tensor
    """``[..., examples, *shape]``"""
    y: Tensor
    """``[..., examples]`` or ``[..., examples, *shape]``"""


@dataclass(frozen=True)
class InnerOptimizer:
    """A pure (init, update) pair; the makers below refuse rates out of range.

    `update` must not keep the gradient it is given in its state: its memory is used
    again for the next one.

    `full_batch` asks for all support examples in every step instead of minibatches;
    `stop` says when a task takes no more steps, see `stopping`.
    """

    name: str
    lr: float
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
    full_batch: bool = False
    stop: Stop | None = None

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


def _check_rate(name: str, lr: float) -> None:
    if not lr > 0 or math.isinf(lr):
        raise UserError(f"{name}: lr = {lr} is no learning rate; give a positive one")


def _check_decay(name: str, argument: str, beta: float) -> None:
    if not 0.0 <= beta < 1.0:
        raise UserError(f"{name}: {argument} = {beta}; it must lie in [0, 1)")


@cache  # like those below, one object for equal settings
def sgd(lr: float) -> InnerOptimizer:
    """Minibatch gradient descent: θ ← θ − α g."""
    _check_rate("sgd", lr)
    return InnerOptimizer(
        "sgd", lr, lambda theta: {}, lambda g, state, theta: (theta - lr * g, state)
    )


@cache
def gd(lr: float) -> InnerOptimizer:
    """Full-batch gradient descent: the step of `sgd`, each on the whole support set."""
    _check_rate("gd", lr)
    step = sgd(lr)
    return InnerOptimizer("gd", lr, step.init, step.update, full_batch=True)


@cache
def momentum(lr: float, beta: float = 0.9) -> InnerOptimizer:
    """Heavy-ball momentum as `torch.optim.SGD` has it: m ← βm + g, θ ← θ − α m."""
    _check_rate("momentum", lr)
    _check_decay("momentum", "beta", beta)

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        m = beta * state["m"] + g
        return theta - lr * m, {"m": m}

    return InnerOptimizer(
        "momentum", lr, lambda theta: {"m": torch.zeros_like(theta)}, update
    )


def adam(
    lr: float, betas: tuple[float, float] = (0.0, 0.999), eps: float = 1e-8
) -> InnerOptimizer:
    """Adam (Kingma & Ba 2015, algorithm 1); β₁ = 0 is the Reptile authors' setting.

    With β₁ = 0 the first moment is the gradient itself and is not stored.
    """
    _check_rate("adam", lr)
    return _adam(lr, *betas, eps)


@cache  # so that what is compiled with it is found again
def _adam(lr: float, beta1: float, beta2: float, eps: float) -> InnerOptimizer:
    _check_decay("adam", "betas[0]", beta1)
    _check_decay("adam", "betas[1]", beta2)

    def init(theta: Tensor) -> State:
        state = {
            "step": theta.new_zeros(theta.shape[:-1]),
            "v": torch.zeros_like(theta),
        }
        if beta1 > 0:
            state["m"] = torch.zeros_like(theta)
        return state

    def one_minus_power(beta: float, step: Tensor) -> Tensor:
        # 1 − βᵗ; expm1 keeps it exact in float32, where 1 − 0.999 loses five digits.
        if beta == 0:
            return torch.ones_like(step).unsqueeze(-1)
        return -torch.expm1(step.unsqueeze(-1) * math.log(beta))

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        step = state["step"] + 1
        # As few passes as can be: the vectors are long, and memory is slow.
        v = (beta2 * state["v"]).addcmul_(g, g, value=1 - beta2)
        new = {"step": step, "v": v}
        direction = g
        if beta1 > 0:
            new["m"] = torch.lerp(state["m"], g, 1 - beta1)
            direction = new["m"] / one_minus_power(beta1, step)
        power = one_minus_power(beta2, step)
        if torch.is_grad_enabled():
            # The root of a zero has an infinite slope, which MAML would meet.
            root = v.clamp_min(torch.finfo(v.dtype).tiny).sqrt()
        else:
            root = v.sqrt()
        root = torch.addcmul(root.new_full((), eps), root, power.rsqrt())
        return torch.addcdiv(theta, direction, root, value=-lr), new

    return InnerOptimizer("adam", lr, init, update)


def mean_state(states: State) -> State:
    """Average a stack of states [n, ...] over the tasks: what `carry` hands on."""
    return {name: value.mean(0) for name, value in states.items()}
