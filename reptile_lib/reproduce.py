"""The rows of the book's result tables, and the runs that fill them.

::

    python -m reptile_lib reproduce omniglot-5way --seeds 0,1,2

One training run a seed serves 1-shot and 5-shot and both protocols. It leaves
`results/<row>/seed-<n>.json` with the numbers and `seed-<n>.safetensors` with φ.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from reptile_lib import checkpoint, results, runs
from reptile_lib.errors import UserError
from reptile_lib.evaluate import adaptation_curve
from reptile_lib.files import written_whole
from reptile_lib.inner import Moments, sgd
from reptile_lib.machine import find_device, uninterrupted
from reptile_lib.meta import linear
from reptile_lib.models import mlp
from reptile_lib.tasks import FewShotTasks, Sine, Tasks
from reptile_lib.together import fit_together
from reptile_lib.train import MetaLearner, Reptile
from reptile_lib.workers import first_alone, say, world

Budget = Literal["full", "short"]

# Glyphs have no published row to follow; a tenth of Omniglot's training is enough.
ROWS: dict[str, runs.Config] = {
    "glyphs-5way": {"data": "glyphs", "meta_steps": 10_000},
    "omniglot-5way": {"data": "omniglot"},
    "omniglot-20way": {"data": "omniglot", "ways": 20},
    "sine": {},
}
# Two studies train once more: what becomes of Adam's moments, and of rounded products.
STUDIES: dict[str, runs.Config] = {
    "reset": {"moments": "reset"},
    "bf16": {"precision": "bf16"},
}
ROWS |= {
    f"{row}-{study}": ROWS[row] | changed
    for row in ("glyphs-5way", "omniglot-5way")
    for study, changed in STUDIES.items()
}
BUDGETS: dict[Budget, runs.Config] = {
    "full": {"eval_tasks": 10_000},
    "short": {"eval_tasks": 1_000, "meta_steps": 1_000},
}
# One task a meta-step; the network, the range of tasks and 32 steps on 10 points are
# those of Nichol et al. 2018, section 4.1; the rest is ours.
SINE: runs.Config = {
    "sizes": [1, 64, 64, 1],
    "train_points": 50,
    "inner_steps": 10,
    "inner_batch": 10,
    "lr": 0.02,
    "meta_batch": 1,
    "meta_steps": 30_000,
    "epsilon": 1.0,
    "epsilon_final": 0.0,
    "points": 10,
    "eval_steps": 32,
}
SINE_SHOWN = (0, 1, 8, 32)  # inner steps after which the loss is recorded
SHOTS = (1, 5)
NOTE = (
    "New classes, 50 inner steps. A row that ends in `-short` trains for 1,000"
    " meta-steps and is scored on 1,000 tasks; the others train as the paper does and"
    " are scored on 10,000. ± is the 95 % interval over the tasks where there is one"
    " seed, and the standard deviation over seeds where there are more. Minutes are"
    " those of training. Published numbers: {cite:t}`nichol2018`."
)

# Nichol et al. 2018, arXiv:1803.02999v3, its table for Omniglot; % and spread of runs.
PUBLISHED = {
    ("omniglot-5way", 1, "non_transductive"): "95.39 ± 0.09",
    ("omniglot-5way", 1, "transductive"): "97.68 ± 0.04",
    ("omniglot-5way", 5, "non_transductive"): "98.90 ± 0.10",
    ("omniglot-5way", 5, "transductive"): "99.48 ± 0.06",
    ("omniglot-20way", 1, "non_transductive"): "88.14 ± 0.15",
    ("omniglot-20way", 1, "transductive"): "89.43 ± 0.14",
    ("omniglot-20way", 5, "non_transductive"): "96.65 ± 0.33",
    ("omniglot-20way", 5, "transductive"): "97.12 ± 0.32",
}


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
        UserError: there is no such row, it is recorded already, or training failed.
    """
    config = settings(row, budget) | {"seed": seed}
    name = row_name(row, budget)
    measure: Callable[..., tuple[MetaLearner, results.Record]]
    measure = _sine if row == "sine" else _few_shot
    path, run = folder / name / f"seed-{seed}.json", folder / name / f"run-{seed}"
    if is_recorded(row, seed, budget, folder):
        raise UserError(f"{path} is recorded already; delete it to run it again")

    made_with = results.circumstances(find_device(device))  # before a change of files
    learner, measured = measure(
        config, run, name, switched=budget == "short", device=device, progress=progress
    )
    record = {
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

    def write() -> None:
        with written_whole(path.with_suffix(".safetensors")) as temporary:
            shutil.copyfile(run / runs.CHECKPOINT, temporary)
        results.write(path, record)
        shutil.rmtree(run)
        write_headline(folder)

    first_alone(write)
    return record


def row_name(row: str, budget: Budget) -> str:
    """Return the name of a row's folder; a short budget makes a row of its own."""
    return row if budget == "full" else f"{row}-{budget}"


def train_together(
    row: str,
    seeds: Sequence[int],
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
) -> None:
    """Train those seeds of a row that have not begun as one stack, where it pays.

    That is the small network of `sine`; other rows are left as they are. `reproduce`
    finds the seeds trained then, or goes on with what a stop has left.

    Raises:
        UserError: there is no such row, or training failed.
    """
    config = settings(row, budget)
    into = folder / row_name(row, budget)
    fresh = [
        seed
        for seed in seeds
        if not (into / f"seed-{seed}.json").exists()
        and not (into / f"run-{seed}").exists()
    ]
    if row != "sine" or len(fresh) < 2 or world().size > 1:
        return
    configs = [config | {"seed": seed} for seed in fresh]
    learners = [_sine_learner(own, device) for own in configs]

    def save() -> None:
        for learner, own in zip(learners, configs, strict=True):
            learner.save(into / f"run-{own['seed']}" / runs.CHECKPOINT, own)

    save()  # a folder that cannot be written shows itself now
    try:
        fit_together(
            learners,
            [_sine_tasks(config)] * len(fresh),
            fresh,
            meta_steps=config["meta_steps"],
            meta_batch=config["meta_batch"],
            epsilon=linear(config["epsilon"], config["epsilon_final"]),
            progress=progress,
        )
    finally:
        with uninterrupted():
            save()


def _sine_tasks(config: runs.Config) -> Tasks:
    return Sine(points=config["train_points"])


def _sine_learner(config: runs.Config, device: str) -> MetaLearner:
    return Reptile(
        mlp(*config["sizes"], activation=nn.Tanh, seed=config["seed"]),
        inner=sgd(config["lr"]),
        inner_steps=config["inner_steps"],
        inner_batch=config["inner_batch"],
        criterion=F.mse_loss,
        device="cpu" if device == "auto" else device,  # a small network gains nothing
    )


def settings(row: str, budget: Budget) -> runs.Config:
    """Return the settings of a row, without a seed.

    Raises:
        UserError: there is no such row.
    """
    if row not in ROWS:
        raise UserError(f"unknown row {row!r}; choose one of {', '.join(ROWS)}")
    given = ROWS[row] | BUDGETS[budget]
    return SINE | given if row == "sine" else runs.complete(given)


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
    *,
    switched: bool,
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


def _sine(
    config: runs.Config,
    run: Path,
    name: str,
    *,
    switched: bool,
    device: str,
    progress: bool,
) -> tuple[MetaLearner, results.Record]:
    """Train on sine waves and measure the loss after some inner steps."""
    learner = _sine_learner(config, device)
    path = run / runs.CHECKPOINT

    def restore() -> None:
        if path.exists():
            runs.check_same(config, checkpoint.load(path).metadata["config"], config)
            learner.restore(path)

    first_alone(restore)
    learner.agree()
    if learner.state.meta_step < config["meta_steps"]:
        learner.fit(
            _sine_tasks(config),
            meta_steps=config["meta_steps"],
            meta_batch=config["meta_batch"],
            epsilon=linear(config["epsilon"], config["epsilon_final"]),
            seed=config["seed"],
            checkpoint_to=path,
            checkpoint_every=1_000,
            config=config,
            progress=progress,
        )
    return learner, _sine_losses(learner, config, name)


def _sine_losses(
    learner: MetaLearner, config: runs.Config, name: str
) -> results.Record:
    began = time.perf_counter()
    curves = adaptation_curve(
        learner,
        Sine(points=config["points"]),
        inner_steps=config["eval_steps"],
        count=config["eval_tasks"],
        seed=config["seed"],
    )
    metrics = {}
    for steps in SINE_SHOWN:
        loss = curves[:, steps]
        ci95 = 1.96 * loss.std().item() / len(loss) ** 0.5
        metrics[f"{steps}-steps"] = {
            "loss": loss.mean().item(),
            "ci95": ci95,
            "tasks": len(loss),
        }
        say(f"{name}, seed {config['seed']}, {steps} steps: {loss.mean():.3f}")
    return {"metrics": metrics, "evaluate_seconds": time.perf_counter() - began}


def write_headline(folder: Path) -> None:
    """Write `headline.md`, the table of all recorded rows that the preface shows."""
    with written_whole(folder / "headline.md") as temporary:
        temporary.write_text(headline(folder), encoding="utf-8")


def headline(folder: Path) -> str:
    """Make a MyST table of the recorded rows: a line a row, shots and protocol.

    Accuracy is the mean over seeds; `NOTE` says what the other numbers are.
    """
    lines = [
        "| row | shots | protocol | measured, % | published, % | seeds | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    few_shot = [
        row for row in ROWS if row != "sine" and row.split("-")[-1] not in STUDIES
    ]
    for row in (name for full in few_shot for name in (full, f"{full}-short")):
        records = results.read(folder / row)
        for shots in SHOTS if records else ():
            for protocol in ("transductive", "non_transductive"):
                scores = [r["metrics"][f"{shots}-shot"][protocol] for r in records]
                values = [100 * score["accuracy"] for score in scores]
                spread = stdev(values) if len(values) > 1 else 100 * scores[0]["ci95"]
                published = PUBLISHED.get((row, shots, protocol), "")
                minutes = mean(r["train_seconds"] for r in records) / 60
                lines.append(
                    f"| {row} | {shots} | {protocol.replace('_', '-')}"
                    f" | {mean(values):.1f} ± {spread:.1f} | {published}"
                    f" | {len(records)} | {minutes:.1f} |"
                )
    return "\n".join([*lines, "", NOTE, ""])


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory this process has held so far, on `device`, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource  # POSIX only; in kilobytes on Linux

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
