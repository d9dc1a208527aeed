"""Three seeds of a row side by side at full length, as far as time goes, and scored.

First a canary: some meta-steps and some scores, which tell what the rest will take and
whether it works at all. Then training in slices of 20 seconds, each with a checkpoint
in `checkpoints.zip`; a run that finds one there goes on from it.
"""

import time

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import (
    SHOTS,
    circumstances,
    load_learners,
    peak_memory_mb,
    save_learners,
    without_seed,
)
from benchmarks.gpu.record import Record
from benchmarks.gpu.scoring import score_all, seconds_per_task
from benchmarks.gpu.seeds import DRY, FULL, SEEDS, Run, Sizes, prepare

CHECKPOINTS = "checkpoints.zip"
SCORING = 0.15
"""The share of the time that is kept for scoring, where not all of it fits."""


def measure(job: Job, row: str, sizes: Sizes | None = None) -> None:
    """Fill the report of this stage; README.md names its keys.

    Args:
        job: where, and until when.
        row: of the book's tables.
        sizes: None for those of a full or a dry run.
    """
    sizes = sizes or (DRY if job.dry else FULL)
    run = prepare(job, row, sizes)
    path = job.folder / CHECKPOINTS
    load_learners(path, run.row, run.learners, run.config)
    job.report.add(**about(job, run, resumed_from=run.done))
    total, rate = job.left(), dict.fromkeys(SHOTS, 0.0)
    if run.done < run.config.meta_steps:
        seen = canary(run, sizes)
        job.report.add(canary=seen, **progress(job, run))
        rate = seconds_per_task(run, sizes)
        needed = 1.1 * len(SEEDS) * sum(rate.values()) * sizes.tasks[1]
        steps = run.config.meta_steps - run.done
        training = 1.05 * steps * seen["seconds_per_meta_step"]
        reserved = reserve(job.left(), training, needed, SCORING * total)
        job.report.add(
            score_seconds_per_task={f"{shots}-shot": s for shots, s in rate.items()},
            reserved_seconds=reserved,
        )
        train(job, run, sizes, seen["seconds_per_meta_step"], reserved)
    job.report.add(**progress(job, run))
    print(f"  {run.row}: {run.done} of {run.config.meta_steps} meta-steps")
    score_all(job, run, sizes, rate)


def reserve(left: float, training: float, scoring: float, least: float) -> float:
    """Return how many of the seconds that are left to keep for scoring.

    A training that ends comes first: its checkpoints can still be scored elsewhere.

    Args:
        left: seconds for both.
        training: what the rest of the training will take.
        scoring: what all scores will take.
        least: to keep for scores if scoring takes as long.
    """
    return min(scoring, max(least, left - training))


def about(job: Job, run: Run, resumed_from: int) -> Record:
    """Return the keys of the result, those that are not known yet as None."""
    return {
        "row": run.row,
        "seeds": list(SEEDS),
        "config": without_seed(run.config),
        **circumstances(job.device),
        "resumed_from": resumed_from,
        "canary": None,
        "score_seconds_per_task": None,
        "reserved_seconds": None,
        **progress(job, run),
        "metrics": [],
        "evaluate_seconds": None,
    }


def progress(job: Job, run: Run) -> Record:
    """Return how far training has got."""
    history = run.learners[0].history
    return {
        "meta_steps_done": run.done,
        "complete": run.done == run.config.meta_steps,
        "train_seconds": history[-1]["seconds"] if history else None,
        "history": history,
        "peak_memory_mb": peak_memory_mb(job.device),
    }


def advance(run: Run, meta_steps: int) -> float:
    """Train some meta-steps more, or to the end; return the seconds of each."""
    start, began = run.done, time.perf_counter()
    run.train(min(start + meta_steps, run.config.meta_steps))
    return (time.perf_counter() - began) / (run.done - start)


def canary(run: Run, sizes: Sizes) -> Record:
    """Do the first meta-steps, time those of the second half; return what was seen."""
    start, began = run.done, time.perf_counter()
    half = max(1, sizes.canary // 2)
    pace = advance(run, half)
    if run.done < run.config.meta_steps:
        pace = advance(run, half)
    seen = {
        "meta_steps": run.done - start,
        "seconds": time.perf_counter() - began,
        "seconds_per_meta_step": pace,
        "loss": run.learners[0].history[-1]["loss"],
    }
    print(f"  {run.row}: {1e3 * pace:.3g} ms a meta-step, loss {seen['loss']:.3f}")
    return seen


def train(job: Job, run: Run, sizes: Sizes, pace: float, reserved: float) -> None:
    """Train to the end, or until only the seconds reserved for scoring are left.

    Args:
        job: its time, and where checkpoints go.
        run: what is trained.
        sizes: how long a slice is.
        pace: seconds per meta-step, as far as known.
        reserved: seconds.
    """
    path = job.folder / CHECKPOINTS
    while True:
        save_learners(path, run.row, run.learners, run.config)
        job.report.add(**progress(job, run))
        left = job.left() - reserved
        if left < sizes.slice_seconds / 10 or run.done == run.config.meta_steps:
            return
        seconds = min(left, sizes.slice_seconds)
        pace = advance(run, max(1, int(seconds / pace)))
