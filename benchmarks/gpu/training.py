"""Three seeds of a row side by side at full length, as far as time goes, and scored.

First a canary: some meta-steps and some scores, which tell what the rest will take and
whether it works at all. Then training, with a checkpoint every 20 seconds in
`checkpoints.zip`; a run that finds one there goes on from it.
"""

import time
from contextlib import suppress

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import (
    SHOTS,
    circumstances,
    load_learners,
    peak_memory_mb,
    save_learners,
)
from benchmarks.gpu.record import Record
from benchmarks.gpu.scoring import score_all, seconds_per_task
from benchmarks.gpu.seeds import DRY, FULL, SEEDS, Run, Sizes, prepare

CHECKPOINTS = "checkpoints.zip"
SCORING = 0.15
"""The share of the time that is kept for scoring, where not all of it fits."""

LOOK = 5.0
"""Seconds between two looks at the clock, at most."""


class EnoughError(Exception):
    """Ends a training at a checkpoint."""


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
    if run.done < run.config["meta_steps"]:
        seen = canary(run, sizes)
        job.report.add(canary=seen, **progress(job, run))
        rate = seconds_per_task(run, sizes)
        needed = 1.1 * len(SEEDS) * sum(rate.values()) * sizes.tasks[1]
        steps = run.config["meta_steps"] - run.done
        training = 1.05 * steps * seen["seconds_per_meta_step"]
        reserved = reserve(job.left(), training, needed, SCORING * total)
        job.report.add(
            score_seconds_per_task={f"{shots}-shot": s for shots, s in rate.items()},
            reserved_seconds=reserved,
        )
        train(job, run, sizes, seen, reserved)
        save_learners(path, run.row, run.learners, run.config)
    job.report.add(**progress(job, run))
    print(f"  {run.row}: {run.done} of {run.config['meta_steps']} meta-steps")
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
        "config": run.config,
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
        "complete": run.done == run.config["meta_steps"],
        "train_seconds": history[-1]["seconds"] if history else None,
        "history": history,
        "peak_memory_mb": peak_memory_mb(job.device),
    }


def canary(run: Run, sizes: Sizes) -> Record:
    """Do the first meta-steps, time those of the second half; return what was seen."""
    start, began = run.done, time.perf_counter()
    half, marks = max(1, sizes.canary // 2), []

    def look() -> None:
        if run.done > start:
            marks.append((run.done, time.perf_counter()))
        if run.done >= start + sizes.canary:
            raise EnoughError

    with suppress(EnoughError):
        run.train(look, half)
    (first, then), (last, now) = marks[0], marks[-1]
    seen = {
        "meta_steps": run.done - start,
        "seconds": time.perf_counter() - began,
        "seconds_per_meta_step": (now - then) / max(1, last - first),
        "loss": run.learners[0].history[-1]["loss"],
    }
    each, loss = 1e3 * seen["seconds_per_meta_step"], seen["loss"]
    print(f"  {run.row}: {each:.3g} ms a meta-step, loss {loss:.3f}", flush=True)
    return seen


def train(job: Job, run: Run, sizes: Sizes, seen: Record, reserved: float) -> None:
    """Train to the end, or until only the seconds reserved for scoring are left."""
    path, kept = job.folder / CHECKPOINTS, time.monotonic()
    slow = seen["seconds_per_meta_step"] * sizes.every > LOOK
    every = max(1, sizes.canary // 2) if slow else sizes.every

    def look() -> None:
        nonlocal kept
        if time.monotonic() - kept >= sizes.checkpoint_seconds:
            save_learners(path, run.row, run.learners, run.config)
            job.report.add(**progress(job, run))
            kept = time.monotonic()
        if job.left() < reserved:
            raise EnoughError

    if run.done == run.config["meta_steps"]:
        return
    with suppress(EnoughError):
        run.train(look, every)
