"""What the recorded studies share: a command, records that are kept, rates to try.

A study chooses the rates of each method on validation tasks, then trains several seeds
as chosen and scores them on test tasks. What is recorded is kept.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from reptile_book import records
from reptile_book.records import Record
from reptile_lib.errors import UserError
from reptile_lib.fit.side_by_side import fit_side_by_side
from reptile_lib.inner import State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.learner import MetaLearner
from reptile_lib.meta import Rule, Schedule, Target
from reptile_lib.runs.cli import plain_output
from reptile_lib.tasks import Episodes, Tasks

Pair = tuple[float, float]
"""Two rates."""


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


def command(
    module: str,
    doc: str | None,
    record: Callable[[list[int], Path], object],
    arguments: list[str] | None,
) -> int:
    """Do a study whose command has no more than --seeds and --results; return as above.

    Args:
        module: its name.
        doc: its docstring, for --help.
        record: record(seeds, folder) does it.
        arguments: those of the command line; None: of this process.
    """
    options = parser(module, doc).parse_args(arguments)
    return carried_out(lambda: record(seeds_of(options.seeds), options.results))


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


def one_by_one(
    into: Path,
    name: str,
    seeds: Sequence[int],
    config: Record,
    command: str,
    *,
    choose: Callable[[], Record],
    final: Callable[[Record, int], Record],
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose, then do seed after seed, unless that is recorded; return all records.

    Args:
        into: folder of the study.
        name: the choice is `<name>.json`, a seed `<name>-<seed>.json`.
        seeds: of the trainings.
        config: settings that all are recorded with.
        command: recorded with the choice; that of a seed names the seed as well.
        choose: makes the choice.
        final: (choice, seed) -> the record of a seed.
        say: told what is recorded.

    Raises:
        UserError: a record is of other settings.
    """
    told = {"command": command}
    choice = kept(into / f"{name}.json", config, lambda: choose() | told)
    made = [choice]
    for seed in seeds:
        told = {"command": f"{command} --seeds {seed}"}
        path = into / f"{name}-{seed}.json"
        made.append(kept(path, config, lambda: final(choice, seed) | told))  # noqa: B023
        say(f"{path} is recorded")
    return made


def run(
    into: Path,
    seeds: Sequence[int],
    config: Record,
    choose: Callable[[], Record],
    finals: Callable[[Sequence[int], Record], Iterable[Record]],
    *,
    name: str = "seed",
    more: Record | None = None,
) -> list[Record]:
    """Choose, unless that is recorded, and record the seeds that are not yet.

    Args:
        into: folder of the study.
        seeds: of the trainings.
        config: settings that the choice and the seeds are recorded with.
        choose: makes `choice.json`.
        finals: makes the records of some seeds, from the choice.
        name: of the files, `<name>-<seed>.json`.
        more: settings that only the seeds are recorded with.

    Raises:
        UserError: all seeds are recorded, or a record is of other settings.
    """
    paths = {seed: into / f"{name}-{seed}.json" for seed in seeds}
    own = config | (more or {})
    left = [seed for seed, path in paths.items() if not is_recorded(path, own)]
    if not left:
        raise UserError(
            f"{', '.join(map(str, paths.values()))} recorded already; delete what is"
            " to be run again"
        )
    choice = kept(into / "choice.json", config, choose)
    made = []
    for record in finals(left, choice):
        records.write(paths[record["seed"]], record)
        made.append(record)
    return made


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


def searched(
    measure: Callable[[list[Pair]], list[float]],
    first: tuple[Iterable[float], Iterable[float]],
    factors: Pair,
    widen: int,
) -> dict[Pair, float]:
    """Measure a grid of two rates, and let it grow where its lowest stands at an edge.

    Args:
        measure: returns losses of pairs; inf for one that diverged.
        first: the rates of both axes to begin with. One value alone stays alone.
        factors: between a rate and the next one.
        widen: how often the grid may grow.
    """
    grids, found = [list(rates) for rates in first], dict[Pair, float]()
    for _ in range(widen + 1):
        new = [(a, b) for a, b in product(*grids) if (a, b) not in found]
        found |= dict(zip(new, measure(new), strict=True))
        best = min(found, key=found.__getitem__)
        if math.isinf(found[best]):
            break
        axes = zip(grids, best, factors, strict=True)
        grew = [len(grid) > 1 and grown(grid, *rest) for grid, *rest in axes]
        if not any(grew):
            break
    return found


def inside(best: Pair, found: Iterable[Pair]) -> bool:
    """Say whether no rate stands at the edge of what was tried for it."""
    axes = zip(best, zip(*found, strict=True), strict=True)
    return all(len({*axis}) == 1 or min(axis) < own < max(axis) for own, axis in axes)


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


def trained(
    learners: Sequence[MetaLearner],
    tasks: Tasks,
    seeds: Sequence[int],
    *,
    meta_steps: int,
    meta_batch: int = 1,
    epsilon: Sequence[Schedule],
) -> list[Tensor | None]:
    """Train learners of one rule side by side; return each φ [P], or None if it broke.

    Args:
        learners: they differ in their rates and first weights.
        tasks: of all.
        seeds: a seed each.
        meta_steps: of all.
        meta_batch: of all.
        epsilon: a schedule each.
    """
    rule = Watched(learners[0].rule)
    for learner in learners:
        learner.rule = rule
    each = [tasks] * len(learners)
    fit_side_by_side(
        learners,
        each,
        seeds,
        meta_steps=meta_steps,
        meta_batch=meta_batch,
        epsilon=epsilon,
    )
    assert rule.overflows is not None
    bad = rule.overflows.tolist()
    return [None if b else one.phi for b, one in zip(bad, learners, strict=True)]
