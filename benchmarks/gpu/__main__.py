"""Ask a GPU everything at once. See benchmarks/README.md.

::

    python -m benchmarks.gpu --out runs/gpu --minutes 8     all stages
    python -m benchmarks.gpu --dry --out runs/gpu           the same on a CPU, tiny
    python -m benchmarks.gpu --table results/benchmarks/gpu the files as a page
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.gpu.plan import DRY_MINUTES, MINUTES, STAGES, stages
from benchmarks.gpu.runner import run_all
from benchmarks.gpu.table import PAGE, write_page

ROOT = Path(__file__).parents[2]


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)  # so that the stage at work is killed, too


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if all stages ended well, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder (runs/gpu, or runs/gpu-dry)")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"for all stages ({MINUTES}; {DRY_MINUTES} with --dry, which takes one)",
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=STAGES, help="these stages")
    parser.add_argument("--table", type=Path, help=f"write {PAGE} from these files")
    options = parser.parse_args(arguments)
    if options.table:
        print(write_page(options.table, ROOT / PAGE))
        return 0
    folder = options.out or Path("runs", "gpu-dry" if options.dry else "gpu")
    os.environ.setdefault("REPTILE_CACHE", str(ROOT / ".gpu-data"))
    if options.dry:  # one core is enough, and the same everywhere
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _terminated)
    usual = DRY_MINUTES if options.dry else MINUTES
    seconds = 60 * (usual if options.minutes is None else options.minutes)
    chosen = stages(folder.resolve(), seconds, options.only, dry=options.dry)
    records = run_all(chosen, folder.resolve(), seconds)
    return 0 if all(record["status"] == "ok" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
