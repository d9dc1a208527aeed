"""What the recorded networks reach under three protocols, on the same tasks.

::

    python -m reptile_book.protocols --rows glyphs-5way,omniglot-5way --seeds 0,1,2

The paper has two; the third keeps the statistics of the support set, as a network in
use does (`reptile_lib.models.frozen`). Each recorded φ is scored on the first 1,000
test tasks of its row, and leaves `results/protocols/<row>-<seed>.json`: `metrics` as in
the row's own record, with `support_statistics`, and `differences`, task by task, of
that and the other two. The table of appendix E.1 is made from these files.
"""

import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

from reptile_book import records, studies
from reptile_book.results import Measured, over_seeds
from reptile_book.rows import SHOTS
from reptile_lib.data.sets import load
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.evaluation import Evaluation, Score
from reptile_lib.runs import run
from reptile_lib.storage.files import written_whole

ROW = "protocols"
SCORED = "glyphs-5way", "omniglot-5way"
PROTOCOLS = "transductive", "non_transductive", "support_statistics"
TASKS = 1_000


def record(
    phi: Path, tasks: int = TASKS, say: Callable[[str], None] = print
) -> records.Record:
    """Score a recorded φ and return what is to be recorded.

    Args:
        phi: `results/<row>/seed-<n>.safetensors`.
        tasks: how many, of one and of five shots each.
        say: told the scores.

    Raises:
        UserError: φ is missing or damaged, or its data set is not at hand.
    """
    began, metrics, differences = time.perf_counter(), {}, {}
    row = phi.parent.name
    for shots in SHOTS:
        learner, settings = run.reopen(phi, "cpu", shots=shots, eval_tasks=tasks)
        split = {"seed": settings.seed} if settings.data == "omniglot" else {}
        test = load(settings.data, **split).test
        found = run.score(learner, settings, FewShotTasks(test, settings.ways, shots))
        metrics[f"{shots}-shot"] = found.as_dict()
        differences[f"{shots}-shot"] = _differences(found)
        say(f"{row}, seed {settings.seed}, {shots}-shot\n{found}")
    return {
        "row": row,
        "seed": settings.seed,
        "config": settings.as_dict() | {"shots": list(SHOTS)},
        "metrics": metrics,
        "differences": differences,
        "evaluate_seconds": time.perf_counter() - began,
        **records.circumstances(learner.phi.device),
        "command": f"python -m reptile_book.protocols --rows {row}"
        f" --seeds {settings.seed}",
    }


def _differences(found: Evaluation) -> records.Record:
    """Compare the third protocol with the others, on each task."""
    kept = found.support_statistics.values
    others = (("transductive", found[0]), ("non_transductive", found[1]))
    return {name: Score(kept - score.values).as_dict() for name, score in others}


def several(
    rows: list[str],
    seeds: list[int],
    folder: Path = Path("results"),
    tasks: int = TASKS,
    say: Callable[[str], None] = print,
) -> list[records.Record]:
    """Record every φ that the rows have of these seeds and that is not scored yet.

    Raises:
        UserError: there is no such φ, all are recorded, or as `record`.
    """
    phis = [folder / row / f"seed-{seed}.safetensors" for row in rows for seed in seeds]
    there = [phi for phi in phis if phi.exists()]
    if not there:
        raise UserError(f"{phis[0]} does not exist; make results ROW={rows[0]}")
    left = [phi for phi in there if not _path(folder, phi).exists()]
    if not left:
        raise UserError(f"{_path(folder, there[0])} is recorded; delete it to repeat")
    made = []
    for phi in left:
        made.append(record(phi, tasks, say))
        records.write(_path(folder, phi), made[-1])
        write(folder)
    return made


def _path(folder: Path, phi: Path) -> Path:
    return folder / ROW / f"{phi.parent.name}-{phi.stem.removeprefix('seed-')}.json"


def measured(folder: Path, row: str, shots: int, protocol: str) -> Measured | None:
    """Return what the files of a row say; None where there are none."""
    paths = sorted((folder / ROW).glob(f"{row}-[0-9]*.json"))
    found = [records.read_one(path)["metrics"][f"{shots}-shot"] for path in paths]
    return over_seeds([scores[protocol] for scores in found]) if found else None


def table(folder: Path) -> str:
    """Make the table: a line a row and shots, a column a protocol."""
    heads = "row", "shots", *(f"{name}, %" for name in map(_name, PROTOCOLS)), "seeds"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, shots in product(SCORED, SHOTS):
        found = [measured(folder, row, shots, name) for name in PROTOCOLS]
        if scores := [score for score in found if score]:
            cells = [*map(str, scores), str(scores[0].seeds)]
            lines.append(f"| `{row}` | {shots} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _name(protocol: str) -> str:
    """Return a protocol's name as prose has it."""
    return protocol.replace("non_", "non-").replace("_", " ")


def write(folder: Path) -> None:
    """Write the page's table, `protocols.md`."""
    with written_whole(folder / "protocols.md") as temporary:
        temporary.write_text(table(folder), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Score what is recorded; return 0, or 2 for a user's mistake."""
    parser = studies.parser("protocols", __doc__)
    parser.add_argument("--rows", default=",".join(SCORED), help="comma-separated")
    given = parser.parse_args(arguments)
    return studies.carried_out(
        lambda: several(
            given.rows.split(","), studies.seeds_of(given.seeds), given.results
        )
    )


if __name__ == "__main__":
    sys.exit(main())
