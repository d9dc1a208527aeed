"""Recorded runs: one JSON file a run, `results/<row>/seed-<n>.json`."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from reptile_lib.errors import UserError
from reptile_lib.runs.cli import device_name
from reptile_lib.storage.files import write_json

Record = dict[str, Any]
"""What is kept of a run; JSON values only."""


def write(path: Path, record: Record) -> None:
    """Write one record; the file appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_json(path, record)


def read(folder: Path) -> list[Record]:
    """Return the records of one row, by file name; an empty list if there are none.

    Raises:
        UserError: a file is not JSON.
    """
    return [read_one(path) for path in sorted(folder.glob("seed-*.json"))]


def read_one(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); restore it, or run its row again"
        ) from error
    return record


def circumstances(device: torch.device) -> Record:
    """Return what a record says about the machine and the software.

    `commit` is None outside a git checkout and ends in "+" where files were changed.
    """
    return {
        "device": device_name(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": _commit(),
    }


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always"]
    try:
        done = subprocess.run(
            [*git, "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory this process has held so far, on `device`, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource  # POSIX only
    import sys

    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
