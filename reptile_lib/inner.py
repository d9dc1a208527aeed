"""Inner optimisers.

An inner optimiser is a pair of pure functions on parameter vectors::

    init(theta)                    -> state
    update(gradient, state, theta) -> theta, state

They serve one task, theta [P], and a stack of n tasks, theta [n, P], alike. A state is
a dict of tensors: "v" and "m" have the shape of theta, "step" that of theta[..., 0].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from reptile_lib.errors import UserError

State = dict[str, Tensor]
"""What an inner optimiser remembers: named tensors."""

Stop = Callable[[int, Tensor], Tensor]
"""stop(steps done, minibatch loss [...] before the next step) -> bool [...]."""

Rate = float | Tensor
"""A learning rate; as a tensor, it broadcasts with theta."""

Update = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
"""update(gradient, state, theta) -> theta, state."""

InPlace = Callable[[Tensor, State, Tensor], None]
"""in_place(gradient, state, theta): an update written over state and theta."""

Moments = Literal["carry", "reset"]
"""Whether the inner optimiser's state outlives a task."""


@dataclass(frozen=True)
class _Form:
    """An update in place, and the update that it is a form of."""

    of: Update
    act: InPlace

    def __call__(self, g: Tensor, state: State, theta: Tensor) -> None:
        self.act(g, state, theta)


def _no_other_rate(lr: Rate) -> "InnerOptimizer":
    raise UserError(
        f"this optimiser does not say what it is at lr = {lr}; make it anew"
    )


def _made_again(
    at: Callable[[Rate], "InnerOptimizer"], lr: Rate, stop: Stop | None
) -> "InnerOptimizer":
    return replace(at(lr), stop=stop)


