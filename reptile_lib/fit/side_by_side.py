"""Runs that differ by their seed alone, trained side by side as one stack of tasks.

::

    learners = [Reptile(mlp(1, 64, 64, 1, seed=seed), ...) for seed in range(3)]
    fit_side_by_side(learners, [Sine()] * 3, range(3), meta_steps=1_000, epsilon=...)

Small networks leave a machine idle, so their runs take less time side by side than one
after the other.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reptile_lib.errors import UserError
from reptile_lib.fit.graphs import recordable
from reptile_lib.inner import InnerOptimizer
from reptile_lib.learner import MetaLearner
from reptile_lib.meta import MetaState, Schedule
from reptile_lib.optimizers.formulas import same_but_rate, with_rates
from reptile_lib.params import layout
from reptile_lib.rng import Draws
from reptile_lib.tasks import Episodes, Tasks, minibatches

SAME = (
    "rule",
    "inner_steps",
    "inner_batch",
    "criterion",
    "moments",
    "outer",
    "device",
    "engine",
    "precision",
)


def fit_side_by_side(
    learners: Sequence[MetaLearner],
    tasks: Sequence[Tasks],
    seeds: Sequence[int],
    *,
    meta_steps: int,
    meta_batch: int = 1,
    epsilon: Schedule | Sequence[Schedule],
    progress: bool = False,
) -> None:
    """Train each learner on its tasks, as `fit` with its seed would, all at once.

    Each finds the φ of its own run, but for rounding. The history that all get holds
    means over the runs, the time of all together, and the number of `runs`.

    Args:
        learners: Reptile learners at the same meta-step, with settings that are equal
            but for the inner learning rate.
        tasks: of each learner.
        seeds: of each learner, as in `fit`.
        meta_steps: as in `fit`, like the next three.
        meta_batch: n, tasks a meta-step of each run.
        epsilon: ε; a schedule for all, or one for each.
        progress: draw a progress bar on stderr.

    Raises:
        UserError: the learners differ in more than their parameters, there is not one
            of everything for each, or as `fit`; the learners are then as they were
            when it was last well.
    """
    _check(learners, tasks, seeds)
    for learner, theirs in zip(learners, tasks, strict=True):
        learner.check(theirs)
    stack = copy(learners[0])
    stack.inner = _with_rates([learner.inner for learner in learners])
    stack.history = list(stack.history)
    stack.state = _joined([learner.state for learner in learners], stack.inner)
    try:
        stack.fit(
            _Together(tuple(tasks), tuple(seeds), stack.inner_steps, stack.inner_batch),
            meta_steps=meta_steps,
            meta_batch=meta_batch,
            epsilon=epsilon if callable(epsilon) else _in_rows(epsilon),
            seed=seeds[0],
            progress=progress,
        )
    finally:  # what was done before a Ctrl-C counts
        done = stack.history[len(learners[0].history) :]
        for i, learner in enumerate(learners):
            learner.state = stack.state.map(lambda t, i=i: t[i].clone())  # type: ignore[misc]
            if learner.state.inner_state:
                learner.state.inner_state.pop("lr", None)
            learner.history += [row | {"runs": len(learners)} for row in done]


@dataclass(frozen=True)
class _Together:
    """The tasks of several runs; a task of each stands behind every number."""

    tasks: tuple[Tasks, ...]
    seeds: tuple[int, ...]
    inner_steps: int
    inner_batch: int | None

    def to(self, device: torch.device) -> "_Together":
        return replace(self, tasks=tuple(t.to(device) for t in self.tasks))

    @property
    def recordable(self) -> bool:
        return all(map(recordable, self.tasks))

    def sample(self, draws: Draws) -> Episodes:
        """Return entries [m, runs, ...], minibatches included."""
        rows = []
        for tasks, seed in zip(self.tasks, self.seeds, strict=True):
            who = draws.with_seed(seed)
            found = tasks.sample(who)
            rows.append(minibatches(found, who, self.inner_steps, self.inner_batch))
        stacked: Episodes = pytree.tree_map(lambda *same: torch.stack(same, 1), *rows)
        return stacked


def _joined(states: Sequence[MetaState], inner: InnerOptimizer) -> MetaState:
    """Return one state of all runs: φ [runs, P]; rates that differ are in it."""

    def rows(first: object, *others: Tensor) -> object:  # what is no tensor is equal
        return torch.stack([first, *others]) if isinstance(first, Tensor) else first

    joined: MetaState = pytree.tree_map(rows, *states)
    state = joined.inner_state
    if state is not None and isinstance(inner.lr, Tensor):
        state = state | {"lr": inner.lr.to(joined.phi)}
    return joined._replace(inner_state=state)


def _with_rates(inners: Sequence[InnerOptimizer]) -> InnerOptimizer:
    """Return one optimiser for all runs, with a rate for each where they differ."""
    rates = [inner.lr for inner in inners]
    if len(set(rates)) == 1:
        return inners[0]
    return with_rates(inners[0], torch.tensor(rates)[:, None])


def _in_rows(schedules: Sequence[Schedule]) -> Schedule:
    return lambda done: torch.tensor([[schedule(done)] for schedule in schedules])


def _comparable(value: object) -> object:
    """Return what is equal for equal settings; two partials never are."""
    if isinstance(value, partial):
        return value.func, value.args, sorted(value.keywords.items())
    return value


def _check(
    learners: Sequence[MetaLearner], tasks: Sequence[Tasks], seeds: Sequence[int]
) -> None:
    if not len(learners) == len(tasks) == len(seeds) > 0:
        raise UserError(
            f"{len(learners)} learners, {len(tasks)} tasks, {len(seeds)} seeds; give as"
            " many of each, at least one"
        )
    first = learners[0]
    for learner in learners:
        for name in SAME:
            mine, theirs = getattr(first, name), getattr(learner, name)
            if _comparable(mine) != _comparable(theirs):
                raise UserError(
                    f"learners differ in {name}: {mine} and {theirs}; only seeds and"
                    " rates may differ"
                )
        if not same_but_rate(first.inner, learner.inner):
            raise UserError(
                f"learners differ in inner: {first.inner.name} and"
                f" {learner.inner.name}; only its rate, a number, may differ"
            )
        if layout(learner.model) != layout(first.model):
            raise UserError("learners have different models; only seeds may differ")
        if learner.state.meta_step != first.state.meta_step:
            raise UserError(
                f"learners stand at meta-steps {first.state.meta_step} and"
                f" {learner.state.meta_step}; bring them to the same one with fit"
            )
