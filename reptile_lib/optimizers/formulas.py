"""The book's inner optimisers: SGD, gradient descent, momentum, Adam.

Each is a small formula, written over its arguments. A rate "lr" in the state takes the
place of the optimiser's own, so that weights and runs may have rates of their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.inner import InnerOptimizer, OnCopies, Rate, State


@dataclass(frozen=True)
class _Sgd:
    lr: float

    def init(self, theta: Tensor) -> State:
        return {}

    def in_place(self, g: Tensor, state: State, theta: Tensor) -> None:
        if (lr := state.get("lr")) is None:
            theta.sub_(g, alpha=self.lr)
        else:
            theta.sub_(lr * g)


@dataclass(frozen=True)
class _Momentum:
    lr: float
    beta: float

    def init(self, theta: Tensor) -> State:
        return {"m": torch.zeros_like(theta)}

    def in_place(self, g: Tensor, state: State, theta: Tensor) -> None:
        m = state["m"].mul_(self.beta).add_(g)
        theta.sub_(state.get("lr", self.lr) * m)


@dataclass(frozen=True)
class _Adam:
    lr: float
    beta1: float
    beta2: float
    eps: float

    def init(self, theta: Tensor) -> State:
        state = {
            "step": theta.new_zeros(theta.shape[:-1]),
            "v": torch.zeros_like(theta),
        }
        if self.beta1 > 0:
            state["m"] = torch.zeros_like(theta)
        return state

    def in_place(self, g: Tensor, state: State, theta: Tensor) -> None:
        # As few passes as can be: the vectors are long, and memory is slow.
        step = state["step"].add_(1)
        v = state["v"].mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        direction = g
        if self.beta1 > 0:
            m = state["m"].lerp_(g, 1 - self.beta1)
            direction = m / _one_minus_power(self.beta1, step)
        if torch.is_grad_enabled():
            # The root of a zero has an infinite slope, which MAML would meet.
            v = v.clamp_min(torch.finfo(v.dtype).tiny)
        root, power = v.sqrt(), _one_minus_power(self.beta2, step)
        root = torch.addcmul(root.new_full((), self.eps), root, power.rsqrt())
        lr = state.get("lr", self.lr)
        if isinstance(lr, Tensor):
            theta.sub_(lr * direction / root)
        else:
            theta.addcdiv_(direction, root, value=-lr)


def _one_minus_power(beta: float, step: Tensor) -> Tensor:
    """Return 1 − βᵗ; expm1 keeps it exact in float32, where 1 − 0.999 loses digits."""
    if beta == 0:
        return torch.ones_like(step).unsqueeze(-1)
    return -torch.expm1(step.unsqueeze(-1) * math.log(beta))


def sgd(lr: Rate) -> InnerOptimizer:
    """Minibatch gradient descent: θ ← θ − α g.

    >>> inner, theta = sgd(lr=0.5), torch.tensor([1.0, 2.0])
    >>> inner.update(torch.tensor([1.0, -1.0]), inner.init(theta), theta)
    (tensor([0.5000, 2.5000]), {})
    """
    return _made("sgd", _Sgd, lr)


def gd(lr: Rate) -> InnerOptimizer:
    """Full-batch gradient descent: the step of `sgd`, each on the whole support set."""
    return replace(_made("gd", _Sgd, lr), full_batch=True)


def momentum(lr: Rate, beta: float = 0.9) -> InnerOptimizer:
    """Heavy-ball momentum as `torch.optim.SGD` has it: m ← βm + g, θ ← θ − α m."""
    _check_decay("momentum", "beta", beta)
    return _made("momentum", _Momentum, lr, beta)


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
    for i, beta in enumerate(betas):
        _check_decay("adam", f"betas[{i}]", beta)
    return _made("adam", _Adam, lr, *betas, eps)


Known = _Sgd | _Momentum | _Adam


def _made(
    name: str, kind: Callable[..., Known], lr: Rate, *more: float
) -> InnerOptimizer:
    rates = torch.as_tensor(lr)
    if not ((rates > 0) & rates.isfinite()).all():
        raise UserError(f"{name}: lr = {lr} is no learning rate; give a positive one")
    if isinstance(lr, Tensor):
        return with_rates(_built(name, kind, 1.0, *more), lr)
    return _built(name, kind, lr, *more)


@cache  # one object for equal settings, so that what is compiled with it is found again
def _built(
    name: str, kind: Callable[..., Known], lr: float, *more: float
) -> InnerOptimizer:
    formula = kind(lr, *more)
    return InnerOptimizer(name, lr, formula.init, OnCopies(formula))


def _check_decay(name: str, argument: str, beta: float) -> None:
    if not 0.0 <= beta < 1.0:
        raise UserError(f"{name}: {argument} = {beta}; it must lie in [0, 1)")


@dataclass(frozen=True)
class _Rated:
    """The init of an optimiser whose state carries its rates."""

    plain: InnerOptimizer
    rates: Tensor

    def __call__(self, theta: Tensor) -> State:
        rates = self.rates.to(theta)
        per_weight = rates.shape[-1:] == theta.shape[-1:]
        shape = theta.shape if per_weight else (*theta.shape[:-1], 1)
        return self.plain.init(theta) | {"lr": rates.expand(shape)}


def with_rates(inner: InnerOptimizer, rates: Tensor) -> InnerOptimizer:
    """Return an optimiser of this module with other rates, which its state carries.

    Args:
        inner: what one of the functions above made.
        rates: [P] for one a weight, in the model's order; [runs, 1] for one a run.

    Raises:
        UserError: the optimiser is one's own.
    """
    plain = inner.init.plain if isinstance(inner.init, _Rated) else inner
    if not isinstance(plain.update, OnCopies):
        raise UserError(
            f"{inner.name!r} does not say what it is at other rates; make it anew"
        )
    # Rates of the weights are in the model's order: no kernel may change it.
    alike = rates.dim() == 0 or rates.shape[-1] == 1
    update = plain.update if alike else plain.update.__call__
    return replace(
        plain, lr=rates, init=_Rated(plain, rates), update=update, stop=inner.stop
    )


def same_but_rate(one: InnerOptimizer, other: InnerOptimizer) -> bool:
    """Say whether two optimisers are equal, or differ in a rate that is a number."""
    if isinstance(one.lr, Tensor) or isinstance(other.lr, Tensor):
        return one is other
    mine, theirs = one.formula, other.formula
    if not isinstance(mine, Known) or not isinstance(theirs, Known):
        return one == other
    settings = [(inner.stop, inner.full_batch) for inner in (one, other)]
    return replace(mine, lr=theirs.lr) == theirs and settings[0] == settings[1]
