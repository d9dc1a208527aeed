"""`python -m reptile_book`: run a row of the book's tables again.

::

    python -m reptile_book reproduce glyphs-5way --budget short
"""

import argparse
import sys
from pathlib import Path

from reptile_book import records, reproduce, rows, untrained
from reptile_lib.errors import UserError
from reptile_lib.runs.cli import command, execute, plain_output, several_processes
from reptile_lib.runs.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a user's mistake, or 130 for Ctrl-C."""
    plain_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    return execute(main, parser().parse_args(arguments), arguments)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m reptile_book", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    again = command(commands, "reproduce", _reproduce, "run a row of the book's tables")
    again.add_argument("row", help=f"one of {', '.join(rows.ROWS)}")
    several_processes(again, _settings)
    _seeds_and_folder(again)
    again.add_argument(
        "--budget",
        choices=["full", "short"],
        default="full",
        help="the paper's training, or 1,000 meta-steps and 1,000 test tasks (full)",
    )
    base = command(commands, "untrained", _untrained, "score a row's first weights")
    base.add_argument("row", help="one of images, such as omniglot-5way")
    _seeds_and_folder(base)
    return parser


def _seeds_and_folder(to: argparse.ArgumentParser) -> None:
    to.add_argument("--seeds", default="0", help="comma-separated (0)")
    to.add_argument(
        "--results", type=Path, default=Path("results"), help="folder (results)"
    )


def _seeds(options: argparse.Namespace) -> list[int]:
    try:
        return [int(seed) for seed in options.seeds.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {options.seeds}: give numbers like 0,1,2") from error


def _settings(options: argparse.Namespace) -> Settings | None:
    """Return what tells how long a run is; sine is short."""
    if options.row == "sine":
        return None
    return rows.settings(options.row, options.budget, 0)


def _reproduce(options: argparse.Namespace) -> records.Record:
    made = reproduce.several(
        options.row,
        _seeds(options),
        options.budget,
        options.results,
        device=options.device,
        progress=not options.quiet,
    )
    return {"records": made}


def _untrained(options: argparse.Namespace) -> records.Record:
    where = options.results, options.device
    return {
        "records": [
            untrained.record(options.row, seed, *where) for seed in _seeds(options)
        ]
    }


if __name__ == "__main__":
    sys.exit(main())
