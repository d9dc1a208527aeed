"""Few-shot evaluation: adapt to new tasks, then count right answers.

Batch norm uses the statistics of the batch at hand, so it matters which queries are
shown together (Nichol et al. 2018, section 6.1):

- transductive: one forward pass over all queries of a task, which lets information
  about them flow through the normalisation;
- non-transductive: each query alone, together with the whole support set;
- support statistics: those of the support set, kept as `models.frozen` does, so that a
  query's answer depends on no other. It is what one deploys, and not in the paper.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs
from reptile_lib.inner import InnerOptimizer, Moments, State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.kernel import Kernel, reordered
from reptile_lib.meta import MetaState, Team
from reptile_lib.rng import TEST, draws
from reptile_lib.tasks import Episodes, Tasks, minibatches

AT_ONCE = 100  # tasks held in memory at a time


class Learner(Protocol):
    """What evaluation needs of a learner; `learner.MetaLearner` has it."""

    inner: InnerOptimizer
    inner_batch: int | None
    moments: Moments
    state: MetaState

    @property
    def kernel(self) -> Kernel: ...  # noqa: D102
    @property
    def team(self) -> Team: ...  # noqa: D102
    def check(self, tasks: Tasks) -> None: ...  # noqa: D102
    def computing(self) -> AbstractContextManager[object]: ...  # noqa: D102
    def on_support(self, theta: Tensor, x: Inputs, query: Inputs) -> Tensor | None: ...  # noqa: D102


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
    """The scores of all protocols on the same tasks."""

    transductive: Score
    non_transductive: Score
    support_statistics: Score

    def as_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return the scores as dicts, for JSON."""
        return {name: score.as_dict() for name, score in self._asdict().items()}

    def __str__(self) -> str:
        """Print a line a protocol."""
        return (
            f"transductive:       {self.transductive}\n"
            f"non-transductive:   {self.non_transductive}\n"
            f"support statistics: {self.support_statistics}"
        )


def evaluate(
    learner: Learner,
    tasks: Tasks,
    *,
    inner_steps: int = 50,
    inner_batch: int | None = None,
    count: int = 1000,
    seed: int = 0,
    stream: int = TEST,
    moments: Moments | None = None,
    at_once: int = AT_ONCE,
) -> Evaluation:
    """Adapt φ to `count` tasks, one by one from the same start, and score the queries.

    Several processes (`parallel`) share the tasks and get the same answer; then all of
    them must call.

    Args:
        learner: the meta-learner; it is not changed.
        tasks: classification tasks, usually of classes that training never saw.
        inner_steps: steps of adaptation; the paper takes 50 on Omniglot.
        inner_batch: examples a step; by default the learner's, or the whole support
            set where that is smaller.
        count: number of tasks.
        seed: which tasks; the same seed gives the same tasks to every learner.
        stream: `rng.TEST` or `rng.VALIDATE`.
        moments: "carry" starts the inner optimiser from the state that training left,
            as the authors' code does; "reset" from nothing. Default: as in training.
        at_once: tasks held in memory at a time.

    Raises:
        UserError: the model does not fit the tasks, `count` is below one, or tasks
            diverge.

    >>> from reptile_lib import Examples, FewShotTasks, Reptile, mlp, sgd
    >>> numbers = torch.tensor([[[-1.0], [-2.0]], [[1.0], [2.0]]])
    >>> tasks = FewShotTasks(Examples(numbers, ("below", "above")), ways=2, shots=1)
    >>> learner = Reptile(mlp(1, 2), sgd(lr=1.0), inner_steps=5)
    >>> print(evaluate(learner, tasks, inner_steps=20, count=30))
    transductive:       100.0 ± 0.0 % (30 tasks)
    non-transductive:   100.0 ± 0.0 % (30 tasks)
    support statistics: 100.0 ± 0.0 % (30 tasks)
    """
    batch: int | Literal["learner"] = "learner" if inner_batch is None else inner_batch
    drawn = Drawn(learner, tasks, inner_steps, batch, seed, stream, moments, at_once)
    U = InnerLoop(learner.kernel, learner.inner)
    scores = [torch.empty(0, 4, dtype=torch.float64)]
    with learner.computing():
        for phi, state, episodes in drawn.parts(learner.team.portion(count), count):
            theta = U(phi, episodes.support, episodes.order, state).theta
            protocols = _protocols(learner, theta, episodes)
            hits = [answers.argmax(-1) == episodes.query.y for answers in protocols]
            hits.append(~theta.isfinite().all(1, keepdim=True))
            scores.append(torch.stack([hit.double().mean(1) for hit in hits], 1).cpu())
    *all_three, diverged = learner.team.gather(torch.cat(scores)).unbind(1)
    if bad_tasks := int(diverged.sum().item()):
        raise UserError(
            f"{bad_tasks} of {count} tasks diverged in {inner_steps} inner steps;"
            f" lower the inner learning rate (now {learner.inner.lr})"
        )
    return Evaluation(*map(Score, all_three))


