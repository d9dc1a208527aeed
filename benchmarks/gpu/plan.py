"""Which stages there are, in the order in which they matter, and their time."""

import math
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks.gpu.runner import Stage

MINUTES = 8
"""The time that the limits below are made for."""

STAGES = {
    "limits": 25.0,
    "correctness": 35.0,
    "speed": 165.0,
    "train-5way": 205.0,
    "train-glyphs": 50.0,
    "train-20way": math.inf,
}
"""Seconds that a stage may take."""


DRY_MINUTES = 60
"""Likewise for tiny sizes, on a machine that may have much else to do."""


def stages(
    folder: Path, seconds: float, only: Collection[str] | None = None, *, dry: bool
) -> list[Stage]:
    """Return the stages as commands; with less time than planned, all get less.

    Args:
        folder: where their files go.
        seconds: for all of them.
        only: the names of those to run; None for all.
        dry: on the CPU, at tiny sizes.
    """
    scale = min(1.0, seconds / (60 * (DRY_MINUTES if dry else MINUTES)))
    limits = dict.fromkeys(STAGES, 60.0 * DRY_MINUTES) if dry else STAGES
    command = [sys.executable, "-u", "-m", "benchmarks.gpu.stage"]
    options = ["--out", str(folder)] + (["--dry"] if dry else [])
    return [
        Stage(name, [*command, name, *options], scale * limit)
        for name, limit in limits.items()
        if not only or name in only
    ]
