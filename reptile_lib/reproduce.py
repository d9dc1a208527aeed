"""Run a row of the book's tables again, one seed at a time.

::

    python -m reptile_lib reproduce omniglot-5way --seeds 0,1,2

One training run a seed serves 1-shot and 5-shot and both protocols. It leaves
`results/<row>/seed-<n>.json` with the numbers and `seed-<n>.safetensors` with φ.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from reptile_lib import headline, results, runs, sine_row
from reptile_lib.errors import UserError
from reptile_lib.files import written_whole
from reptile_lib.inner import Moments
from reptile_lib.machine import find_device, peak_memory_mb
from reptile_lib.rows import SHOTS, Budget, row_name, settings
from reptile_lib.tasks import FewShotTasks
from reptile_lib.train import MetaLearner
from reptile_lib.workers import first_alone, say, world


def reproduce(
    row: str,
    seed: int,
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
) -> results.Record:
    """Train, evaluate and record one seed of a row; a stopped run is continued.

    A short budget is a row of its own, `<row>-short`: its numbers are not the paper's.
    It is also scored with the other choice of `moments` in evaluation.

    Raises:
        UserError: there is no such row, it is recorded already, another process is at
            work on it, or training failed.
    """
    config = settings(row, budget) | {"seed": seed}
    name = row_name(row, budget)
    path, run = folder / name / f"seed-{seed}.json", folder / name / f"run-{seed}"
    if is_recorded(row, seed, budget, folder):
        raise UserError(f"{path} is recorded already; delete it to run it again")

    with runs.held(run):
        made = _record(row, config, budget, run, device=device, progress=progress)
        first_alone(lambda: _keep(made, path, run))
    return made


def _record(
    row: str,
    config: runs.Config,
    budget: Budget,
    run: Path,
    *,
    device: str,
    progress: bool,
) -> results.Record:
    """Train in the folder `run`, evaluate, and return what is to be recorded."""
    name, seed = row_name(row, budget), config["seed"]
    made_with = results.circumstances(find_device(device))  # before a change of files
    how = config, run, name
    if row == "sine":
        learner, measured = sine_row.measure(*how, device=device, progress=progress)
    else:
        both = budget == "short"
        learner, measured = _few_shot(*how, both, device=device, progress=progress)
    return {
        "row": name,
        "seed": seed,
        "config": config,
        **measured,
        "train_seconds": learner.history[-1]["seconds"],
        "inner_steps": config["meta_steps"]
        * config["meta_batch"]
        * config["inner_steps"],
        "peak_memory_mb": peak_memory_mb(learner.phi.device),
        "processes": world().size,
        "trained_together": learner.history[-1].get("runs", 1),
        **made_with,
        "command": f"python -m reptile_lib reproduce {row} --seeds {seed}"
        f" --budget {budget} --processes {world().size}",
    }


def _keep(record: results.Record, path: Path, run: Path) -> None:
    """Put φ and the record in the place of the run's folder."""
    with written_whole(path.with_suffix(".safetensors")) as temporary:
        shutil.copyfile(run / runs.CHECKPOINT, temporary)
    results.write(path, record)
    shutil.rmtree(run)
    headline.write_headline(path.parents[1])


def is_recorded(
    row: str, seed: int, budget: Budget = "full", folder: Path = Path("results")
) -> bool:
    """Say whether there is a record of a seed; of several processes, the first looks.

    Raises:
        UserError: there is no such row, the record is of another configuration, or
            it is damaged.
    """
    config = settings(row, budget) | {"seed": seed}
    path = folder / row_name(row, budget) / f"seed-{seed}.json"

    def look() -> bool:
        if not path.exists():
            return False
        known = runs.LATER | results.read_one(path).get("config", {})
        for name, value in config.items():
            if (old := known.get(name)) != value:
                raise UserError(
                    f"{path} is of another configuration: {name} was {old} and is now"
                    f" {value}; delete it, or record into another folder (--results)"
                )
        return True

    return first_alone(look)


def _few_shot(
    config: runs.Config,
    run: Path,
    name: str,
    switched: bool,
    *,
    device: str,
    progress: bool,
) -> tuple[MetaLearner, results.Record]:
    """Train in the folder `run` and score both shots; `switched`, both moments too."""
    data = runs.load_data(config)
    learner, _ = runs.train(
        config,
        data,
        run,
        device=device,
        resume="if there",
        checkpoint_every=1_000,
        progress=progress,
    )
    began = time.perf_counter()

    def scores(moments: Moments) -> dict[str, Any]:
        found = {}
        for shots in SHOTS:
            tasks = FewShotTasks(data.test, config["ways"], shots)
            score = runs.score(learner, config, tasks, moments=moments)
            found[f"{shots}-shot"] = score.as_dict()
            say(f"{name}, seed {config['seed']}, {shots}-shot, {moments}\n{score}")
        return found

    trained: Moments = config["moments"]
    record = {"metrics": scores(trained)}
    if switched:
        other: Moments = "reset" if trained == "carry" else "carry"
        record["metrics_switched_moments"] = scores(other)
    return learner, record | {"evaluate_seconds": time.perf_counter() - began}
