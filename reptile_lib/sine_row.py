"""The sine row: a small network on sine waves, scored by its loss after some steps."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import nn
from torch.nn import functional as F

from reptile_lib import checkpoint, results, runs
from reptile_lib.evaluate import adaptation_curve
from reptile_lib.inner import sgd
from reptile_lib.machine import uninterrupted
from reptile_lib.meta import linear
from reptile_lib.models import mlp
from reptile_lib.rows import Budget, row_name, settings
from reptile_lib.tasks import Sine, Tasks
from reptile_lib.together import fit_together
from reptile_lib.train import MetaLearner, Reptile
from reptile_lib.workers import first_alone, say, world

SHOWN = (0, 1, 8, 32)  # inner steps after which the loss is recorded


def train_together(
    seeds: Sequence[int],
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
) -> None:
    """Train those seeds that have not begun as one stack, which a small network repays.

    `reproduce` finds them trained then, or goes on with what a stop has left.

    Raises:
        UserError: training failed, or another process is at work on one of them.
    """
    config = settings("sine", budget)
    into = folder / row_name("sine", budget)
    fresh = [
        seed
        for seed in seeds
        if not (into / f"seed-{seed}.json").exists()
        and not (into / f"run-{seed}" / runs.CHECKPOINT).exists()
    ]
    if len(fresh) < 2 or world().size > 1:
        return
    configs = [config | {"seed": seed} for seed in fresh]
    learners = [_learner(own, device) for own in configs]

    def save() -> None:
        for learner, own in zip(learners, configs, strict=True):
            learner.save(into / f"run-{own['seed']}" / runs.CHECKPOINT, own)

    with ExitStack() as stack:
        for seed in fresh:
            stack.enter_context(runs.held(into / f"run-{seed}"))
        save()  # a folder that cannot be written shows itself now
        try:
            fit_together(
                learners,
                [_tasks(config)] * len(fresh),
                fresh,
                meta_steps=config["meta_steps"],
                meta_batch=config["meta_batch"],
                epsilon=linear(config["epsilon"], config["epsilon_final"]),
                progress=progress,
            )
        finally:
            with uninterrupted():
                save()


def _tasks(config: runs.Config) -> Tasks:
    return Sine(points=config["train_points"])


def _learner(config: runs.Config, device: str) -> MetaLearner:
    return Reptile(
        mlp(*config["sizes"], activation=nn.Tanh, seed=config["seed"]),
        inner=sgd(config["lr"]),
        inner_steps=config["inner_steps"],
        inner_batch=config["inner_batch"],
        criterion=F.mse_loss,
        device="cpu" if device == "auto" else device,  # a small network gains nothing
    )


def measure(
    config: runs.Config,
    run: Path,
    name: str,
    *,
    device: str,
    progress: bool,
) -> tuple[MetaLearner, results.Record]:
    """Train on sine waves and measure the loss after some inner steps."""
    learner = _learner(config, device)
    path = run / runs.CHECKPOINT

    def restore() -> None:
        if path.exists():
            runs.check_same(config, checkpoint.load(path).metadata["config"], config)
            learner.restore(path)

    first_alone(restore)
    learner.agree()
    if learner.state.meta_step < config["meta_steps"]:
        learner.fit(
            _tasks(config),
            meta_steps=config["meta_steps"],
            meta_batch=config["meta_batch"],
            epsilon=linear(config["epsilon"], config["epsilon_final"]),
            seed=config["seed"],
            checkpoint_to=path,
            checkpoint_every=1_000,
            config=config,
            progress=progress,
        )
    return learner, _losses(learner, config, name)


def _losses(learner: MetaLearner, config: runs.Config, name: str) -> results.Record:
    began = time.perf_counter()
    curves = adaptation_curve(
        learner,
        Sine(points=config["points"]),
        inner_steps=config["eval_steps"],
        count=config["eval_tasks"],
        seed=config["seed"],
    )
    metrics = {}
    for steps in SHOWN:
        loss = curves[:, steps]
        ci95 = 1.96 * loss.std().item() / len(loss) ** 0.5
        metrics[f"{steps}-steps"] = {
            "loss": loss.mean().item(),
            "ci95": ci95,
            "tasks": len(loss),
        }
        say(f"{name}, seed {config['seed']}, {steps} steps: {loss.mean():.3f}")
    return {"metrics": metrics, "evaluate_seconds": time.perf_counter() - began}
