"""Some seeds of a row of the book's tables, trained side by side."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import (
    Config,
    build,
    fit_together,
    has_omniglot,
    load_data,
    settings,
    training_classes,
)
from reptile_lib import FewShotTasks, MetaLearner, Splits, linear

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Sizes:
    """How much is done between two looks at the clock."""

    canary: int = 200
    """Meta-steps; the second half is timed."""
    every: int = 500
    """Meta-steps between two looks at the clock, and rows of the history."""
    checkpoint_seconds: float = 20.0
    tasks: tuple[int, int] = (1_000, 10_000)
    """Scored at first, and at most."""
    warm_up: tuple[int, int] = (10, 100)
    """Tasks scored by the canary: untimed, and timed."""
    changed: Config = field(default_factory=dict)
    """Settings in the place of the row's."""


FULL = Sizes()
DRY = Sizes(
    canary=2,
    every=2,
    checkpoint_seconds=0.0,
    tasks=(1, 2),
    warm_up=(1, 1),
    changed={
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
    config: Config
    learners: list[MetaLearner]
    data: list[Splits]

    @property
    def done(self) -> int:
        """Meta-steps that are done."""
        return self.learners[0].state.meta_step

    def train(self, checkpoint: Callable[[], None], every: int) -> None:
        """Train to the end; `checkpoint()` is called every so many meta-steps."""
        shots, ways = self.config["train_shots"], self.config["ways"]
        fit_together(
            self.learners,
            [FewShotTasks(training_classes(d), ways, shots) for d in self.data],
            SEEDS,
            meta_steps=self.config["meta_steps"],
            meta_batch=self.config["meta_batch"],
            epsilon=linear(self.config["epsilon"], self.config["epsilon_final"]),
            checkpoint=checkpoint,
            checkpoint_every=every,
        )


def prepare(job: Job, row: str, sizes: Sizes) -> Run:
    """Build the learners of a row; without Omniglot, of the same row on glyphs."""
    config = settings(row, **sizes.changed)
    if config["data"] == "omniglot" and not has_omniglot():
        row = row.replace("omniglot", "glyphs") + f"-{config['meta_steps']}"
        config |= {"data": "glyphs"}
    configs = [config | {"seed": seed} for seed in SEEDS]
    learners = [build(one, job.device) for one in configs]
    return Run(row, config, learners, [load_data(one) for one in configs])
