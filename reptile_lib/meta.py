"""The algorithm: meta-steps, with Reptile and its relatives as outer rules.

Every rule looks at the tasks of one meta-step and names a target; the outer step then
moves φ a fraction ε of the way, φ ← φ + ε(target − φ)::

    rule      target                                       source
    reptile   mean of φ̃ᵢ = U_τᵢ^k(φ)                       Nichol 2018, alg. 1, eq. 5
    fomaml    φ − mean of ∇L_query(φ̃ᵢ)                     Finn et al. 2017; Nichol § 2
    maml      φ − ∇ mean of L_query(φ̃ᵢ(φ)), through U      Finn et al. 2017
    joint     φ − ∇ mean of L_support(φ), no inner loop    joint training

For the last three, ε is the outer learning rate. All vectors are in the kernel's order,
and tasks are the first axis; φ may be [P], or [runs, P] for several runs side by side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reptile_lib.inner import InnerOptimizer, Moments, State, mean_state
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.params import interpolate
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import Episodes, Tasks, in_parts, minibatches

T = TypeVar("T")

Schedule = Callable[[float], float | Tensor]
"""Share of the meta-steps done, in [0, 1) -> ε: a number, or what broadcasts with φ."""


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


Rule = Callable[[InnerLoop, Tensor, Episodes, State | None], Target]
"""rule(U, phi, tasks, state) -> Target."""


def reptile(U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None) -> Target:
    """Target the mean of the adapted parameters; report the inner steps' loss."""
    adapted = U(phi, tasks.support, tasks.order, state)
    steps = adapted.steps.to(phi.dtype).mean()
    loss = adapted.losses.mean()
    return Target(adapted.theta.mean(0), mean_state(adapted.state), loss, steps)


def fomaml(U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None) -> Target:
    """Step along the query gradient taken at φ̃, as if φ̃ − φ did not depend on φ."""
    adapted = U(phi, tasks.support, tasks.order, state)
    g, losses = U.gradient(adapted.theta, tasks.query)
    steps = adapted.steps.to(phi.dtype).mean()
    return Target(phi - g.mean(0), mean_state(adapted.state), losses.mean(), steps)


def maml(U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None) -> Target:
    """Step along the gradient of the query loss through the inner steps."""
    start = phi.detach().requires_grad_()
    # of attention, only the plain form has a second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        adapted = U.differentiable(start, tasks.support, tasks.order, state)
        losses = U.losses(adapted.theta, tasks.query)
        (g,) = torch.autograd.grad(losses.mean(0).sum(), start)
    states = {name: value.detach() for name, value in adapted.state.items()}
    steps = adapted.steps.to(phi.dtype).mean()
    return Target(phi - g, mean_state(states), losses.detach().mean(), steps)


def joint(U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None) -> Target:
    """Step along the mean support gradient at φ: train one model for all tasks."""
    theta = phi.expand(*tasks.support.y.shape[: phi.dim()], -1)
    g, losses = U.gradient(theta, tasks.support)
    return Target(phi - g.mean(0), state, losses.mean())


def outer_step(
    phi: Tensor,
    target: Tensor,
    epsilon: float | Tensor,
    outer: InnerOptimizer | None = None,
    state: State | None = None,
) -> tuple[Tensor, State | None]:
    """Move φ a fraction ε of the way to the target, or to where `outer` proposes.

    An outer optimiser takes φ − target for the gradient (Nichol et al. 2018; Reddi et
    al. 2021, algorithm 1).

    Args:
        phi: [P].
        target: [P].
        epsilon: ε, a number or what broadcasts with φ.
        outer: an optimiser, or None.
        state: its state, or None before the first step.

    Returns:
        φ [P], state.
    """
    if outer is not None:
        state = outer.init(phi) if state is None else state
        target, state = outer.update(phi - target, state, phi)
    return interpolate(phi, target, epsilon), state


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

    def map(self, act: Callable[[Tensor], Tensor]) -> "MetaState":
        """Apply `act` to every tensor."""
        inner, outer = (
            state and {name: act(value) for name, value in state.items()}
            for state in (self.inner_state, self.outer_state)
        )
        return MetaState(act(self.phi), inner, outer, self.meta_step)