@dataclass(frozen=True)
class InnerOptimizer:
    """A pure (init, update) pair; the makers below refuse rates out of range.

    Attributes:
        name: for messages.
        lr: the rate: a number, or a tensor that broadcasts with theta (then the state
            carries it), such as [P] for one a weight or [runs, 1] for one a run.
        init: init(theta) -> state.
        update: update(gradient, state, theta) -> theta, state.
        full_batch: whether every step takes all support examples, not a minibatch.
        stop: says when a task takes no more steps, see `SwitchAtThreshold`.
        in_place: `update` written over its arguments. Only an optimiser has it that
            treats all entries alike, but for what its state says of them, and keeps
            none of its arguments: a kernel hands it vectors in an order of its own, in
            memory that it uses again.
        at: at(lr) -> the same optimiser with another rate, without a rule that stops.
    """

    name: str
    lr: Rate
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
    full_batch: bool = False
    stop: Stop | None = None
    in_place: InPlace | None = None
    at: Callable[[Rate], "InnerOptimizer"] = field(
        default=_no_other_rate, compare=False
    )

    def __post_init__(self) -> None:
        """Forget a form in place that `replace(..., update=...)` left behind."""
        if isinstance(self.in_place, _Form) and self.in_place.of is not self.update:
            object.__setattr__(self, "in_place", None)
            object.__setattr__(self, "at", _no_other_rate)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an optimiser of the makers below as what it was made with."""
        if self.at is _no_other_rate:
            return super().__reduce__()  # type: ignore[return-value]
        return _made_again, (self.at, self.lr, self.stop)

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


def _check_rate(name: str, lr: Rate) -> None:
    rates = torch.as_tensor(lr)
    if not ((rates > 0) & rates.isfinite()).all():
        raise UserError(f"{name}: lr = {lr} is no learning rate; give a positive one")


def _check_decay(name: str, argument: str, beta: float) -> None:
    if not 0.0 <= beta < 1.0:
        raise UserError(f"{name}: {argument} = {beta}; it must lie in [0, 1)")


def _rates(lr: Rate, theta: Tensor) -> State:
    """Return the part of a state that holds rates, where they are a tensor."""
    if not isinstance(lr, Tensor):
        return {}
    lr = lr.to(theta)
    per_weight = lr.shape[-1:] == theta.shape[-1:]
    return {"lr": lr.expand(theta.shape if per_weight else (*theta.shape[:-1], 1))}


def _alike(lr: Rate, update: Update, in_place: InPlace) -> InPlace | None:
    """Return the form in place if all weights have the same rate."""
    alike = not isinstance(lr, Tensor) or lr.shape[-1:] in ((), (1,))
    return _Form(update, in_place) if alike else None


def _kept(state: State) -> State:
    """Return the part of a state that no step changes."""
    return {"lr": state["lr"]} if "lr" in state else {}


def _subtract(theta: Tensor, lr: Rate, state: State, direction: Tensor) -> None:
    if isinstance(lr, Tensor):
        theta.addcmul_(state["lr"], direction, value=-1)
    else:
        theta.sub_(direction, alpha=lr)


@cache  # like those below, one object for equal settings
def sgd(lr: Rate) -> InnerOptimizer:
    """Minibatch gradient descent: θ ← θ − α g.

    >>> inner, theta = sgd(lr=0.5), torch.tensor([1.0, 2.0])
    >>> inner.update(torch.tensor([1.0, -1.0]), inner.init(theta), theta)
    (tensor([0.5000, 2.5000]), {})
    """
    _check_rate("sgd", lr)

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta - state.get("lr", lr) * g, state

    def in_place(g: Tensor, state: State, theta: Tensor) -> None:
        _subtract(theta, lr, state, g)

    init = partial(_rates, lr)
    return InnerOptimizer(
        "sgd", lr, init, update, at=sgd, in_place=_alike(lr, update, in_place)
    )


@cache
def gd(lr: Rate) -> InnerOptimizer:
    """Full-batch gradient descent: the step of `sgd`, each on the whole support set."""
    _check_rate("gd", lr)
    return replace(sgd(lr), name="gd", full_batch=True, at=gd)


def momentum(lr: Rate, beta: float = 0.9) -> InnerOptimizer:
    """Heavy-ball momentum as `torch.optim.SGD` has it: m ← βm + g, θ ← θ − α m."""
    _check_rate("momentum", lr)
    return _momentum(lr, beta)


@cache
def _momentum(lr: Rate, beta: float) -> InnerOptimizer:
    _check_decay("momentum", "beta", beta)

    def init(theta: Tensor) -> State:
        return {"m": torch.zeros_like(theta)} | _rates(lr, theta)

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        m = beta * state["m"] + g
        return theta - state.get("lr", lr) * m, {"m": m} | _kept(state)

    def in_place(g: Tensor, state: State, theta: Tensor) -> None:
        _subtract(theta, lr, state, state["m"].mul_(beta).add_(g))

    at = partial(momentum, beta=beta)
    return InnerOptimizer(
        "momentum", lr, init, update, at=at, in_place=_alike(lr, update, in_place)
    )


def adam(
    lr: Rate, betas: tuple[float, float] = (0.0, 0.999), eps: float = 1e-8
) -> InnerOptimizer:
    """Adam (Kingma & Ba 2015, algorithm 1); β₁ = 0 is the Reptile authors' setting.

    With β₁ = 0 the first moment is the gradient itself and is not stored.

    >>> inner, theta = adam(lr=0.1), torch.tensor([1.0, 2.0])
    >>> state = inner.init(theta)
    >>> theta, state = inner.update(torch.tensor([3.0, -0.2]), state, theta)
    >>> theta  # the first step has the length of the rate, whatever the gradient
    tensor([0.9000, 2.1000])
    >>> sorted(state)
    ['step', 'v']
    """
    _check_rate("adam", lr)
    return _adam(lr, *betas, eps)


@cache  # so that what is compiled with it is found again
def _adam(lr: Rate, beta1: float, beta2: float, eps: float) -> InnerOptimizer:
    _check_decay("adam", "betas[0]", beta1)
    _check_decay("adam", "betas[1]", beta2)

    def init(theta: Tensor) -> State:
        state = {
            "step": theta.new_zeros(theta.shape[:-1]),
            "v": torch.zeros_like(theta),
        }
        if beta1 > 0:
            state["m"] = torch.zeros_like(theta)
        return state | _rates(lr, theta)

    def one_minus_power(beta: float, step: Tensor) -> Tensor:
        # 1 − βᵗ; expm1 keeps it exact in float32, where 1 − 0.999 loses five digits.
        if beta == 0:
            return torch.ones_like(step).unsqueeze(-1)
        return -torch.expm1(step.unsqueeze(-1) * math.log(beta))

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        theta, state = theta.clone(), {name: v.clone() for name, v in state.items()}
        in_place(g, state, theta)
        return theta, state

    def in_place(g: Tensor, state: State, theta: Tensor) -> None:
        # As few passes as can be: the vectors are long, and memory is slow.
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["step"].add_(1)
        if beta1 > 0:
            state["m"].lerp_(g, 1 - beta1)
        direction, root = fraction(g, state)
        if isinstance(lr, Tensor):
            theta.sub_(state["lr"] * direction / root)
        else:
            theta.addcdiv_(direction, root, value=-lr)

    def fraction(g: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Return what the step is in proportion to: numerator and denominator."""
        direction, power = g, one_minus_power(beta2, state["step"])
        if beta1 > 0:
            direction = state["m"] / one_minus_power(beta1, state["step"])
        if torch.is_grad_enabled():
            # The root of a zero has an infinite slope, which MAML would meet.
            root = state["v"].clamp_min(torch.finfo(g.dtype).tiny).sqrt()
        else:
            root = state["v"].sqrt()
        return direction, torch.addcmul(root.new_full((), eps), root, power.rsqrt())

    at = partial(adam, betas=(beta1, beta2), eps=eps)
    return InnerOptimizer(
        "adam", lr, init, update, at=at, in_place=_alike(lr, update, in_place)
    )


def mean_state(states: State) -> State:
    """Average a stack of states [n, ...] over the tasks: what `carry` hands on."""
    return {name: v[0] if name == "lr" else v.mean(0) for name, v in states.items()}
