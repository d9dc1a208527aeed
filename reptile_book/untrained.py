"""What the steps of evaluation reach from weights that nobody has trained.

::

    python -m reptile_book untrained omniglot-5way --seeds 0,1,2

It leaves `results/<row>-untrained/seed-<n>.json`: the baseline of a row's accuracy.
"""

import time
from pathlib import Path

from reptile_book import headline, records, results, rows
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.parallel.team import say
from reptile_lib.runs import run
from reptile_lib.runs.data import load_data


def record(
    row: str,
    seed: int,
    folder: Path = Path("results"),
    device: str = "auto",
    trial: rows.Changes | None = None,
) -> records.Record:
    """Score the first weights of a row, with its settings, on 1,000 tasks.

    `trial` changes some settings, to try it out.

    Raises:
        UserError: there is no such row of images, or it is recorded already.
    """
    if row == "sine":
        raise UserError("row 'sine' is not scored by accuracy; name one of images")
    settings = rows.settings(row, "short", seed, trial)
    path = folder / f"{row}-untrained" / f"seed-{seed}.json"
    if path.exists():
        raise UserError(f"{path} is recorded already; delete it to run it again")
    made_with = records.circumstances(find_device(device))
    data, learner = load_data(settings), run.build(settings, device)
    began, metrics = time.perf_counter(), {}
    for shots in rows.SHOTS:
        tasks = FewShotTasks(data.test, settings.ways, shots)
        score = run.score(learner, settings, tasks)
        metrics[f"{shots}-shot"] = score.as_dict()
        say(f"{row}, untrained, seed {seed}, {shots}-shot\n{score}")
    made = {
        "row": f"{row}-untrained",
        "seed": seed,
        "config": settings.as_dict() | {"meta_steps": 0},
        "metrics": metrics,
        "evaluate_seconds": time.perf_counter() - began,
        "processes": 1,
        **made_with,
        "command": f"python -m reptile_book untrained {row} --seeds {seed}",
    }
    records.write(path, made)
    headline.write(folder)
    results.write(folder)
    return made
