"""Some seeds of a row of the book's tables, trained side by side."""

from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import (
    Settings,
    build,
    fit_side_by_side,
    has_omniglot,
    load_data,
    settings,
)
from reptile_lib import FewShotTasks, MetaLearner, Splits, linear

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Sizes:
    """How much is done between two looks at the clock."""

    canary: int = 200
    """Meta-steps; the second half is timed."""
    slice_seconds: float = 20.0
    """What is trained in one go: so long, and then there is a checkpoint."""
    tasks: tuple[int, int] = (1_000, 10_000)
    """Scored at first, and at most."""
    warm_up: tuple[int, int] = (10, 100)
    """Tasks scored by the canary: untimed, and timed."""
    changed: dict[str, Any] = field(default_factory=dict)
    """Settings in the place of the row's."""


FULL = Sizes()
DRY = Sizes(
    canary=2,
    slice_seconds=0.0,
    tasks=(1, 2),
    warm_up=(1, 1),
    changed={
        "ways": 3,
        "meta_steps": 4,
        "meta_batch": 2,
        "train_shots": 2,
        "inner_steps": 2,
        "inner_batch": 4,
        "eval_steps": 2,
    },
)


@dataclass
class Run:
    """Some seeds of a row."""

    row: str
    config: Settings
    """Of the first one."""
    learners: list[MetaLearner]
    data: list[Splits]
    tasks: list[FewShotTasks]
    """What each seed trains on, on its device."""

    @property
    def done(self) -> int:
        """Meta-steps that are done."""
        return self.learners[0].state.meta_step

    def train(self, meta_steps: int) -> None:
        """Train until so many meta-steps are done, with the ε of the whole run.

        Done in slices, the same φ comes out as in one go, bit for bit.
        """
        config = self.config
        epsilon = linear(config.epsilon, config.epsilon_final)
        fit_side_by_side(
            self.learners,
            self.tasks,
            SEEDS,
            meta_steps=meta_steps,
            meta_batch=config.meta_batch,
            epsilon=lambda done: epsilon(round(done * meta_steps) / config.meta_steps),
        )


def prepare(job: Job, row: str, sizes: Sizes) -> Run:
    """Build the learners of a row; without Omniglot, of the same row on glyphs."""
    config = settings(row, **sizes.changed)
    if config.data == "omniglot" and not has_omniglot():
        row = row.replace("omniglot", "glyphs") + f"-{config.meta_steps}"
        config = replace(config, data="glyphs")
    configs = [replace(config, seed=seed) for seed in SEEDS]
    learners = [build(one, job.device) for one in configs]
    data = [load_data(one) for one in configs]
    tasks = [
        FewShotTasks(split.train.rotated(), config.ways, config.train_shots)
        for split in data
    ]
    return Run(row, config, learners, data, [t.to(job.device) for t in tasks])
