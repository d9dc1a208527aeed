"""What a stage is given to work with."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu.record import Report
from reptile_lib import UserError


@dataclass(frozen=True)
class Job:
    """What a stage works with."""

    report: Report
    folder: Path
    device: torch.device
    dry: bool
    """Whether sizes are tiny; the device is then the CPU."""
    deadline: float
    """Unix time at which the stage should have ended."""

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - time.time()


def find_device(dry: bool) -> torch.device:
    """Return the device to work on.

    Raises:
        UserError: torch finds no CUDA GPU.
    """
    if dry:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"torch {torch.__version__} finds no CUDA GPU; --dry goes through all"
            " stages on the CPU"
        )
    return torch.device("cuda")
