"""The study of page 3.2: ways to move φ learn sine waves, on one bill.

::

    python -m reptile_book.sine_outer --seeds 0,1,2,3,4

A way is a schedule, a number of tasks per meta-step and an outer optimiser. Each has
its own α and outer rate, chosen on validation tasks with seeds of their own, for each
of two bills: `results/sine-outer/choice.json`. Each seed then trains every way as
chosen and is scored on test tasks, the same for all: `seed-<n>.json`. Nothing is
overwritten.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_book.sine_starts import How, kernel_of, means, network, tuned, waves
from reptile_book.studies import Pair
from reptile_lib.device import find_device
from reptile_lib.distributions.sine import Sine
from reptile_lib.inner import InnerOptimizer
from reptile_lib.learner import Reptile
from reptile_lib.meta import Schedule
from reptile_lib.optimizers.formulas import adam, momentum, sgd
from reptile_lib.optimizers.schedules import constant, cosine, linear
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.tasks import Episodes

ROW = "sine-outer"
SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": constant,
    "linear": lambda start: linear(start, 0.0),
    "cosine": lambda start: cosine(start, 0.0),
}
# Their rate is 1: ε does its work.
OUTER: dict[str, InnerOptimizer | None] = {
    "plain": None,
    "momentum": momentum(1.0, 0.9),
    "Adam": adam(1.0, (0.9, 0.999)),
}
FIRST = {
    "plain": (0.35, 0.5, 0.7, 1.0),
    "momentum": (0.035, 0.05, 0.07, 0.1),
    "Adam": (0.004, 0.0056, 0.008, 0.0112),
}
"""Outer rates to try first, at the start of the schedule."""


@dataclass(frozen=True)
class Settings:
    """How the study is done; a bill counts gradients of a minibatch."""

    sizes: tuple[int, ...] = (1, 64, 64, 1)
    train_points: int = 50
    points: int = 10
    inner_steps: int = 10
    inner_batch: int = 10
    bills: tuple[int, ...] = (5_000, 20_000)
    after: int = 8
    """Steps of adaptation."""
    alphas: tuple[float, ...] = (0.02, 0.028, 0.04)
    """To try first; all grids have factors of about √2 and grow where an edge wins."""
    widen: int = 6
    choice_seeds: tuple[int, ...] = (100, 101, 102)
    validation_tasks: int = 100
    test_tasks: int = 1_000
    tried: tuple[float, ...] = (0.007, 0.01, 0.014, 0.02, 0.028, 0.04, 0.056)
    """Rates of adaptation, by SGD."""

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


SETTINGS = Settings()


@dataclass(frozen=True)
class Way:
    """How φ is moved, but for the rate."""

    outer: str = "plain"
    schedule: str = "linear"
    n: int = 1

    @property
    def name(self) -> str:
        """Return what a record calls it."""
        return f"{self.outer}, {self.schedule}, n={self.n}"


WAYS = (
    *(Way(schedule=schedule) for schedule in SCHEDULES),
    Way(n=5),
    Way(n=25),
    Way("momentum"),
    Way("Adam"),
    Way("Adam", "constant"),
    Way("Adam", n=5),
    Way("Adam", n=25),
)


def train(
    way: Way, pairs: Sequence[Pair], seeds: Sequence[int], bill: int, settings: Settings
) -> list[Tensor | None]:
    """Train with each pair and seed side by side; a φ that overflowed is None."""
    learners = [
        Reptile(
            network(settings.sizes, seed),
            sgd(alpha),
            inner_steps=settings.inner_steps,
            inner_batch=settings.inner_batch,
            criterion=F.mse_loss,
            outer=OUTER[way.outer],
            device="cpu",
        )
        for (alpha, _), seed in zip(pairs, seeds, strict=True)
    ]
    make = SCHEDULES[way.schedule]
    return studies.trained(
        learners,
        Sine(settings.train_points),
        seeds,
        meta_steps=bill // (settings.inner_steps * way.n),
        meta_batch=way.n,
        epsilon=[make(rate) for _, rate in pairs],
    )


def _tasks(settings: Settings, *, test: bool, seed: int = 0) -> Episodes:
    count = settings.test_tasks if test else settings.validation_tasks
    stream = TEST if test else VALIDATE
    return waves(settings.points, settings.after, count, seed=seed, stream=stream)


def _offered(settings: Settings) -> dict[How, InnerOptimizer]:
    return {("SGD", rate): sgd(rate) for rate in settings.tried}


def search(way: Way, bill: int, settings: Settings) -> dict[Pair, list[float]]:
    """Return the validation loss with each choice seed, for all pairs that were tried.

    The lowest mean over the seeds wins; inf stands for a run that overflowed.
    """
    kernel, seeds = kernel_of(settings.sizes), settings.choice_seeds
    tasks = _tasks(settings, test=False, seed=1)
    values: dict[Pair, list[float]] = {}

    def score(phi: Tensor | None) -> float:
        if phi is None:
            return math.inf
        found = means(kernel, phi, _offered(settings), tasks, [settings.after])
        return found.min().item()

    def measure(pairs: list[Pair]) -> list[float]:
        runs = [(pair, seed) for pair in pairs for seed in seeds]
        phis = train(way, [p for p, _ in runs], [s for _, s in runs], bill, settings)
        for (pair, _), phi in zip(runs, phis, strict=True):
            values.setdefault(pair, []).append(score(phi))
        return [fmean(values[pair]) for pair in pairs]

    first = settings.alphas, FIRST[way.outer]
    studies.searched(measure, first, (2**0.5, 2**0.5), settings.widen)
    return values


def choose(settings: Settings, say: Callable[[str], None] = print) -> Record:
    """Choose α and the outer rate of each way and bill, on validation tasks alone."""
    began = time.perf_counter()
    tried: dict[str, dict[str, list[Record]]] = {}
    chosen: dict[str, dict[str, Record]] = {}
    for bill, way in product(settings.bills, WAYS):
        values = search(way, bill, settings)
        best = min(values, key=lambda pair: sum(values[pair]))
        chosen.setdefault(str(bill), {})[way.name] = {
            "alpha": best[0],
            "rate": best[1],
            "validation_loss": sum(values[best]) / len(values[best]),
            "inside": studies.inside(best, values),
        }
        tried.setdefault(str(bill), {})[way.name] = [
            {
                "alpha": alpha,
                "rate": rate,
                "validation_losses": [v if v < math.inf else None for v in losses],
            }
            for (alpha, rate), losses in values.items()
        ]
        say(f"{ROW}: {bill}, {way.name}: {chosen[str(bill)][way.name]}")
    return {
        "row": ROW,
        "config": settings.as_dict(),
        "chosen": chosen,
        "tried": tried,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": "python -m reptile_book.sine_outer",
    }


def finals(
    seeds: Sequence[int],
    choice: Record,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Train each way as chosen, from each seed; score on test tasks.

    A run that overflowed has the loss None.
    """
    kernel = kernel_of(settings.sizes)
    validation, test = (_tasks(settings, test=some) for some in (False, True))
    found: dict[int, dict[str, dict[str, Record]]] = {seed: {} for seed in seeds}
    for bill, way in product(settings.bills, WAYS):
        own = choice["chosen"][str(bill)][way.name]
        pairs = [(own["alpha"], own["rate"])] * len(seeds)
        phis = train(way, pairs, seeds, bill, settings)
        for seed, phi in zip(seeds, phis, strict=True):
            score: Record = {"loss": None}
            if phi is not None:
                (how,), losses = tuned(
                    kernel,
                    phi,
                    _offered(settings),
                    (validation, test),
                    [settings.after],
                )
                score = {
                    "loss": losses.mean().item(),
                    "rate": how[1],
                    "inside": settings.tried[0] < how[1] < settings.tried[-1],
                }
            found[seed].setdefault(str(bill), {})[way.name] = score
        shown = [found[seed][str(bill)][way.name]["loss"] for seed in seeds]
        say(f"{ROW}: {bill}, {way.name}: {shown}")
    zero = test.query.y.square().mean().item()
    return [
        {
            "row": ROW,
            "seed": seed,
            "config": settings.as_dict(),
            "chosen": choice["chosen"],
            "metrics": found[seed],
            "zero": zero,
            "trained_together": len(seeds),
            **records.circumstances(find_device("cpu")),
            "command": f"python -m reptile_book.sine_outer --seeds {seed}",
        }
        for seed in seeds
    ]


def run(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    settings: Settings = SETTINGS,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose, unless that is recorded, and record the seeds that are not yet.

    Raises:
        UserError: all seeds are recorded, or a record is of other settings.
    """
    return studies.run(
        folder / ROW,
        seeds,
        settings.as_dict(),
        lambda: choose(settings, say),
        lambda left, choice: finals(left, choice, settings, say),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study; return 0, or 2 for a user's mistake."""
    options = studies.parser("sine_outer", __doc__).parse_args(arguments)
    return studies.carried_out(
        lambda: run(studies.seeds_of(options.seeds), options.results)
    )


if __name__ == "__main__":
    sys.exit(main())
