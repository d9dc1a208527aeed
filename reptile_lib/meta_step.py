"""Meta-steps: tasks are drawn, adapted to and averaged, and φ moves on.

Of several processes, each does this on its share of the tasks.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from reptile_lib.conv4_gradient import Conv4Loss
from reptile_lib.engine import Loss
from reptile_lib.errors import UserError
from reptile_lib.meta import Target, outer_step, reptile
from reptile_lib.rng import TRAIN, draws
from reptile_lib.state import MetaState, Run
from reptile_lib.tasks import Episodes, in_parts
from reptile_lib.workers import (
    Piece,
    mean_target,
    pieces,
    reptile_in_pieces,
    share,
    world,
)

if TYPE_CHECKING:
    from reptile_lib.train import MetaLearner

CHUNK = 256  # tasks held at a time: bounds memory, and how late a NaN is noticed


def take(learner: "MetaLearner", run: Run, steps: range) -> list[list[float]]:
    """Do some meta-steps without waiting for the device; move the learner's state on.

    Returns:
        loss and mean number of inner steps of each; NaN where none is counted.
    """
    before = now = learner.state
    work = _work(learner, run.meta_batch)
    mine = share(run.meta_batch, world())
    if work is not None:
        mine = range(work[0].task, work[-1].task + 1)
    if isinstance(loss := run.loss, Conv4Loss):
        both = [now.inner_state, now.outer_state]
        loss, phi, (state, outer) = loss.enter(now.phi, both)
        now = MetaState(phi, state, outer, now.meta_step)

    def sample(steps: range, some: range) -> Episodes:
        who = draws(run.seed, TRAIN, steps, some, now.phi.device)
        return run.tasks.sample(who, learner.inner_steps, learner.inner_batch)

    drawn = in_parts(sample, steps, mine, CHUNK)
    watched = []
    try:
        for step, parts in zip(steps, drawn, strict=True):
            target = _target(learner, run, loss, now, parts, work)
            epsilon = run.epsilon(step / run.meta_steps)
            phi, outer = outer_step(
                now.phi, target.phi, epsilon, learner.outer, now.outer_state
            )
            now = MetaState(phi, target.state, outer, step + 1)
            watched.append(target.watched())
    finally:
        if isinstance(loss, Conv4Loss):
            both = [now.inner_state, now.outer_state]
            phi, (state, outer) = loss.leave(now.phi, both)
            now = MetaState(phi, state, outer, now.meta_step)
        learner.state = now
    values: list[list[float]] = torch.stack(watched).tolist()
    seen = [("loss", step, loss) for step, (loss, _) in zip(steps, values, strict=True)]
    seen.append(("sum of phi", steps[-1], learner.phi.sum().item()))
    for what, step, value in seen:
        if not math.isfinite(value):
            learner.state = before
            raise UserError(
                f"training diverged: the {what} is {value} at meta-step {step};"
                f" lower the inner learning rate (now {learner.inner.lr}) or epsilon"
            )
    return values


def _target(
    learner: "MetaLearner",
    run: Run,
    loss: Loss,
    now: MetaState,
    parts: Iterator[Episodes],
    work: list[Piece] | None,
) -> Target:
    """Ask the rule about each part of a meta-batch, and average."""
    state = now.inner_state if learner.moments == "carry" else None
    context = (learner.inner, state, learner.engine)
    if work is not None:
        sums = reptile_in_pieces(loss, now.phi, next(parts), work, *context)
        return mean_target([(1, sums)], run.meta_batch)
    found = [
        (len(part.order), run.rule(loss, now.phi, part, *context)) for part in parts
    ]
    return mean_target(found, run.meta_batch)


def _work(learner: "MetaLearner", meta_batch: int) -> list[Piece] | None:
    """Cut tasks so that all processes end together; None to work on whole tasks.

    It pays where a task keeps a core busy and the rest of the division is large.
    """
    here = world()
    uneven = meta_batch % here.size and meta_batch <= CHUNK
    fixed = learner.rule is reptile and learner.inner.stop is None
    if not uneven or learner.engine != "threads" or not fixed:
        return None
    return pieces(meta_batch, learner.inner_steps, here)
