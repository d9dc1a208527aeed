"""The algorithm: Reptile and its relatives as outer rules, and schedules of ε.

Every rule looks at the tasks of one meta-step and names a target; the outer step then
moves φ a fraction ε of the way, φ ← φ + ε(target − φ)::

    rule      target                                       source
    reptile   mean of φ̃ᵢ = U_τᵢ^k(φ)                       Nichol et al. 2018, alg. 1, 2
    fomaml    φ − mean of ∇L_query(φ̃ᵢ)                     Finn et al. 2017; Nichol § 3
    maml      φ − ∇ mean of L_query(φ̃ᵢ(φ)), through U      Finn et al. 2017
    joint     φ − ∇ mean of L_support(φ), no inner loop    joint training

For the last three, ε is the outer learning rate.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from reptile_lib.engine import Adapted, Engine, Loss, adapt, gradient, map_tasks
from reptile_lib.errors import UserError
from reptile_lib.inner import Batch, InnerOptimizer, State, mean_state
from reptile_lib.params import interpolate
from reptile_lib.tasks import Episodes


class Target(NamedTuple):
    """What a rule makes of the tasks of one meta-step."""

    phi: Tensor
    """[P]: where to move."""
    state: State | None
    """Inner state, averaged over the tasks; None if there is none."""
    loss: Tensor
    """[]: mean training loss of the tasks, to watch."""
    steps: Tensor | None = None
    """[]: mean number of inner steps of the tasks, if the rule takes any."""

    def watched(self) -> Tensor:
        """Return loss and steps [2]; NaN for steps that are not counted."""
        steps = torch.nan * self.loss if self.steps is None else self.steps
        return torch.stack([self.loss, steps.to(self.loss)])


Rule = Callable[[Loss, Tensor, Episodes, InnerOptimizer, State | None, Engine], Target]
"""rule(loss, phi, episodes, inner, state, engine) -> Target."""


def reptile(
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Target the mean of the adapted parameters; report the inner steps' loss."""
    support, order, _ = episodes
    return mean_end(adapt(loss, phi, support, order, inner, state, engine))


def mean_end(adapted: Adapted) -> Target:
    """Average what inner loops leave behind over the tasks, the first axis."""
    return Target(
        adapted.theta.mean(0),
        mean_state(adapted.state),
        adapted.losses.mean(),
        adapted.steps.to(adapted.theta.dtype).mean(),
    )


def fomaml(
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Step along the query gradient taken at φ̃, as if φ̃ did not depend on φ."""
    support, order, query = episodes
    adapted = adapt(loss, phi, support, order, inner, state, engine)
    g, value = _mean_gradient(loss, adapted.theta, query, engine)
    steps = adapted.steps.to(phi.dtype).mean()
    return Target(phi - g, mean_state(adapted.state), value, steps)


def maml(
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Step along the gradient of the query loss through the inner steps."""
    support, order, query = episodes
    start = phi.detach().requires_grad_()
    with torch.enable_grad():
        adapted = adapt(
            loss, start, support, order, inner, state, engine, differentiable=True
        )
        value = vmap(loss)(adapted.theta, query).mean()
    (g,) = torch.autograd.grad(value, start)
    states = {name: value.detach() for name, value in adapted.state.items()}
    steps = adapted.steps.to(phi.dtype).mean()
    return Target(phi - g, mean_state(states), value.detach(), steps)


def joint(
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Step along the mean support gradient at φ: train one model for all tasks."""
    theta = phi.expand(len(episodes.order), -1)
    g, value = _mean_gradient(loss, theta, episodes.support, engine)
    return Target(phi - g, state, value)


def _mean_gradient(
    loss: Loss, theta: Tensor, batch: Batch, engine: Engine
) -> tuple[Tensor, Tensor]:
    """Mean over tasks of the gradient [P] and the loss [] at theta [n, P]."""
    if engine == "stacked":
        g, values = gradient(vmap(loss), theta, batch)
        return g.mean(0), values.mean()

    def one(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([t.view(-1) for t in gradient(loss, theta, Batch(x, y))])

    mean = map_tasks(one, engine, theta, *batch).mean(0)
    return mean[:-1], mean[-1]


def outer_step(
    phi: Tensor,
    target: Tensor,
    epsilon: float,
    outer: InnerOptimizer | None = None,
    state: State | None = None,
) -> tuple[Tensor, State | None]:
    """Move φ a fraction ε of the way to the target, or to where `outer` proposes.

    An outer optimiser takes φ − target for the gradient (Nichol et al. 2018; Reddi et
    al. 2021, algorithm 1).

    Args:
        phi: [P].
        target: [P].
        epsilon: ε.
        outer: an optimiser, or None.
        state: its state, or None before the first step.

    Returns:
        φ [P], state.
    """
    if outer is not None:
        state = outer.init(phi) if state is None else state
        target, state = outer.update(phi - target, state, phi)
    return interpolate(phi, target, epsilon), state


Schedule = Callable[[float], float]
"""Share of the meta-steps done, in [0, 1) -> ε."""


def constant(epsilon: float) -> Schedule:
    """Keep ε as it is."""
    return linear(epsilon, epsilon)


def linear(start: float, end: float) -> Schedule:
    """Move ε from `start` to `end` in equal steps; the paper's schedule is 1 to 0."""
    for epsilon in (start, end):
        if not math.isfinite(epsilon) or epsilon < 0:
            raise UserError(f"epsilon = {epsilon}; give a number that is not negative")
    return lambda done: start + done * (end - start)


def cosine(start: float, end: float) -> Schedule:
    """Move ε from `start` to `end` along half a cosine, slowly at both ends.

    Loshchilov & Hutter 2017, without their restarts.
    """
    line = linear(start, end)
    return lambda done: line((1 - math.cos(math.pi * done)) / 2)
