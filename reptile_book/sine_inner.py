"""The study of page 4.1: optimisers of the inner loop learn sine waves, on one bill.

::

    python -m reptile_book.sine_inner --seeds 0,1,2

Each way to take the inner steps has its own α and ε, chosen on validation tasks with
seeds of its own: `results/sine-inner/choice.json`. Each seed then trains every way as
chosen and is scored on test tasks, the same for all: `seed-<n>.json`. Nothing is
overwritten.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import fmean

from torch import Tensor
from torch.nn import functional as F

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_book.sine_starts import How, kernel_of, means, network, tuned, waves
from reptile_book.studies import Pair
from reptile_lib.device import find_device
from reptile_lib.distributions.sine import Sine
from reptile_lib.inner import InnerOptimizer, Moments
from reptile_lib.learner import Reptile
from reptile_lib.optimizers.formulas import adam, gd, momentum, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.tasks import Episodes

ROW = "sine-inner"
MAKE: dict[str, Callable[[float], InnerOptimizer]] = {
    "SGD": sgd,
    "momentum": momentum,
    "Adam": partial(adam, betas=(0.0, 0.999)),
    "GD": gd,
}
LOWEST = {"SGD": 0.015, "momentum": 0.002, "Adam": 0.003, "GD": 0.015}
"""Where the rates to try begin; as many follow as `first_rates` says."""


@dataclass(frozen=True)
class Settings:
    """How the study is done; the bill counts gradients of one example."""

    sizes: tuple[int, ...] = (1, 64, 64, 1)
    train_points: int = 50
    points: int = 10
    bill: int = 50_000
    after: int = 8
    """Steps of adaptation."""
    first_rates: int = 4
    """Of α, a factor of √2 apart; both grids grow where an edge wins."""
    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0)
    widen: int = 6
    steps: tuple[int, ...] = (2, 5, 10, 20)
    batches: tuple[int, ...] = (10, 25, 50)
    choice_seeds: tuple[int, ...] = (100, 101, 102)
    validation_tasks: int = 100
    test_tasks: int = 1_000
    sgd_tried: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04, 0.08)
    """Rates of adaptation; training is chosen with those inside."""
    adam_tried: tuple[float, ...] = (0.002, 0.004, 0.008, 0.016, 0.032)

    def as_dict(self) -> Record:
        """Return the settings by name, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


SETTINGS = Settings()


@dataclass(frozen=True)
class Way:
    """How inner loops are run, but for the rate."""

    optimizer: str
    k: int
    b: int
    moments: Moments = "reset"

    @property
    def name(self) -> str:
        """Return what a record calls it."""
        kept = " kept" if self.moments == "carry" else ""
        return f"{self.optimizer}{kept}, k={self.k}, b={self.b}"


REFERENCE = Way("SGD", 10, 10)


def ways(settings: Settings) -> list[Way]:
    """Return all: SGD with each k and b, and the others where they are compared."""
    whole = settings.train_points
    return [
        *(
            Way("GD" if b == whole else "SGD", k, b)
            for k, b in product(settings.steps, settings.batches)
        ),
        *(
            Way(name, 10, 10, moments)
            for name in ("momentum", "Adam")
            for moments in ("reset", "carry")
        ),
    ]


def train(
    way: Way,
    rates: Sequence[Pair],
    seeds: Sequence[int],
    settings: Settings,
) -> list[Tensor | None]:
    """Train with each α and ε side by side; return φ [P], or None if it overflowed."""
    learners = [
        Reptile(
            network(settings.sizes, seed),
            MAKE[way.optimizer](alpha),
            inner_steps=way.k,
            inner_batch=None if way.b == settings.train_points else way.b,
            criterion=F.mse_loss,
            moments=way.moments,
            device="cpu",
        )
        for (alpha, _), seed in zip(rates, seeds, strict=True)
    ]
    return studies.trained(
        learners,
        Sine(settings.train_points),
        seeds,
        meta_steps=settings.bill // (way.k * way.b),
        epsilon=[linear(epsilon, 0.0) for _, epsilon in rates],
    )


def _tasks(settings: Settings, *, test: bool, seed: int = 0) -> Episodes:
    count = settings.test_tasks if test else settings.validation_tasks
    stream = TEST if test else VALIDATE
    return waves(settings.points, settings.after, count, seed=seed, stream=stream)


def offered(settings: Settings, ends: bool = True) -> dict[How, InnerOptimizer]:
    """Return ways to adapt, or only those that are not at the ends of their grid."""
    grids = {"SGD": settings.sgd_tried, "Adam": settings.adam_tried}
    return {
        (name, rate): MAKE[name](rate)
        for name, grid in grids.items()
        for rate in (grid if ends else grid[1:-1])
    }


