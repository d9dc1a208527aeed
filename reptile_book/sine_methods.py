"""The study of page 1.4: several methods learn a start for sine waves, on one bill.

::

    python -m reptile_book.sine_methods --seeds 0,1,2
    python -m reptile_book.sine_methods --own-task --seeds 0,1,2

A method's rates, its number of tasks per meta-step and whether Adam takes its outer
step are chosen on validation tasks with a seed of its own, which leaves
`results/sine-methods/choice.json`. Each seed then trains every method as chosen and is
scored on test tasks, the same for all: `results/sine-methods/seed-<n>.json`. With
`--own-task`, single tasks with 10 to 1,000 examples are learnt from Reptile's φ and
from scratch: `own-task-<n>.json`. Nothing is overwritten: what is recorded is kept, if
it is of the same settings.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_book.sine_starts import How, kernel_of, means, network, tuned
from reptile_book.studies import Pair
from reptile_lib.device import find_device
from reptile_lib.distributions.sine import Sine
from reptile_lib.inner import InnerOptimizer
from reptile_lib.learner import MetaLearner
from reptile_lib.meta import Rule, fomaml, joint, maml, reptile
from reptile_lib.optimizers.formulas import adam, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.tasks import draw_tasks

ROW = "sine-methods"
TRIPLE = "MAML, three bills"
USUAL = (0.9, 0.999)  # Adam's decays, in outer steps and from scratch


@dataclass(frozen=True)
class Settings:
    """How the study is done; a gradient is that of a minibatch of `inner_batch`."""

    sizes: tuple[int, ...] = (1, 64, 64, 1)
    train_points: int = 50
    points: int = 10
    inner_steps: int = 10
    inner_batch: int = 10
    bill: int = 30_000
    """Gradients that a training may cost."""
    shown: tuple[int, ...] = (1, 8, 32)
    chosen_at: int = 8
    """The steps after which the loss decides between trainings."""
    inner_rates: tuple[float, ...] = (0.005, 0.01, 0.02)
    """Where grids begin; their neighbours are a factor of two apart."""
    outer_rates: tuple[float, ...] = (0.02, 0.04, 0.08)
    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of Reptile's own outer step."""
    adam_rates: tuple[float, ...] = (0.002, 0.004, 0.008)
    meta_batches: tuple[int, ...] = (1, 5, 25, 125)
    """Tried in this order, two at least, as long as the last is the best."""
    joint_batches: tuple[int, ...] = (5, 25, 125, 625)
    widen: int = 4
    """How often a grid may grow towards an edge that wins."""
    choice_seed: int = 100
    validation_tasks: int = 200
    test_tasks: int = 1_000
    share: int = 1_000
    """Tasks that divide the bill of a method that learns each one from scratch."""
    sgd_tried: tuple[float, ...] = tuple(0.000625 * 2**i for i in range(10))
    """Rates of adaptation to choose from."""
    adam_tried: tuple[float, ...] = tuple(0.000625 * 2**i for i in range(8))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, for JSON."""
        return _as_json(self)


SETTINGS = Settings()


@dataclass(frozen=True)
class OwnTask:
    """How single tasks are learnt from more and more examples, from φ and not."""

    points: tuple[int, ...] = (10, 100, 1_000)
    shown: tuple[int, ...] = (1, 3, 10, 30, 100, 300)
    sgd_tried: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04)
    adam_tried: tuple[float, ...] = (0.0025, 0.01, 0.04, 0.16)
    validation_tasks: int = 20
    test_tasks: int = 50


OWN_TASK = OwnTask()


def _as_json(settings: Settings | OwnTask) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(settings).items()
    }


@dataclass(frozen=True)
class Method:
    """What is trained, and what a task of its training costs in gradients."""

    name: str
    rule: Rule
    cost: int
    outers: tuple[str, ...]
    loops: bool = True
    """Whether it has an inner loop."""


def methods(settings: Settings) -> list[Method]:
    """Return the methods of the study.

    A gradient through an inner step costs MAML three, see the page; the others pay for
    a minibatch once.
    """
    k = settings.inner_steps
    any_outer = ("plain", "adam")
    return [
        Method("Reptile", reptile, k, any_outer),
        Method("FOMAML", fomaml, k + 1, any_outer),
        Method("MAML", maml, 3 * k + 1, any_outer),
        Method("joint, SGD", joint, 1, ("plain",), loops=False),
        Method("joint, Adam", joint, 1, ("adam",), loops=False),
    ]


@dataclass(frozen=True)
class Training:
    """One way to train a method."""

    method: str
    outer: str
    meta_batch: int
    inner_rate: float
    outer_rate: float


def train(
    method: Method,
    trainings: Sequence[Training],
    seeds: Sequence[int],
    settings: Settings,
    bills: int = 1,
) -> list[Tensor | None]:
    """Train side by side; return each φ [P], or None for a run that overflowed.

    The trainings agree in all but their rates.
    """
    first = trainings[0]
    outer = adam(1.0, USUAL) if first.outer == "adam" else None  # its rate is ε
    points = settings.train_points if method.loops else settings.inner_batch
    learners = [
        MetaLearner(
            network(settings.sizes, seed),
            inner=sgd(one.inner_rate),
            inner_steps=settings.inner_steps,
            inner_batch=settings.inner_batch,
            rule=method.rule,
            criterion=F.mse_loss,
            moments="reset",
            outer=outer,
            device="cpu",
            engine="stacked",
        )
        for one, seed in zip(trainings, seeds, strict=True)
    ]
    return studies.trained(
        learners,
        Sine(points, query_points=settings.inner_batch),
        seeds,
        meta_steps=max(1, settings.bill * bills // (first.meta_batch * method.cost)),
        meta_batch=first.meta_batch,
        epsilon=[linear(one.outer_rate, 0.0) for one in trainings],
    )


def offered(
    sgd_rates: Iterable[float], adam_rates: Iterable[float]
) -> dict[How, InnerOptimizer]:
    """Return ways to adapt."""
    return {("SGD", rate): sgd(rate) for rate in sgd_rates} | {
        ("Adam", rate): adam(rate, USUAL) for rate in adam_rates
    }


# ---- the choice ----------------------------------------------------------------------


def choose(settings: Settings, say: Callable[[str], None] = print) -> Record:
    """Choose how each method is trained, by its loss on validation tasks alone."""
    began = time.perf_counter()
    kernel = kernel_of(settings.sizes)
    tasks = draw_tasks(
        Sine(settings.points),
        settings.validation_tasks,
        settings.choice_seed,
        stream=VALIDATE,
        inner_steps=settings.chosen_at,
    )
    values: dict[Training, float] = {}
    chosen: dict[str, Record] = {}
    tried = offered(
        [rate for rate in settings.sgd_tried if 0.004 < rate < 0.1],
        [rate for rate in settings.adam_tried if rate > 0.001],
    )

    def score(phi: Tensor | None) -> float:
        if phi is None:
            return math.inf
        found = means(kernel, phi, tried, tasks, [settings.chosen_at])
        return found.min().item()

    def measure(some: list[Training]) -> list[float]:
        method = next(m for m in methods(settings) if m.name == some[0].method)
        seeds = [settings.choice_seed] * len(some)
        return [score(phi) for phi in train(method, some, seeds, settings)]

    for method in methods(settings):
        for outer in method.outers:
            values |= _sizes_searched(method, outer, measure, settings)
        mine = {t: v for t, v in values.items() if t.method == method.name}
        best = min(mine, key=mine.__getitem__)
        chosen[method.name] = asdict(best) | {
            "validation_loss": mine[best],
            "inside": _inside(best, mine),
        }
        say(f"{ROW}: {method.name}: {chosen[method.name]}")
    return {
        "row": ROW,
        "config": settings.as_dict(),
        "chosen": chosen,
        "values": [
            asdict(t) | {"validation_loss": v if math.isfinite(v) else None}
            for t, v in values.items()
        ],
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": "python -m reptile_book.sine_methods",
    }


def _sizes_searched(
    method: Method,
    outer: str,
    measure: Callable[[list[Training]], list[float]],
    settings: Settings,
) -> dict[Training, float]:
    """Search the rates for one number of tasks per meta-step after the other."""
    rates = settings.outer_rates
    if outer == "adam":
        rates = settings.adam_rates
    elif method.rule is reptile:
        rates = settings.epsilons
    values: dict[Training, float] = {}
    sizes = settings.meta_batches if method.loops else settings.joint_batches
    for tried, n in enumerate(sizes):
        if (
            tried > 1
            and min(values, key=values.__getitem__).meta_batch != sizes[tried - 1]
        ):
            break
        start = Training(method.name, outer, n, 1.0, 1.0)
        inners = settings.inner_rates if method.loops else (1.0,)
        values |= searched(measure, start, list(inners), list(rates), settings.widen)
    return values


def searched(
    measure: Callable[[list[Training]], list[float]],
    start: Training,
    inners: list[float],
    outers: list[float],
    widen: int,
) -> dict[Training, float]:
    """Measure a grid of two rates, and let it grow where its best stands at an edge.

    An axis with one value is left as it is. The factor between neighbours is two.
    """

    def of(pair: Pair) -> Training:
        return replace(start, inner_rate=pair[0], outer_rate=pair[1])

    found = studies.searched(
        lambda pairs: measure([of(pair) for pair in pairs]),
        (inners, outers),
        (2.0, 2.0),
        widen,
    )
    return {of(pair): value for pair, value in found.items()}


def _inside(best: Training, values: Mapping[Training, float]) -> bool:
    """Say whether neither rate stands at the edge of the grid of its block."""
    block = [
        t for t in values if (t.outer, t.meta_batch) == (best.outer, best.meta_batch)
    ]
    rates = [(t.inner_rate, t.outer_rate) for t in block]
    return studies.inside((best.inner_rate, best.outer_rate), rates)


# ---- the finals ----------------------------------------------------------------------


def finals(
    seeds: Sequence[int],
    choice: Record,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> Iterator[Record]:
    """Train the seeds side by side as chosen; measure and yield one record each."""
    made_with = records.circumstances(find_device("cpu"))
    trained: dict[str, list[Tensor | None]] = {}
    seconds: dict[str, float] = {}

    def one(method: Method, name: str, bills: int) -> None:
        began = time.perf_counter()
        trained[name] = _trained(method, seeds, choice, settings, bills)
        seconds[name] = time.perf_counter() - began
        say(f"{ROW}: {name}: {seconds[name]:.0f} s")

    for method in methods(settings):
        one(method, method.name, 1)
        if method.rule is maml:
            one(method, TRIPLE, 3)
    for i, seed in enumerate(seeds):
        began = time.perf_counter()
        mine = {name: phis[i] for name, phis in trained.items()}
        extra = settings.bill // settings.share
        metrics = compared(mine, seed, extra, settings)
        yield {
            "row": ROW,
            "seed": seed,
            "config": settings.as_dict(),
            "chosen": choice["chosen"],
            "metrics": metrics,
            "train_seconds": sum(seconds.values()),
            "train_seconds_each": seconds,
            "evaluate_seconds": time.perf_counter() - began,
            "trained_together": len(seeds),
            "processes": 1,
            "peak_memory_mb": records.peak_memory_mb(torch.device("cpu")),
            **made_with,
            "command": f"python -m reptile_book.sine_methods --seeds {seed}",
        }


def _trained(
    method: Method,
    seeds: Sequence[int],
    choice: Record,
    settings: Settings,
    bills: int = 1,
) -> list[Tensor | None]:
    """Train a method as chosen, from each seed."""
    own = choice["chosen"][method.name]
    training = Training(**{key: own[key] for key in Training.__annotations__})
    return train(method, [training] * len(seeds), seeds, settings, bills)


def compared(
    starts: Mapping[str, Tensor | None], seed: int, extra: int, settings: Settings
) -> Record:
    """Score starts on the same test tasks, each with its best rate on validation.

    Untrained weights are scored as they are, and with `extra` steps before the first
    that counts: from scratch, with SGD and with Adam.
    """
    kernel = kernel_of(settings.sizes)
    untrained = ravel(network(settings.sizes, seed))
    with_sgd, with_adam = (
        offered(settings.sgd_tried, ()),
        offered((), settings.adam_tried),
    )
    both = with_sgd | with_adam
    rows: dict[str, tuple[Tensor | None, int, Mapping[How, InnerOptimizer]]] = {
        **{name: (phi, 0, both) for name, phi in starts.items()},
        "untrained": (untrained, 0, both),
        "from scratch, SGD": (untrained, extra, with_sgd),
        "from scratch, Adam": (untrained, extra, with_adam),
    }
    validation, test = (
        draw_tasks(
            Sine(settings.points),
            count,
            0,
            stream=stream,
            inner_steps=extra + max(settings.shown),
        )
        for count, stream in (
            (settings.validation_tasks, VALIDATE),
            (settings.test_tasks, TEST),
        )
    )
    values: dict[str, list[Tensor]] = {
        "answer zero": [test.query.y.square().mean((1, 2))] * len(settings.shown)
    }
    how: dict[str, list[Record]] = {}
    for name, (phi, more, tried) in rows.items():
        if phi is None:
            continue
        after = [more + steps for steps in settings.shown]
        best, found = tuned(kernel, phi, tried, (validation, test), after)
        values[name] = list(found.unbind(1))
        how[name] = []
        for (kind, rate), steps in zip(best, after, strict=True):
            rates = [r for k, r in tried if k == kind]
            inside = rates[0] < rate < rates[-1]
            chosen = {"optimizer": kind, "rate": rate, "inside": inside}
            how[name].append(chosen | {"steps": steps})
    return {
        name: {
            f"{steps}-steps": _scored(value, reference)
            | (how[name][j] if name in how else {})
            for j, (steps, value, reference) in enumerate(
                zip(settings.shown, columns, values["Reptile"], strict=True)
            )
        }
        for name, columns in values.items()
    }


def _scored(value: Tensor, reptile: Tensor) -> Record:
    """Return the mean loss over tasks, and what it is above Reptile's, task by task."""

    def half(v: Tensor) -> float:
        return 1.96 * v.double().std().item() / math.sqrt(len(v))

    above = value - reptile
    return {
        "loss": value.mean().item(),
        "ci95": half(value),
        "above_reptile": above.mean().item(),
        "above_reptile_ci95": half(above),
        "tasks": len(value),
    }