@dataclass(frozen=True)
class Training:
    """What the meta-steps of a run have in common."""

    U: InnerLoop
    rule: Rule
    tasks: Tasks
    team: "Team"
    inner_steps: int
    inner_batch: int | None
    meta_steps: int
    meta_batch: int
    epsilon: Schedule
    seed: int
    outer: InnerOptimizer | None = None
    moments: Moments = "carry"
    one_a_core: bool = False
    """Whether each task keeps a core busy; several processes may then cut tasks."""
    at_once: int = 256
    """Tasks held at a time: bounds memory, and how late a NaN is noticed."""

    def __post_init__(self) -> None:
        """Raise UserError for a seed out of range, before anything is done."""
        draws(self.seed, TRAIN, range(0), range(0), torch.device("cpu"))

    def sample(self, phi: Tensor, who: Draws) -> Episodes:
        """Draw tasks, for a φ, with minibatches."""
        found = self.tasks.sample(who).for_model(phi)
        if found.order.numel():
            return found
        return minibatches(found, who, self.inner_steps, self.inner_batch)

    def drawn(self, steps: range, phi: Tensor) -> Iterator[Iterator[Episodes]]:
        """Yield for each meta-step this process's tasks, in parts."""
        named = partial(draws, self.seed, TRAIN, device=phi.device)
        mine = self.team.share(self)
        return in_parts(
            lambda *of: self.sample(phi, named(*of)), steps, mine, self.at_once
        )


class Team(Protocol):
    """Those who share the tasks of a meta-step: one process, or several.

    `rank` says which process this is, of `size`.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102

    def share(self, run: Training) -> range:
        """Return which tasks of a meta-batch are this process's."""
        ...

    def target(
        self, run: Training, phi: Tensor, state: State | None, parts: Iterator[Episodes]
    ) -> Target:
        """Ask the rule about each part of a meta-batch, and average over all tasks."""
        ...

    def portion(self, count: int) -> range:
        """Return which of `count` things are this process's."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Join the rows of all processes, in their order."""
        ...

    def first_alone(self, act: Callable[[], T]) -> T:
        """Let the first process act and return what it did; if it fails, all raise."""
        ...


class Alone:
    """The team of one process."""

    rank, size = 0, 1

    def share(self, run: Training) -> range:
        """Return all tasks of a meta-batch."""
        return range(run.meta_batch)

    def target(
        self, run: Training, phi: Tensor, state: State | None, parts: Iterator[Episodes]
    ) -> Target:
        """Ask the rule about each part of a meta-batch, and average."""
        found = [(len(p.order), run.rule(run.U, phi, p, state)) for p in parts]
        return weighted_mean(found, run.meta_batch)

    def portion(self, count: int) -> range:
        """Return all."""
        return range(count)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def first_alone(self, act: Callable[[], T]) -> T:
        """Act."""
        return act()


def weighted_mean(
    found: list[tuple[int, Target]],
    count: int,
    add_up: Callable[[list[Tensor]], list[Tensor]] = list,
) -> Target:
    """Average targets over the tasks of a meta-batch.

    Args:
        found: targets, each with the number of tasks that it is the mean of, or with 1
            if it is their sum.
        count: tasks of the whole meta-batch.
        add_up: sums each tensor over all processes.
    """
    (weight, target), *_ = found
    if weight == count:
        return target

    def vectors(t: Target) -> list[Tensor]:
        states = [(t.state or {})[name] for name in target.state or {}]
        watched = [t.loss] if t.steps is None else [t.loss, t.steps]
        return [t.phi, *states, *(w.to(t.phi) for w in watched)]

    weighted = ([weight * v for v in vectors(part)] for weight, part in found)
    sums = [sum(same[1:], same[0]) for same in zip(*weighted, strict=True)]
    phi, *rest = (value / count for value in add_up(sums))
    state = target.state and dict(zip(target.state, rest, strict=False))
    return Target(phi, state, *rest[len(state or {}) :])


def meta_steps(
    run: Training, now: MetaState, steps: range
) -> Iterator[tuple[MetaState, Target]]:
    """Do meta-steps without waiting for the device; yield where each one leads.

    With `meta_batch` = 1 and the rule `reptile` this is algorithm 1 of Nichol
    et al. 2018 (serial), with more tasks per meta-step its equation 5 (batched).
    """
    for step, tasks in zip(steps, run.drawn(steps, now.phi), strict=True):
        epsilon = run.epsilon(step / run.meta_steps)
        state = now.inner_state if run.moments == "carry" else None
        target = run.team.target(run, now.phi, state, tasks)
        phi, outer = outer_step(
            now.phi, target.phi, epsilon, run.outer, now.outer_state
        )
        now = MetaState(phi, target.state, outer, step + 1)
        yield now, target
