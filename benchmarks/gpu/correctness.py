"""Whether the library computes on this device what it says: a list of checks.

Each compares two ways to the same numbers and says how far apart they are, relative to
how far training moved φ. A check that fails, or raises, does not stop the next one.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu import checks
from benchmarks.gpu.job import Job
from benchmarks.gpu.record import Record


@dataclass(frozen=True)
class Check:
    """Two ways to the same numbers, and how far apart they may be."""

    name: str
    difference: Callable[[], float]
    tolerance: float


# Adam turns the rounding noise of a gradient that is nearly zero into a step of full
# size, so that Conv4's float32 has to be given more room than its float64.
TOLERANCE = {
    ("sine", "float64"): 1e-10,
    ("sine", "float32"): 1e-4,
    ("conv4", "float64"): 1e-6,
    ("conv4", "float32"): 5e-2,
}


def plan(job: Job) -> Iterator[Check]:
    """Yield the checks, those that everything rests on first."""
    it = checks.Checks(job.device, job.dry)
    yield Check("tasks are those of the CPU", it.tasks, 1e-6)
    for problem, dtype in TOLERANCE:
        for engine in checks.ENGINES:
            yield Check(
                f"{problem}, {dtype}: {engine} = serial textbook loop",
                partial(it.textbook, problem, dtype, engine),
                TOLERANCE[problem, dtype],
            )
    for problem, dtype in TOLERANCE:
        yield Check(
            f"{problem}, {dtype}: recorded = unrecorded",
            partial(it.recorded, problem, dtype),
            TOLERANCE[problem, dtype],
        )
    yield Check(
        "sine, float64: a rate that is a tensor, recorded = unrecorded",
        partial(it.recorded, "sine", "float64", inner=checks.SLOW_SGD),
        TOLERANCE["sine", "float64"],
    )
    yield Check("tasks drawn by a graph, other ones", it.drawn_again, 0.0)
    for problem in ("sine", "conv4"):
        yield Check(
            f"{problem}, float64: drawn three times, recorded = unrecorded",
            partial(it.drawn_often, problem),
            TOLERANCE[problem, "float64"],
        )
    yield Check("the same seed gives the same φ, bit for bit", it.repeated, 0.0)
    yield Check("stop and resume = no stop, bit for bit", it.resumed, 0.0)
    yield Check("memory does not grow with k", it.memory, 0.05)
    yield Check("a NaN is a UserError, and φ is as before", it.nan_noticed, 0.0)
    yield Check("three seeds together = each alone", it.together, 1e-6)
    yield Check("three seeds in slices = in one go, bit for bit", it.sliced, 0.0)
    yield Check("evaluation as on the CPU, accuracy", it.evaluation, 0.02)
    for precision in ("tf32", "bf16"):
        yield Check(
            f"conv4: {precision} is near float32",
            partial(it.precision, precision),
            0.5,
        )
    # Last, as a recording that breaks off can spoil what follows.
    for rule in checks.RULES:
        yield Check(
            f"sine, float64: {rule}, recorded = unrecorded",
            partial(it.rule_recorded, rule),
            TOLERANCE["sine", "float64"],
        )


def measure(job: Job) -> None:
    """Fill the report of this stage; README.md names its keys."""
    done: list[Record] = []
    for check in plan(job):
        done.append(carry_out(check, job))
        job.report.add(checks=done, **count(done))
    wrong = [row["name"] for row in done if row["ok"] is False]
    print(f"  {len(done)} checks, {len(wrong)} failed", *wrong, sep="\n  ")


def carry_out(check: Check, job: Job) -> Record:
    """Carry a check out, if there is time; return what is kept of it."""
    row: Record = {
        "name": check.name,
        "ok": None,
        "difference": None,
        "tolerance": check.tolerance,
        "seconds": None,
        "traceback": None,
    }
    if job.left() < 1:
        return row
    began = time.perf_counter()
    try:
        difference = check.difference()
        row |= {"difference": difference, "ok": difference <= check.tolerance}
    except Exception:
        row |= {"ok": False, "traceback": traceback.format_exc()}
    return row | {"seconds": time.perf_counter() - began}


def count(rows: list[Record]) -> Record:
    """Count the checks that passed, failed, and found no time."""
    verdicts = [row["ok"] for row in rows]
    return {
        "passed": verdicts.count(True),
        "failed": verdicts.count(False),
        "left_out": verdicts.count(None),
    }
