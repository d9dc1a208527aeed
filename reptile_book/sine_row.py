"""The sine row: a small network on sine waves, scored by its loss after some steps."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import nn
from torch.nn import functional as F

from reptile_book import records
from reptile_book.rows import Budget, Changes, SineSettings, row_name, sine_settings
from reptile_lib.distributions.sine import Sine
from reptile_lib.errors import UserError
from reptile_lib.evaluation import adaptation_curve
from reptile_lib.fit.side_by_side import fit_side_by_side
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.parallel.signals import uninterrupted
from reptile_lib.parallel.team import here, say
from reptile_lib.runs.run import CHECKPOINT, held
from reptile_lib.storage import checkpoint
from reptile_lib.tasks import Tasks

SHOWN = (0, 1, 8, 32)  # inner steps after which the loss is recorded


def train_together(
    seeds: Sequence[int],
    budget: Budget = "full",
    folder: Path = Path("results"),
    *,
    device: str = "auto",
    progress: bool = False,
    trial: Changes | None = None,
) -> None:
    """Train those seeds that have not begun as one stack, which a small network repays.

    `reproduce` finds them trained then, or goes on with what a stop has left.

    Raises:
        UserError: training failed, or another process is at work on one of them.
    """
    into = folder / row_name("sine", budget)
    fresh = [
        seed
        for seed in seeds
        if not (into / f"seed-{seed}.json").exists()
        and not (into / f"run-{seed}" / CHECKPOINT).exists()
    ]
    if len(fresh) < 2 or here().size > 1:
        return
    configs = [sine_settings(budget, seed, trial) for seed in fresh]
    first = configs[0]
    learners = [learner_of(own, device) for own in configs]

    def save() -> None:
        for learner, own in zip(learners, configs, strict=True):
            learner.save(into / f"run-{own.seed}" / CHECKPOINT, own.as_dict())

    with ExitStack() as stack:
        for seed in fresh:
            stack.enter_context(held(into / f"run-{seed}"))
        save()  # a folder that cannot be written shows itself now
        try:
            fit_side_by_side(
                learners,
                [_tasks(first)] * len(fresh),
                fresh,
                meta_steps=first.meta_steps,
                meta_batch=first.meta_batch,
                epsilon=linear(first.epsilon, first.epsilon_final),
                progress=progress,
            )
        finally:
            with uninterrupted():
                save()


def _tasks(config: SineSettings) -> Tasks:
    return Sine(points=config.train_points)


def learner_of(config: SineSettings, device: str) -> MetaLearner:
    """Return the untrained learner of the row."""
    return Reptile(
        mlp(*config.sizes, activation=nn.Tanh, seed=config.seed),
        inner=sgd(config.lr),
        inner_steps=config.inner_steps,
        inner_batch=config.inner_batch,
        criterion=F.mse_loss,
        device="cpu" if device == "auto" else device,  # a small network gains nothing
    )


def measure(
    config: SineSettings,
    run: Path,
    name: str,
    *,
    device: str,
    progress: bool,
) -> tuple[MetaLearner, records.Record]:
    """Train on sine waves and measure the loss after some inner steps."""
    learner = learner_of(config, device)
    path = run / CHECKPOINT

    def restore() -> None:
        if path.exists():
            began = checkpoint.load(path).metadata["config"]
            for setting, value in config.as_dict().items():
                if began.get(setting) != value:
                    raise UserError(
                        f"{setting} is {value}, but the run began with"
                        f" {began.get(setting)}; remove {run} to begin anew"
                    )
            learner.restore(path)

    here().first_alone(restore)
    learner.agree()
    if learner.state.meta_step < config.meta_steps:
        learner.fit(
            _tasks(config),
            meta_steps=config.meta_steps,
            meta_batch=config.meta_batch,
            epsilon=linear(config.epsilon, config.epsilon_final),
            seed=config.seed,
            checkpoint_to=path,
            checkpoint_every=1_000,
            config=config.as_dict(),
            progress=progress,
        )
    return learner, _losses(learner, config, name)


def _losses(learner: MetaLearner, config: SineSettings, name: str) -> records.Record:
    began = time.perf_counter()
    curves = adaptation_curve(
        learner,
        Sine(points=config.points),
        inner_steps=config.eval_steps,
        count=config.eval_tasks,
        seed=config.seed,
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
        say(f"{name}, seed {config.seed}, {steps} steps: {loss.mean():.3f}")
    return {"metrics": metrics, "evaluate_seconds": time.perf_counter() - began}
