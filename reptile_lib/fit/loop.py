"""The loop around the meta-steps: history, validation, checkpoints, Ctrl-C."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from reptile_lib import params
from reptile_lib.device import out_of_memory
from reptile_lib.errors import UserError
from reptile_lib.fit.checks import Learner
from reptile_lib.fit.prepare import advance_of
from reptile_lib.meta import MetaState, Training
from reptile_lib.parallel.signals import uninterrupted
from reptile_lib.storage import checkpoint

HISTORY_ROWS = 200  # about as many rows as a history has


@dataclass
class Loop:
    """A `fit` on its way; the arguments are those of `MetaLearner.fit`."""

    learner: Learner
    run: Training
    validate: Callable[[], dict[str, float]] | None
    validate_every: int
    checkpoint_to: Path | None
    checkpoint_every: int
    config: dict[str, Any] | None
    watched: list[list[float]] = field(default_factory=list)
    """Loss and number of inner steps of each meta-step since the last row."""
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.advance = advance_of(self.learner, self.run)

    def go(self, progress: bool) -> None:
        """Take meta-steps until all are done."""
        learner, run, team = self.learner, self.run, self.run.team
        if self.checkpoint_to:
            path, step = self.checkpoint_to, learner.state.meta_step
            layout = params.layout(learner.model)
            team.first_alone(lambda: checkpoint.refuse_a_run(path, layout, step))
            if step == 0:  # a folder that cannot be written shows itself now
                self.write_checkpoint()
        bar = tqdm(
            total=run.meta_steps,
            initial=learner.state.meta_step,
            disable=not progress or team.rank > 0,
            unit="meta-step",
            smoothing=0.05,
        )
        self.began -= learner.history[-1]["seconds"] if learner.history else 0.0
        chunk = max(1, run.at_once // run.meta_batch)
        periods = [n for n in (self.validate_every, self.checkpoint_every) if n]
        try:
            with bar:
                while (start := learner.state.meta_step) < run.meta_steps:
                    ends = [(start // n + 1) * n for n in periods]
                    stop = min(start + chunk, run.meta_steps, *ends)
                    self.note(range(start, stop), self.take(range(start, stop)))
                    bar.update(stop - start)
                    if learner.history:
                        bar.set_postfix(loss=f"{learner.history[-1]['loss']:.3f}")
                    self.halt(stop)
        except KeyboardInterrupt:
            if self.checkpoint_to and team.rank == 0:  # the others may be gone
                with uninterrupted():
                    learner.save(self.checkpoint_to, self.config)
            raise

    def take(self, steps: range) -> list[list[float]]:
        """Do some meta-steps, and look at the device once, at their end.

        Returns:
            for each, the loss, and the mean number of inner steps or NaN.
        """
        learner, kernel = self.learner, self.run.U.kernel
        before, size = learner.state, learner.state.phi.shape[-1:]

        def turned(state: MetaState, turn: Callable[[Tensor], Tensor]) -> MetaState:
            return state.map(lambda v: turn(v) if v.shape[-1:] == size else v)

        now, watched = turned(before, kernel.pack), []
        try:
            for reached, seen in self.advance(now, steps):
                now = reached
                watched.append(seen)
        except KeyboardInterrupt:  # the history has what was done, as φ has
            done: list[list[float]] = torch.cat(watched).tolist() if watched else []
            self.note(steps[: len(done)], done)
            raise
        finally:
            learner.state = turned(now, kernel.unpack)
        values: list[list[float]] = torch.cat(watched).tolist()
        sums = [("loss", step, v[0]) for step, v in zip(steps, values, strict=True)]
        sums.append(("sum of phi", steps[-1], learner.state.phi.sum().item()))
        for what, step, value in sums:
            if not math.isfinite(value):
                learner.state = before
                raise UserError(
                    f"training diverged: the {what} is {value} at meta-step {step};"
                    " lower the inner learning rate (now"
                    f" {self.run.U.inner.lr}) or epsilon"
                )
        return values

    def note(self, steps: range, values: list[list[float]]) -> None:
        """Write rows of the history: at equal distances, and where the loop halts."""
        run, seconds = self.run, time.perf_counter() - self.began
        for step, seen in zip(steps, values, strict=True):
            self.watched.append(seen)
            done, every = step + 1, max(1, run.meta_steps // HISTORY_ROWS)
            if done % every and done != run.meta_steps and not self.halts_at(done):
                continue
            epsilon = run.epsilon(step / run.meta_steps)
            row = {
                "meta_step": done,
                "epsilon": torch.as_tensor(epsilon, dtype=torch.float64).mean().item(),
                "loss": mean(loss for loss, _ in self.watched),
                "seconds": seconds,
            }
            if not math.isnan(taken := mean(taken for _, taken in self.watched)):
                row["inner_steps"] = taken
            self.learner.history.append(row)
            self.watched = []

    def halts_at(self, step: int) -> bool:
        """Say whether the loop validates or saves after so many meta-steps."""
        periods = (self.validate_every, self.checkpoint_every)
        return any(n and step % n == 0 for n in periods)

    def halt(self, step: int) -> None:
        """Validate and save where it is time."""
        every, last = self.checkpoint_every, self.run.meta_steps
        if self.validate and self.validate_every and step % self.validate_every == 0:
            self.learner.history[-1] |= _numbers(self.validate())
        if step == last or (every and step % every == 0):
            self.write_checkpoint()

    def write_checkpoint(self) -> None:
        """Save the learner, if there is a place for it; the first process does."""
        if (path := self.checkpoint_to) is not None:
            self.run.team.first_alone(lambda: self.learner.save(path, self.config))


def _numbers(measured: Mapping[str, object]) -> dict[str, float]:
    """Return what `validate` measured as floats, which a checkpoint can keep."""
    found = {}
    for name, value in measured.items():
        try:
            found[str(name)] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"validate returned {name!r}: {value!r}; give a number"
            ) from error
    return found


@contextmanager
def memory_told(meta_batch: int) -> Iterator[None]:
    """Turn an error for lack of memory into a UserError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        failure = UserError(
            f"meta_batch = {meta_batch}: too little memory for the tasks that are held"
            " at a time; lower it, or inner_batch, or, on a CPU, take engine ="
            ' "threads"'
        )
        failure.alone = True
        raise failure from error
