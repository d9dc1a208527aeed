"""Run a row of the book's tables again, one seed at a time.

::

    python -m reptile_book reproduce omniglot-5way --seeds 0,1,2

One training run a seed serves 1-shot and 5-shot and both protocols. It leaves
`results/<row>/seed-<n>.json` with the numbers and `seed-<n>.safetensors` with φ.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from reptile_book import headline, records, results, rows, sine_row
from reptile_book.rows import SHOTS, Budget, Changes, row_name
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.inner import Moments
from reptile_lib.learner import MetaLearner
from reptile_lib.parallel.team import here, say
from reptile_lib.runs import run as one_run
from reptile_lib.runs.data import load_data
from reptile_lib.runs.settings import LATER, Settings
from reptile_lib.storage.files import written_whole


def several(
    row: str,
    seeds: list[int],
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
    trial: Changes | None = None,
) -> list[records.Record]:
    """Do as `reproduce` for some seeds; a stopped command goes on with those left.

    Raises:
        UserError: as `reproduce`.
    """
    if len(seeds) > 1:
        done = [s for s in seeds if is_recorded(row, s, budget, folder, trial)]
        if done and (left := [s for s in seeds if s not in done]):
            say(f"recorded already: {', '.join(f'seed-{seed}' for seed in done)}")
            seeds = left
    how: dict[str, Any] = {"device": device, "progress": progress, "trial": trial}
    if row == "sine":
        sine_row.train_together(seeds, budget, folder, **how)
    return [reproduce(row, seed, budget, folder, **how) for seed in seeds]


def reproduce(
    row: str,
    seed: int,
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
    trial: Changes | None = None,
) -> records.Record:
    """Train, evaluate and record one seed of a row; a stopped run is continued.

    A short budget is a row of its own, `<row>-short`: its numbers are not the paper's.
    It is also scored with the other choice of `moments` in evaluation. `trial` changes
    some settings, to try the row out.

    Raises:
        UserError: there is no such row, it is recorded already, another process is at
            work on it, or training failed.
    """
    name = row_name(row, budget)
    path, folder_of_run = (
        folder / name / f"seed-{seed}.json",
        folder / name / f"run-{seed}",
    )
    if is_recorded(row, seed, budget, folder, trial):
        raise UserError(f"{path} is recorded already; delete it to run it again")

    with one_run.held(folder_of_run):
        made = _record(
            row,
            seed,
            budget,
            folder_of_run,
            device=device,
            progress=progress,
            trial=trial,
        )
        here().first_alone(lambda: _keep(made, path, folder_of_run))
    return made


def _record(
    row: str,
    seed: int,
    budget: Budget,
    folder: Path,
    *,
    device: str,
    progress: bool,
    trial: Changes | None,
) -> records.Record:
    """Train in `folder`, evaluate, and return what is to be recorded."""
    name, config = row_name(row, budget), rows.config(row, budget, seed, trial)
    made_with = records.circumstances(find_device(device))  # before a change of files
    how: dict[str, Any] = {"device": device, "progress": progress}
    if row == "sine":
        sine = rows.sine_settings(budget, seed, trial)
        learner, measured = sine_row.measure(sine, folder, name, **how)
    else:
        both = budget == "short"
        found = rows.settings(row, budget, seed, trial)
        learner, measured = _few_shot(found, folder, name, switched=both, **how)
    return {
        "row": name,
        "seed": seed,
        "config": config,
        **measured,
        "train_seconds": learner.history[-1]["seconds"],
        "inner_steps": config["meta_steps"]
        * config["meta_batch"]
        * config["inner_steps"],
        "peak_memory_mb": records.peak_memory_mb(learner.phi.device),
        "processes": here().size,
        "trained_together": learner.history[-1].get("runs", 1),
        **made_with,
        "command": f"python -m reptile_book reproduce {row} --seeds {seed}"
        f" --budget {budget} --processes {here().size}",
    }


def _keep(record: records.Record, path: Path, run: Path) -> None:
    """Put φ and the record in the place of the run's folder."""
    with written_whole(path.with_suffix(".safetensors")) as temporary:
        shutil.copyfile(run / one_run.CHECKPOINT, temporary)
    records.write(path, record)
    shutil.rmtree(run)
    headline.write(path.parents[1])
    results.write(path.parents[1])


def is_recorded(
    row: str,
    seed: int,
    budget: Budget = "full",
    folder: Path = Path("results"),
    trial: Changes | None = None,
) -> bool:
    """Say whether there is a record of a seed; of several processes, the first looks.

    Raises:
        UserError: there is no such row, the record is of another configuration, or
            it is damaged.
    """
    config = rows.config(row, budget, seed, trial)
    path = folder / row_name(row, budget) / f"seed-{seed}.json"

    def look() -> bool:
        if not path.exists():
            return False
        known = {**LATER, **records.read_one(path).get("config", {})}
        for name, value in config.items():
            if (old := known.get(name)) != value:
                raise UserError(
                    f"{path} is of another configuration: {name} was {old} and is now"
                    f" {value}; delete it, or record into another folder (--results)"
                )
        return True

    return here().first_alone(look)


def _few_shot(
    settings: Settings,
    folder: Path,
    name: str,
    *,
    switched: bool,
    device: str,
    progress: bool,
) -> tuple[MetaLearner, records.Record]:
    """Train in `folder` and score both shots; `switched`, both moments too."""
    data = load_data(settings)
    learner, _ = one_run.train(
        settings,
        data,
        folder,
        device=device,
        resume="if there",
        checkpoint_every=1_000,
        progress=progress,
    )
    began = time.perf_counter()

    def scores(moments: Moments) -> dict[str, Any]:
        found = {}
        for shots in SHOTS:
            tasks = FewShotTasks(data.test, settings.ways, shots)
            score = one_run.score(learner, settings, tasks, moments=moments)
            found[f"{shots}-shot"] = score.as_dict()
            say(f"{name}, seed {settings.seed}, {shots}-shot, {moments}\n{score}")
        return found

    trained = settings.moments
    record: records.Record = {"metrics": scores(trained)}
    if switched:
        other: Moments = "reset" if trained == "carry" else "carry"
        record["metrics_switched_moments"] = scores(other)
    return learner, record | {"evaluate_seconds": time.perf_counter() - began}