def _protocols(
    learner: Learner, theta: Tensor, episodes: Episodes
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits [n, Q, ways] of each protocol."""
    kernel, support, query = learner.kernel, episodes.support.x, episodes.query.x

    def with_support(i: int) -> Inputs:
        joined: Inputs = tree_map(
            lambda s, q: torch.cat([s, q[:, i : i + 1]], 1), support, query
        )
        return joined

    queries = range(episodes.query.y.shape[1])
    alone = [kernel.outputs(theta, with_support(i))[:, -1] for i in queries]
    together = kernel.outputs(theta, query)
    kept = learner.on_support(theta, support, query)
    return together, torch.stack(alone, 1), together if kept is None else kept


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
    drawn = Drawn(learner, tasks, inner_steps, inner_batch, seed, TEST, moments)
    U = InnerLoop(learner.kernel, replace(learner.inner, stop=None))
    curves = []
    with learner.computing():
        for theta, state, (support, query, order) in drawn.parts(range(count), count):
            losses = [U.losses(theta.expand(len(order), -1), query)]
            for j in range(inner_steps):
                theta, state, *_ = U(theta, support, order[:, j : j + 1], state)
                losses.append(U.losses(theta, query))
            curves.append(torch.stack(losses, 1).double().cpu())
    return torch.cat(curves)


@dataclass(frozen=True)
class Drawn:
    """Tasks to measure on, with where to start from."""

    learner: Learner
    tasks: Tasks
    inner_steps: int
    inner_batch: int | Literal["learner"] | None
    """None is the whole support set, "learner" as in training, at most that."""
    seed: int
    stream: int
    moments: Moments | None
    at_once: int = AT_ONCE

    def parts(
        self, mine: range, count: int
    ) -> Iterator[tuple[Tensor, State | None, Episodes]]:
        """Yield φ and a state, in the kernel's order, and some tasks of `mine`."""
        learner, kernel = self.learner, self.learner.kernel
        phi, state, *_ = learner.state
        if count < 1 or self.inner_steps < 0:
            raise UserError(
                f"count = {count}, inner_steps = {self.inner_steps}; give at least 1"
                " task and no negative number of steps"
            )
        if self.at_once < 1:
            raise UserError(f"at_once = {self.at_once}; give at least 1")
        if self.moments not in (None, *get_args(Moments)):
            raise UserError(f'moments = {self.moments!r}; choose "carry" or "reset"')
        carried = (self.moments or learner.moments) == "carry"
        start = reordered(state, phi, kernel.pack) if carried and state else None
        learner.check(self.tasks)
        tasks = self.tasks.to(phi.device)
        for first in range(0, len(mine), self.at_once):
            some = mine[first : first + self.at_once]
            who = draws(self.seed, self.stream, range(1), some, phi.device)
            found = tasks.sample(who).for_model(phi)
            size, batch = found.support.y.shape[1], self.inner_batch
            if batch == "learner":
                batch = min(learner.inner_batch or size, size)
            found = minibatches(found, who, self.inner_steps, batch)
            yield kernel.pack(phi), start, found