def choose(
    settings: Settings, some: Sequence[Way], say: Callable[[str], None] = print
) -> Record:
    """Choose α and ε of some ways, by the loss on validation tasks alone."""
    began = time.perf_counter()
    kernel = kernel_of(settings.sizes)
    tasks = _tasks(settings, test=False, seed=1)
    inner = offered(settings, ends=False)

    def score(phi: Tensor | None) -> float:
        if phi is None:
            return math.inf
        return means(kernel, phi, inner, tasks, [settings.after]).min().item()

    tried: dict[str, list[Record]] = {}
    chosen: dict[str, Record] = {}
    for way in some:
        lowest = LOWEST[way.optimizer]
        alphas = [lowest * 2 ** (i / 2) for i in range(settings.first_rates)]

        def measure(pairs: list[Pair], way: Way = way) -> list[float]:
            seeds = settings.choice_seeds
            all_pairs, all_seeds = zip(*product(pairs, seeds), strict=True)
            scores = map(score, train(way, all_pairs, all_seeds, settings))
            return [fmean(islice(scores, len(seeds))) for _ in pairs]

        first = [float(f"{alpha:.3g}") for alpha in alphas], settings.epsilons
        values = studies.searched(measure, first, (2**0.5, 2.0), settings.widen)
        best = min(values, key=values.__getitem__)
        chosen[way.name] = {
            "alpha": best[0],
            "epsilon": best[1],
            "validation_loss": values[best],
            "inside": studies.inside(best, values),
        }
        tried[way.name] = [
            {"alpha": a, "epsilon": e, "validation_loss": v if v < math.inf else None}
            for (a, e), v in values.items()
        ]
        say(f"{ROW}: {way.name}: {chosen[way.name]}")
    return {
        "row": ROW,
        "config": settings.as_dict(),
        "chosen": chosen,
        "tried": tried,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": "python -m reptile_book.sine_inner",
    }


def finals(
    seeds: Sequence[int],
    choice: Record,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Train each way as chosen, from each seed; score on test tasks, paired.

    The loss of a run that overflowed is None.
    """
    kernel = kernel_of(settings.sizes)
    validation, test = (_tasks(settings, test=some) for some in (False, True))
    inner = offered(settings)
    found: dict[int, dict[str, Record]] = {seed: {} for seed in seeds}
    losses: dict[tuple[int, str], Tensor] = {}
    for way in ways(settings):
        own = choice["chosen"][way.name]
        pair = own["alpha"], own["epsilon"]
        phis = train(way, [pair] * len(seeds), seeds, settings)
        for seed, phi in zip(seeds, phis, strict=True):
            if phi is None:  # chosen on other seeds, the rate is too large for this one
                found[seed][way.name] = {"loss": None}
                continue
            ((name, rate),), scores = tuned(
                kernel, phi, inner, (validation, test), [settings.after]
            )
            losses[seed, way.name] = scores[:, 0]
            grid = settings.sgd_tried if name == "SGD" else settings.adam_tried
            found[seed][way.name] = {
                "loss": losses[seed, way.name].mean().item(),
                "adapted_by": name,
                "rate": rate,
                "inside": grid[0] < rate < grid[-1],
            }
        say(f"{ROW}: {way.name}: {[found[s][way.name]['loss'] for s in seeds]}")
    made = []
    zero = test.query.y.square().mean().item()
    for seed in seeds:
        reference = losses.get((seed, REFERENCE.name))
        for way in ways(settings):
            own = losses.get((seed, way.name))
            if own is not None and reference is not None:
                above = (own - reference).double()
                half = 1.96 * above.std().item() / math.sqrt(len(above))
                found[seed][way.name]["above_sgd"] = above.mean().item()
                found[seed][way.name]["above_sgd_ci95"] = half
        made.append(
            {
                "row": ROW,
                "seed": seed,
                "config": settings.as_dict(),
                "chosen": choice["chosen"],
                "metrics": found[seed],
                "zero": zero,
                "trained_together": len(seeds),
                **records.circumstances(find_device("cpu")),
                "command": f"python -m reptile_book.sine_inner --seeds {seed}",
            }
        )
    return made


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
        lambda: choose(settings, ways(settings), say),
        lambda left, choice: finals(left, choice, settings, say),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study; return 0, or 2 for a user's mistake."""
    options = studies.parser("sine_inner", __doc__).parse_args(arguments)
    return studies.carried_out(
        lambda: run(studies.seeds_of(options.seeds), options.results)
    )


if __name__ == "__main__":
    sys.exit(main())
