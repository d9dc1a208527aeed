"""Run the benchmarks, write one JSON file, draw its figures. See README.md.

::

    python -m benchmarks                       all of it, about 15 minutes
    python -m benchmarks --quick               a few seconds, to see that it works
    python -m benchmarks --only memory         one part
    python -m benchmarks --draw results/benchmarks/cpu-2-cores.json
"""

import argparse
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures, memory, processes, speed
from benchmarks.contenders import NO_JAX, NO_KERAS, jax_version, keras_version
from benchmarks.processes import Teams, scaling
from benchmarks.timing import FULL, QUICK, THOROUGH
from reptile_book import records
from reptile_lib.device import find_device
from reptile_lib.errors import UserError

Record = dict[str, Any]


PARTS = ("memory", "processes", "speed")


def run(part: str, device: torch.device, quick: bool, teams: Teams | None) -> Record:
    """Run one part; return the keys that it adds to the record."""
    if part == "memory":
        return {"memory": memory.curves(device, quick)}
    if part == "processes":
        effort = QUICK if quick else THOROUGH
        return {"processes": scaling(teams, effort) if teams else None}
    effort, team = QUICK if quick else FULL, teams.shared if teams else None
    return speed.race(device, effort, team)


def measure(device: torch.device, quick: bool, only: str | None) -> Record:
    """Run the parts, or one of them; return what the JSON file holds."""
    began = time.perf_counter()
    jax = jax_version(device)
    if jax is None:
        print(NO_JAX)
    keras = keras_version(device)
    if keras is None:
        print(NO_KERAS)
    record = records.circumstances(device)
    record["versions"] |= {"jax": jax, "tensorflow": keras}
    record["cores"] = torch.get_num_threads()
    record["quick"] = quick
    idle = nullcontext() if only == "memory" else processes.teams(device)
    with idle as teams:
        for part in PARTS:
            if only in (None, part):
                print(part)
                record |= run(part, device, quick, teams)
    return record | {"seconds": time.perf_counter() - began}


def file_name(device: torch.device) -> str:
    """Return how the record of this machine is called, such as cpu-2-cores.json."""
    if device.type == "cpu":
        return f"cpu-{torch.get_num_threads()}-cores.json"
    name = torch.cuda.get_device_name(device).lower()
    return re.sub("[^a-z0-9]+", "-", name).strip("-") + ".json"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few and small cells")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder (results/benchmarks; with --quick or --only runs/benchmarks)",
    )
    parser.add_argument("--draw", type=Path, help="draw this JSON file, run nothing")
    options = parser.parse_args(arguments)
    try:
        path = options.draw
        if path is None:
            whole = not options.quick and options.only is None
            folder = options.out or Path("results" if whole else "runs", "benchmarks")
            device = find_device(options.device)
            torch.backends.cudnn.allow_tf32 = False  # as fit has it: all in float32
            path = folder / file_name(device)
            records.write(path, measure(device, options.quick, options.only))
            print(path)
        for drawn in figures.draw(path):
            print(drawn)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