def own_tasks(
    seeds: Sequence[int], choice: Record, settings: Settings, own: OwnTask
) -> Iterator[Record]:
    """Train Reptile as chosen, and learn single tasks from its φ and from scratch.

    Optimiser and rate are chosen on validation tasks, for each number of steps.
    """
    made_with = records.circumstances(find_device("cpu"))
    reptile_first = methods(settings)[0]
    phis = _trained(reptile_first, seeds, choice, settings)
    for seed, phi in zip(seeds, phis, strict=True):
        began = time.perf_counter()
        starts = {"from phi": phi, "from scratch": ravel(network(settings.sizes, seed))}
        yield {
            "row": ROW,
            "seed": seed,
            "config": settings.as_dict() | {"own_task": _as_json(own)},
            "steps": list(own.shown),
            "points": {
                str(points): {
                    name: _learnt(start, points, settings, own)
                    for name, start in starts.items()
                    if start is not None
                }
                for points in own.points
            },
            "evaluate_seconds": time.perf_counter() - began,
            **made_with,
            "command": f"python -m reptile_book.sine_methods --own-task --seeds {seed}",
        }


def _learnt(start: Tensor, points: int, settings: Settings, own: OwnTask) -> Record:
    """Return the test losses after some steps on so many points, and how."""
    kernel = kernel_of(settings.sizes)
    validation, test = (
        draw_tasks(
            Sine(points),
            count,
            1,  # not the tasks that the methods are compared on
            stream=stream,
            inner_steps=max(own.shown),
            inner_batch=min(points, settings.inner_batch),
        )
        for count, stream in (
            (own.validation_tasks, VALIDATE),
            (own.test_tasks, TEST),
        )
    )
    tried = offered(own.sgd_tried, own.adam_tried)
    best, found = tuned(kernel, start, tried, (validation, test), own.shown)
    return {
        "loss": found.mean(0).tolist(),
        "optimizer": [kind for kind, _ in best],
        "rate": [rate for _, rate in best],
    }


