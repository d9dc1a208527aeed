"""What the recorded studies share: a command, records that are kept, rates to try.

A study chooses the rates of each method on validation tasks, then trains several seeds
as chosen and scores them on test tasks. What is recorded is kept.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from reptile_book import records
from reptile_book.records import Record
from reptile_lib.errors import UserError
from reptile_lib.inner import State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import Rule, Target
from reptile_lib.runs.cli import plain_output
from reptile_lib.tasks import Episodes


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Return what reads the command line of a study, with --seeds and --results."""
    made = argparse.ArgumentParser(
        prog=f"python -m reptile_book.{module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    made.add_argument("--results", type=Path, default=Path("results"), help="folder")
    return made


def carried_out(act: Callable[[], object]) -> int:
    """Act; return 0, or print what is wrong and return 2."""
    plain_output()
    try:
        act()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def seeds_of(text: str) -> list[int]:
    """Return the seeds that a command was given.

    Raises:
        UserError: they are no numbers.
    """
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {text}: give numbers like 0,1,2") from error


def is_recorded(path: Path, config: Record) -> bool:
    """Say whether there is a record; what it says beyond `config` is its own affair.

    Raises:
        UserError: it is of other settings.
    """
    if not path.exists():
        return False
    known = records.read_one(path).get("config", {})
    if any(known.get(name) != value for name, value in config.items()):
        raise UserError(f"{path} is of other settings; delete it to run it again")
    return True


def kept(path: Path, config: Record, make: Callable[[], Record]) -> Record:
    """Return the record in a file; make and write it if it is not there.

    Raises:
        UserError: it is of other settings.
    """
    if not is_recorded(path, config):
        records.write(path, make())
    return records.read_one(path)


def grown(grid: list[float], best: float, factor: float = 2.0) -> bool:
    """Let a rising grid of rates grow if its best stands at an edge; say whether.

    A new rate is rounded to three digits.

    >>> rates = [0.1, 0.2]
    >>> grown(rates, 0.1), rates
    (True, [0.05, 0.1, 0.2])
    >>> grown(rates, 0.1)
    False
    """
    if best == grid[0]:
        grid.insert(0, float(f"{grid[0] / factor:.3g}"))
    elif best == grid[-1]:
        grid.append(float(f"{grid[-1] * factor:.3g}"))
    else:
        return False
    return True


@dataclass(eq=False)
class Watched:
    """A rule that lets a run stand still where a number overflows, and counts it."""

    rule: Rule
    overflows: Tensor | None = field(default=None)

    def __call__(
        self, U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None
    ) -> Target:
        """Ask the rule; φ [runs, P]."""
        found = self.rule(U, phi, tasks, state)
        good = found.phi.isfinite().all(-1)
        self.overflows = ~good + (0 if self.overflows is None else self.overflows)
        target = torch.where(good[:, None], found.phi, phi)
        calm = found.state and {
            name: value.nan_to_num(0.0, 0.0, 0.0) for name, value in found.state.items()
        }
        return Target(target, calm, found.loss.nan_to_num(0.0, 0.0, 0.0), found.steps)
