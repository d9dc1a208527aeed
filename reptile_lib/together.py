"""Runs that differ by their seed alone, trained side by side as one stack of tasks.

::

    learners = [Reptile(mlp(1, 64, 64, 1, seed=seed), ...) for seed in range(3)]
    fit_together(learners, [Sine()] * 3, range(3), meta_steps=1_000, epsilon=...)

Small networks leave a machine idle, so their runs take less time side by side than one
after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reptile_lib.engine import Adapted, Engine, Loss, adapt, make_loss
from reptile_lib.errors import UserError
from reptile_lib.evaluate import check_ways
from reptile_lib.inner import Batch, InnerOptimizer, State
from reptile_lib.meta import Schedule, Target, mean_end, reptile
from reptile_lib.params import layout
from reptile_lib.rng import Draws
from reptile_lib.state import MetaState
from reptile_lib.tasks import Episodes, FewShotTasks, Tasks
from reptile_lib.train import MetaLearner

SAME = (
    "inner",
    "inner_steps",
    "inner_batch",
    "criterion",
    "moments",
    "outer",
    "device",
    "engine",
    "precision",
    "graphs",
)


def fit_together(
    learners: Sequence[MetaLearner],
    tasks: Sequence[Tasks],
    seeds: Sequence[int],
    *,
    meta_steps: int,
    meta_batch: int = 1,
    epsilon: Schedule,
    checkpoint: Callable[[], None] | None = None,
    checkpoint_every: int = 0,
    progress: bool = False,
) -> None:
    """Train each learner on its tasks, as `fit` with its seed would, all at once.

    Each finds the φ of its own run, but for rounding. The history that all get holds
    means over the runs, the time of all together, and the number of `runs`.

    Args:
        learners: Reptile learners with equal settings, at the same meta-step.
        tasks: of each learner.
        seeds: of each learner, as in `fit`.
        meta_steps: as in `fit`, like the next three.
        meta_batch: n, tasks a meta-step of each run.
        epsilon: ε.
        checkpoint: called before the first meta-step, at the end and in between, when
            the learners are where the training is; it may raise to end it there.
        checkpoint_every: meta-steps between two calls; 0 for at the end only.
        progress: draw a progress bar on stderr.

    Raises:
        UserError: the learners differ in more than their parameters, there is not one
            of everything for each, or as `fit`; the learners are then as they were
            when it was last well.
    """
    _check(learners, tasks, seeds)
    _, forward = make_loss(learners[0].model, learners[0].criterion)
    for learner, theirs in zip(learners, tasks, strict=True):
        if isinstance(theirs, FewShotTasks):
            check_ways(forward, learner.phi, theirs)
    stack = copy(learners[0])
    stack.rule = _reptile
    stack.history = list(stack.history)
    stack.state = MetaState(
        torch.stack([learner.phi for learner in learners]),
        _stacked([learner.state.inner_state for learner in learners]),
        _stacked([learner.state.outer_state for learner in learners]),
        stack.state.meta_step,
    )
    known = len(stack.history)

    def hand_back() -> None:
        nonlocal known
        phi, inner, outer, step = stack.state
        done, known = stack.history[known:], len(stack.history)
        for i, learner in enumerate(learners):
            own = _row(inner, i), _row(outer, i)
            learner.state = MetaState(phi[i].clone(), *own, step)
            learner.history += [row | {"runs": len(phi)} for row in done]

    def write_checkpoint() -> None:
        hand_back()
        if checkpoint:
            checkpoint()

    try:
        stack.fit(
            _Together(tuple(tasks), tuple(seeds)),
            meta_steps=meta_steps,
            meta_batch=meta_batch,
            epsilon=epsilon,
            seed=seeds[0],
            checkpoint_to=write_checkpoint,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
    finally:  # what was done before a Ctrl-C counts
        hand_back()


@dataclass(frozen=True)
class _Together:
    """The tasks of several runs; a task of each stands behind every number."""

    tasks: tuple[Tasks, ...]
    seeds: tuple[int, ...]

    def to(self, device: torch.device) -> "_Together":
        return _Together(tuple(t.to(device) for t in self.tasks), self.seeds)

    def sample(
        self, draws: Draws, inner_steps: int, inner_batch: int | None
    ) -> Episodes:
        """Return entries [m, runs, ...]."""
        found = [
            _tensors(tasks.sample(draws.with_seed(seed), inner_steps, inner_batch))
            for tasks, seed in zip(self.tasks, self.seeds, strict=True)
        ]
        return _episodes(torch.stack(same, 1) for same in zip(*found, strict=True))


def _tensors(episodes: Episodes) -> tuple[Tensor, ...]:
    return *episodes.support, episodes.order, *episodes.query


def _episodes(tensors: Iterator[Tensor]) -> Episodes:
    x, y, order, *query = tensors
    return Episodes(Batch(x, y), order, Batch(*query))


def _stacked(states: list[State | None]) -> State | None:
    first = states[0]
    if first is None:
        return None
    return {name: torch.stack([s[name] for s in states if s]) for name in first}


def _row(state: State | None, i: int) -> State | None:
    return state and {name: value[i].clone() for name, value in state.items()}


def _reptile(
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Follow `meta.reptile` with a φ and a state for each run: entries [runs, ...]."""
    n, runs = episodes.order.shape[:2]
    flat = _episodes(t.flatten(0, 1) for t in _tensors(episodes))

    def for_each_task(value: Tensor) -> Tensor:
        return value.expand(n, *value.shape).flatten(0, 1)

    def by_run(value: Tensor) -> Tensor:
        return value.view(n, runs, *value.shape[1:])

    start = {name: for_each_task(value) for name, value in (state or {}).items()}
    theta, ends, *watched = adapt(
        loss, for_each_task(phi), flat.support, flat.order, inner, start, engine
    )
    states = {name: by_run(value) for name, value in ends.items()}
    return mean_end(Adapted(by_run(theta), states, *watched))


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
        if learner.rule is not reptile:
            raise UserError("only Reptile trains several runs together; use fit")
        for name in SAME:
            mine, theirs = getattr(first, name), getattr(learner, name)
            if _comparable(mine) != _comparable(theirs):
                raise UserError(
                    f"learners differ in {name}: {mine} and {theirs}; only seeds may"
                    " differ"
                )
        if layout(learner.model) != layout(first.model):
            raise UserError("learners have different models; only seeds may differ")
        if learner.state.meta_step != first.state.meta_step:
            raise UserError(
                f"learners stand at meta-steps {first.state.meta_step} and"
                f" {learner.state.meta_step}; bring them to the same one with fit"
            )
