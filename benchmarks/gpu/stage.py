"""One stage, in a process of its own: ``python -m benchmarks.gpu.stage NAME``."""

import argparse
import faulthandler
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from benchmarks.gpu.record import Report

# Name -> module with `measure(job, *arguments)`. A stage imports its own alone: what is
# broken in one does not stop another.
STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "limits": ("limits", ()),
    "correctness": ("correctness", ()),
    "speed": ("speed", ()),
    "train-5way": ("training", ("omniglot-5way",)),
    "train-glyphs": ("training", ("glyphs-5way",)),
    "train-20way": ("training", ("omniglot-20way",)),
}


def main() -> int:
    """Run the command line; return 0, or 1 if the stage failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.stage")
    parser.add_argument("name", choices=STAGES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--deadline", type=float, required=True)
    options = parser.parse_args()
    # If it hangs, its last words say where: the runner kills it a little later.
    faulthandler.enable()
    hanging = max(0.5, options.deadline - time.time() + 1)
    faulthandler.dump_traceback_later(hanging)
    return run(options.name, options.out, options.deadline, dry=options.dry)


def run(name: str, folder: Path, deadline: float, *, dry: bool) -> int:
    """Run a stage in this process; return 0, or 1 if it failed."""
    report = Report(folder / f"{name}.json")
    try:  # already to import torch can fail, or hang
        import torch

        from benchmarks.gpu.job import Job, find_device

        device = find_device(dry)
        # As `fit` has it: else the textbook loop's convolutions round to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        module, arguments = STAGES[name]
        measure = importlib.import_module(f"benchmarks.gpu.{module}").measure
        job = Job(report, folder, device, dry, deadline)
        measure(job, *arguments)
    except Exception:
        text = traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        report.fail(text)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # what a broken driver has to tidy up could take for ever
