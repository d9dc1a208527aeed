"""Scores of trained seeds: of few tasks first, then of as many as there is time for."""

import time
from dataclasses import replace

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import SHOTS, score
from benchmarks.gpu.record import Record
from benchmarks.gpu.seeds import SEEDS, Run, Sizes

ROUND = 100
"""Numbers of tasks are multiples of this; so many are adapted at a time."""


def seconds_per_task(run: Run, sizes: Sizes) -> dict[int, float]:
    """Return, by shots, how long the first seed's score takes."""
    found = {}
    for shots in SHOTS:
        for tasks in sizes.warm_up:
            began = time.perf_counter()
            score(run.learners[0], run.config, run.data[0].test, shots, tasks)
            found[shots] = (time.perf_counter() - began) / tasks
    return found


def score_all(job: Job, run: Run, sizes: Sizes, rate: dict[int, float]) -> None:
    """Score all seeds, 1-shot and 5-shot, under both protocols; report as it gets on.

    A score that finds no time stays None, or that of fewer tasks.

    Args:
        job: its time and its report.
        run: what is scored.
        sizes: how many tasks.
        rate: seconds per task by shots, as far as known; else 0.
    """
    began, few, most = time.perf_counter(), *sizes.tasks
    metrics: list[Record] = [
        {"seed": seed} | {f"{shots}-shot": None for shots in SHOTS} for seed in SEEDS
    ]
    taken = dict(rate)  # in the end the longest seen

    def all_of(tasks: int) -> None:
        for shots in SHOTS:
            for seed, learner in enumerate(run.learners):
                if job.left() < 1.1 * taken[shots] * tasks:
                    continue
                start = time.perf_counter()
                config, classes = replace(run.config, seed=seed), run.data[seed].test
                scores = score(learner, config, classes, shots, tasks)
                spent = (time.perf_counter() - start) / tasks
                taken[shots] = max(taken[shots], spent)
                metrics[seed][f"{shots}-shot"] = scores.as_dict()
                seconds = time.perf_counter() - began
                job.report.add(metrics=metrics, evaluate_seconds=seconds)
                accuracy = 100 * scores.transductive.accuracy
                print(
                    f"  {run.row}, seed {seed}, {shots}-shot: {accuracy:.2f} %"
                    f" transductive, {tasks} tasks",
                    flush=True,
                )

    all_of(few)
    all_scores = len(SEEDS) * sum(taken.values())
    fitting = int(0.9 * job.left() / all_scores) if all_scores else 0
    if not job.dry:
        fitting = fitting // ROUND * ROUND
    if (tasks := min(most, fitting)) > few:
        all_of(tasks)
