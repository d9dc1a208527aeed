"""The rows of the book's result tables, and the runs that fill them.

::

    python -m reptile_lib reproduce omniglot-5way --seeds 0,1,2

One training run a seed serves 1-shot and 5-shot and both protocols. It leaves
`results/<row>/seed-<n>.json` with the numbers and `seed-<n>.safetensors` with φ.
"""

import shutil
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import torch

from reptile_lib import results, runs
from reptile_lib.errors import UserError
from reptile_lib.files import written_whole
from reptile_lib.tasks import FewShotTasks

Budget = Literal["full", "short"]

ROWS: dict[str, runs.Config] = {
    "glyphs-5way": {"data": "glyphs"},
    "omniglot-5way": {"data": "omniglot"},
    "omniglot-20way": {"data": "omniglot", "ways": 20},
}
BUDGETS: dict[Budget, runs.Config] = {
    "full": {"eval_tasks": 10_000},
    "short": {"eval_tasks": 1_000, "meta_steps": 1_000},
}
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

    Raises:
        UserError: there is no such row, it is recorded already, or training failed.
    """
    if row not in ROWS:
        raise UserError(f"unknown row {row!r}; choose one of {', '.join(ROWS)}")
    config = runs.complete(ROWS[row] | BUDGETS[budget] | {"seed": seed})
    name = row if budget == "full" else f"{row}-{budget}"
    path = folder / name / f"seed-{seed}.json"
    if path.exists():
        raise UserError(f"{path} is recorded already; delete it to run it again")

    run = folder / name / f"run-{seed}"
    data = runs.load_data(config)
    learner, _ = runs.train(
        config,
        data,
        run,
        device=device,
        resume=(run / runs.CHECKPOINT).exists(),
        checkpoint_every=1_000,
        progress=progress,
    )
    began = time.perf_counter()
    metrics = {}
    for shots in SHOTS:
        tasks = FewShotTasks(data.test, config["ways"], shots)
        scores = runs.score(learner, config, tasks)
        metrics[f"{shots}-shot"] = scores.as_dict()
        print(f"{name}, seed {seed}, {shots}-shot\n{scores}")
    evaluate_seconds = time.perf_counter() - began

    record = {
        "row": name,
        "seed": seed,
        "config": config,
        "metrics": metrics,
        "train_seconds": learner.history[-1]["seconds"],
        "evaluate_seconds": evaluate_seconds,
        "inner_steps": config["meta_steps"]
        * config["meta_batch"]
        * config["inner_steps"],
        "peak_memory_mb": peak_memory_mb(learner.phi.device),
        **results.circumstances(learner.phi.device),
        "command": f"python -m reptile_lib reproduce {row} --seeds {seed}"
        f" --budget {budget}",
    }
    phi = path.with_suffix(".safetensors")
    shutil.copyfile(run / runs.CHECKPOINT, phi)
    results.write(path, record)
    shutil.rmtree(run)
    write_headline(folder)
    return record


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
    rows = [name for row in ROWS for name in (row, f"{row}-short")]
    for row in rows:
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
