"""Timing several contenders in turn, so that a slow minute of the machine hits all."""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

Contender = Callable[[int], float]
"""contender(meta_steps) -> seconds; it waits for the device."""


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    budget: float
    """Seconds a contender a cell."""
    repetition: float
    """Seconds a repetition, if meta-steps are short enough to fill them."""
    long: float
    """Seconds from which on the warm-up counts as one of two repetitions."""
    longest: float
    """Seconds from which on the warm-up is the only repetition."""
    most: int = 256
    """Meta-steps a repetition at most."""


FULL = Effort(budget=2.0, repetition=0.3, long=8.0, longest=20.0)
QUICK = Effort(budget=0.02, repetition=0.01, long=0.5, longest=20.0)
THOROUGH = Effort(budget=10.0, repetition=1.0, long=8.0, longest=20.0)


@dataclass(frozen=True)
class Timing:
    """Seconds a meta-step, over the repetitions of one contender."""

    seconds: float
    """Median."""
    low: float
    high: float
    repetitions: int
    meta_steps: int
    """Meta-steps a repetition."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(contenders: dict[str, Contender], effort: Effort) -> dict[str, Timing]:
    """Warm every contender up, then let them take turns.

    The number of repetitions follows from the budget, and is at least two, but for
    those that take longest.
    """
    meta_steps, repetitions = {}, {}
    samples: dict[str, list[float]] = {}
    for name, run in contenders.items():
        samples[name] = []
        once = run(1)  # the first time, memory is claimed and kernels are chosen
        if once >= effort.long:
            samples[name].append(once)
        else:
            once = run(1)
        fitting = math.ceil(effort.repetition / once)
        meta_steps[name] = min(fitting, effort.most)
        seconds = meta_steps[name] * once
        least = 1 if once >= effort.longest else 2
        repetitions[name] = max(least, round(effort.budget / seconds))
    for turn in range(max(repetitions.values())):
        for name, run in contenders.items():
            if len(samples[name]) < repetitions[name] and turn < repetitions[name]:
                count = meta_steps[name]
                samples[name].append(run(count) / count)
    return {
        name: Timing(
            statistics.median(found),
            min(found),
            max(found),
            len(found),
            meta_steps[name],
        )
        for name, found in samples.items()
    }
