"""Few-shot evaluation: adapt to new tasks, then count right answers.

Batch norm uses the statistics of the batch at hand, so it matters which queries are
shown together (Nichol et al. 2018, section 6.1):

- transductive: one forward pass over all queries of a task, which lets information
  about them flow through the normalisation;
- non-transductive: each query alone, together with the whole support set.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from reptile_lib.engine import (
    Engine,
    Precision,
    adapt,
    make_loss,
    map_tasks,
    precise,
)
from reptile_lib.errors import UserError
from reptile_lib.inner import Batch, InnerOptimizer, Moments, State
from reptile_lib.rng import TEST, draws
from reptile_lib.tasks import Episodes, FewShotTasks, Tasks
from reptile_lib.workers import gather, share, world

CHUNK = 100  # tasks held in memory at a time


class Learner(Protocol):
    """What evaluation needs of a learner; `train.MetaLearner` has it."""

    model: nn.Module  # on the device where the tasks will live
    inner: InnerOptimizer
    inner_batch: int | None
    moments: Moments
    engine: Engine
    precision: Precision
    compiled: bool

    @property
    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss, criterion(outputs, y) -> scalar."""
        ...

    @property
    def phi(self) -> Tensor:
        """The initialisation [P]."""
        ...

    @property
    def inner_state(self) -> State | None:
        """The inner optimiser's mean state after the last meta-step, if any."""
        ...


@dataclass(frozen=True)
class Score:
    """Mean accuracy over tasks with its 95 % confidence interval."""

    values: Tensor
    """[tasks], accuracy of each task in [0, 1]; float64 on the CPU."""

    @property
    def accuracy(self) -> float:
        """Mean over tasks, in [0, 1]."""
        return self.values.mean().item()

    @property
    def ci95(self) -> float:
        """Half width of the normal 95 % interval of the mean; nan for one task."""
        deviation = self.values.std().item() if len(self.values) > 1 else math.nan
        return 1.96 * deviation / math.sqrt(len(self.values))

    def as_dict(self) -> dict[str, float | int | None]:
        """Return accuracy, ci95 (None for one task) and the tasks, for JSON."""
        return {
            "accuracy": self.accuracy,
            "ci95": self.ci95 if len(self.values) > 1 else None,
            "tasks": len(self.values),
        }

    def __str__(self) -> str:
        """Read as "81.4 ± 1.2 % (1000 tasks)"."""
        accuracy, ci95 = 100 * self.accuracy, 100 * self.ci95
        return f"{accuracy:.1f} ± {ci95:.1f} % ({len(self.values)} tasks)"