# ---- records -------------------------------------------------------------------------


def run(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    settings: Settings = SETTINGS,
    say: Callable[[str], None] = print,
    own: OwnTask | None = None,
) -> list[Record]:
    """Choose, unless that is recorded, and record the seeds that are not yet.

    Args:
        seeds: of the trainings.
        folder: of all results.
        settings: of the study.
        say: told how far it is.
        own: records single tasks, `own-task-<n>.json`, instead of the comparison.

    Raises:
        UserError: all seeds are recorded, or a record is of other settings.
    """
    into, name = folder / ROW, "seed" if own is None else "own-task"
    more = {} if own is None else {"own_task": _as_json(own)}

    def records_of(left: Sequence[int], choice: Record) -> Iterator[Record]:
        if own is None:
            return finals(left, choice, settings, say)
        return own_tasks(left, choice, settings, own)

    config, choosing = settings.as_dict(), partial(choose, settings, say)
    return studies.run(into, seeds, config, choosing, records_of, name=name, more=more)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; return 0, or 2 for a user's mistake."""
    parser = studies.parser("sine_methods", __doc__)
    parser.add_argument(
        "--own-task", action="store_true", help="single tasks with more examples"
    )
    options = parser.parse_args(arguments)

    def act() -> None:
        own = OWN_TASK if options.own_task else None
        run(studies.seeds_of(options.seeds), options.results, own=own)

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