class Evaluation(NamedTuple):
    """The scores of both protocols on the same tasks."""

    transductive: Score
    non_transductive: Score

    def as_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return both scores as dicts, for JSON."""
        return {name: score.as_dict() for name, score in self._asdict().items()}

    def __str__(self) -> str:
        """Print a line a protocol."""
        return (
            f"transductive:     {self.transductive}\n"
            f"non-transductive: {self.non_transductive}"
        )


def evaluate(
    learner: Learner,
    tasks: FewShotTasks,
    *,
    inner_steps: int = 50,
    inner_batch: int | None = None,
    count: int = 1000,
    seed: int = 0,
    stream: int = TEST,
    moments: Moments | None = None,
) -> Evaluation:
    """Adapt φ to `count` tasks, one by one from the same start, and score the queries.

    Several processes (`workers`) share the tasks and get the same answer; then all of
    them must call.

    Args:
        learner: the meta-learner; it is not changed.
        tasks: few-shot tasks, usually of classes that training never saw.
        inner_steps: steps of adaptation; the paper takes 50 on Omniglot.
        inner_batch: examples a step; by default the learner's, or the whole support
            set where that is smaller.
        count: number of tasks.
        seed: which tasks; the same seed gives the same tasks to every learner.
        stream: `rng.TEST` or `rng.VALIDATE`.
        moments: "carry" starts the inner optimiser from the state that training left,
            as the authors' code does; "reset" from nothing. Default: as in training.

    Raises:
        UserError: the model does not fit the tasks' images or ways, `count` is below
            one, or tasks diverge.
    """
    loss, forward = make_loss(
        learner.model, learner.criterion, learner.precision, learner.compiled
    )
    check_ways(forward, learner.phi, tasks)
    if inner_batch is None:
        size = tasks.ways * tasks.shots
        inner_batch = min(learner.inner_batch or size, size)

    def one(theta: Tensor, x: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        together = forward(theta, query_x)  # [Q, ways]
        alone = [forward(theta, torch.cat([x, q[None]]))[-1] for q in query_x]
        hits = torch.stack([together, torch.stack(alone)]).argmax(-1) == query_y
        return hits.double().mean(1)  # [2]: both protocols

    mine, scores = share(count, world()), [torch.empty(0, 3, dtype=torch.float64)]
    with precise(learner.precision):
        for (support, order, query), state in _chunks(
            learner, tasks, inner_steps, inner_batch, count, mine, seed, stream, moments
        ):
            theta, *_ = adapt(
                loss, learner.phi, support, order, learner.inner, state, learner.engine
            )
            hits = map_tasks(one, learner.engine, theta, support.x, *query)
            bad = ~theta.isfinite().all(1, keepdim=True)
            scores.append(torch.cat([hits, bad], 1).cpu())
    *protocols, diverged = gather(torch.cat(scores)).unbind(1)
    if bad_tasks := int(diverged.sum().item()):
        raise UserError(
            f"{bad_tasks} of {count} tasks diverged in {inner_steps} inner steps;"
            f" lower the inner learning rate (now {learner.inner.lr})"
        )
    return Evaluation(*map(Score, protocols))


def adaptation_curve(
    learner: Learner,
    tasks: Tasks,
    *,
    inner_steps: int,
    inner_batch: int | None = None,
    count: int = 1000,
    seed: int = 0,
    moments: Moments | None = None,
) -> Tensor:
    """Measure the query loss of `count` tasks after 0, 1, ... k inner steps.

    `inner_batch` None takes the whole support set, and no rule stops the inner loops;
    the rest is as in `evaluate`, but of several processes each one does all the tasks.

    Returns:
        float64 [count, k + 1] on the CPU.
    """
    loss, _ = make_loss(learner.model, learner.criterion, learner.precision)

    def query_loss(theta: Tensor, query: Batch) -> Tensor:
        return map_tasks(
            lambda theta, x, y: loss(theta, Batch(x, y)), learner.engine, theta, *query
        )

    curves = []
    with precise(learner.precision):
        for (support, order, query), state in _chunks(
            learner,
            tasks,
            inner_steps,
            inner_batch,
            count,
            range(count),
            seed,
            TEST,
            moments,
        ):
            theta = learner.phi.expand(len(order), -1)
            losses = [query_loss(theta, query)]
            for j in range(inner_steps):
                theta, state, *_ = adapt(
                    loss,
                    theta,
                    support,
                    order[:, j : j + 1],
                    replace(learner.inner, stop=None),
                    state,
                    learner.engine,
                )
                losses.append(query_loss(theta, query))
            curves.append(torch.stack(losses, 1).double().cpu())
    return torch.cat(curves)


def _chunks(
    learner: Learner,
    tasks: Tasks,
    inner_steps: int,
    inner_batch: int | None,
    count: int,
    mine: range,
    seed: int,
    stream: int,
    moments: Moments | None,
) -> Iterator[tuple[Episodes, State | None]]:
    """Sample tasks `mine` of `count` in pieces, each with the state to start from."""
    if count < 1 or inner_steps < 0:
        raise UserError(
            f"count = {count}, inner_steps = {inner_steps}; give at least 1 task and"
            " no negative number of steps"
        )
    if moments not in (None, *get_args(Moments)):
        raise UserError(f'moments = {moments!r}; choose "carry" or "reset"')
    carried = (moments or learner.moments) == "carry"
    device = learner.phi.device
    tasks = tasks.to(device)
    for first in range(0, len(mine), CHUNK):
        chunk = mine[first : first + CHUNK]
        chosen = draws(seed, stream, range(1), chunk, device)
        yield (
            tasks.sample(chosen, inner_steps, inner_batch),
            learner.inner_state if carried else None,
        )


def check_ways(
    forward: Callable[[Tensor, Tensor], Tensor], phi: Tensor, tasks: FewShotTasks
) -> None:
    """Raise UserError unless the model maps the tasks' images to a logit a way."""
    x = tasks.classes.images[:2, 0].to(phi)
    try:
        answers = forward(phi, x).shape[-1]
    except RuntimeError as error:
        raise UserError(
            f"the model does not take the tasks' images {list(x.shape[1:])} [channels,"
            f" height, width]; build it for them ({str(error).splitlines()[0]})"
        ) from error
    if answers != tasks.ways:
        raise UserError(
            f"the model tells {answers} classes apart, the tasks have {tasks.ways}"
            " ways; build the model and the tasks with the same number"
        )
