"""A training run in a folder: what the command line works with.

The folder holds the checkpoint, which keeps the settings.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.evaluation import Evaluation, evaluate
from reptile_lib.examples import Splits
from reptile_lib.fast import conv4_compiled
from reptile_lib.inner import Moments
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.meta import Schedule
from reptile_lib.models.mlp import mlp
from reptile_lib.models.pictures import NETS
from reptile_lib.models.text import text_bag
from reptile_lib.optimizers.formulas import adam, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.parallel.launch import job, restarted
from reptile_lib.parallel.team import here
from reptile_lib.params import layout, ravel
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs.settings import Json, Settings, from_file
from reptile_lib.storage import checkpoint
from reptile_lib.storage.files import cannot_write, written_whole

Resume = Literal["never", "always", "if there"]
"""Whether a run goes on from the checkpoint in its folder."""

CHECKPOINT = "checkpoint.safetensors"
JOB = ".job"  # in the folder of a run: which torchrun job began it
LOCK = ".lock"  # there, too: which process is at work
VALIDATION_TASKS = 200
HIDDEN = (64, 64)  # units of the layers for columns of numbers
LONG = 200_000  # inner steps from which more processes pay on a CPU, and a compiler


def build(settings: Settings, device: str) -> MetaLearner:
    """Make the untrained learner of a run.

    The authors' code asks TensorFlow for the gradient of a vector, the losses of a
    minibatch, and gets that of their sum. Adam does not see the difference while all
    minibatches have one size. But with carried moments, training's minibatches of 10
    set the measure for evaluation's 5: the steps are half as long as with a mean.
    """
    return Reptile(
        _model(settings),
        criterion=partial(F.cross_entropy, reduction=settings.reduction),
        inner=adam(settings.lr) if settings.optimizer == "adam" else sgd(settings.lr),
        inner_steps=settings.inner_steps,
        inner_batch=settings.inner_batch,
        moments=settings.moments,
        precision=settings.precision,
        device=device,
    )


def _model(settings: Settings) -> nn.Module:
    """Make the untrained network of a run."""
    ways, seed = settings.ways, settings.seed
    if settings.kind == "sentences":
        model = text_bag(ways, seed=seed)
    elif settings.kind == "numbers":
        model = mlp(settings.columns.count(",") + 1, *HIDDEN, ways, seed=seed)
    else:
        model = NETS[settings.net](ways, settings.channels, settings.size, seed)
    if settings.head == "zeroed":
        for parameter in list(model.parameters())[-2:]:
            nn.init.zeros_(parameter)
    return model


def _epsilon(settings: Settings, model: nn.Module) -> Schedule:
    """Return ε; a head that starts every task at zero stays there."""
    line = linear(settings.epsilon, settings.epsilon_final)
    if settings.head != "zeroed":
        return line
    body = body_of(model)
    return lambda done: line(done) * body


def body_of(model: nn.Module) -> Tensor:
    """Return [P]: 0 for weights and biases of the last layer, 1 for all others."""
    body = torch.ones_like(ravel(model))
    body[-sum(layout(model).sizes[-2:]) :] = 0
    return body


def reopen(
    folder: Path, device: str, **overrides: Json | None
) -> tuple[MetaLearner, Settings]:
    """Read the learner of a run and its settings back.

    Args:
        folder: of the run, or its checkpoint file.
        device: where to put the learner.
        overrides: settings to change; None keeps what the run had.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it is not of such a run.
    """
    path = folder / CHECKPOINT if folder.is_dir() else folder
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = replace(settings_of(path), **given)  # type: ignore[arg-type]
    learner = build(settings, device)
    learner.restore(path)
    return learner, settings


def folder_of(path: Path) -> Path:
    """Return the folder of a run, of which either that or the checkpoint is named."""
    return path if path.is_dir() else path.parent


def settings_of(path: Path) -> Settings:
    """Read the settings that a run keeps in its checkpoint.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it is not of such a run.
    """
    kept: Mapping[str, Json] = checkpoint.load(path).metadata["config"]
    return from_file(kept, path)


def train(
    settings: Settings,
    data: Splits,
    folder: Path,
    *,
    device: str = "auto",
    resume: Resume = "never",
    checkpoint_every: int = 0,
    validate_every: int = 0,
    progress: bool = False,
) -> tuple[MetaLearner, int]:
    """Train in `folder`, from the beginning or from its checkpoint.

    Of several processes, the first alone reads and writes the folder.

    Returns:
        the learner, and the meta-step it started from.

    Raises:
        UserError: the folder holds a run although `resume` is "never", or none although
            it is "always"; the run in it has other settings; or as `MetaLearner.fit`.
    """
    path = folder / CHECKPOINT
    learner = build(settings, device)
    on_cpu = learner.phi.device.type == "cpu"
    learner.compiled = (
        on_cpu and settings.training_steps >= LONG and conv4_compiled.works()
    )

    def open_folder() -> None:
        # What this job began before one of its processes died is its to go on with.
        marker = folder / JOB
        ours = restarted() and marker.exists() and marker.read_text() == job()
        begun = path.exists() and checkpoint.load(path).metadata["meta_step"] > 0
        if begun and resume == "never" and not ours:
            raise UserError(
                f"{folder} already holds a run; continue it with --resume, or name"
                " another folder"
            )
        if resume == "always" or ((resume == "if there" or ours) and begun):
            if begun:
                settings.check_same(settings_of(path))
            learner.restore(path)
        if job():
            with written_whole(marker) as temporary:
                temporary.write_text(job())

    here().first_alone(open_folder)
    learner.agree()
    classes = data.train.rotated() if settings.turns else data.train
    tasks = FewShotTasks(classes, settings.ways, settings.train_shots)
    validate = _validation(settings, data, validate_every) if validate_every else None
    start_step = learner.state.meta_step
    if start_step == 0 or start_step < settings.meta_steps:
        learner.fit(
            tasks,
            meta_steps=settings.meta_steps,
            meta_batch=settings.meta_batch,
            epsilon=_epsilon(settings, learner.model),
            seed=settings.seed,
            validate=validate,
            validate_every=validate_every,
            checkpoint_to=path,
            checkpoint_every=checkpoint_every,
            config=settings.as_dict(),
            progress=progress,
        )
    return learner, start_step


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep the folder of a run for this process and those it works with.

    The system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)

    def take() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is at work in {folder}; wait for it, or stop it"
            ) from error
        except OSError as error:
            raise cannot_write(folder, error) from error

    here().first_alone(take)
    try:
        yield
    finally:
        lock.release()


def score(
    learner: MetaLearner,
    settings: Settings,
    tasks: FewShotTasks,
    *,
    stream: int = TEST,
    moments: Moments | None = None,
) -> Evaluation:
    """Evaluate under the settings of a run."""
    return evaluate(
        learner,
        tasks,
        inner_steps=settings.eval_steps,
        # more than there are would come twice, some more often than others
        inner_batch=min(settings.eval_batch, settings.ways * settings.shots),
        count=settings.eval_tasks,
        seed=settings.seed,
        stream=stream,
        moments=moments,
    )


def _validation(
    settings: Settings, data: Splits, every: int
) -> Callable[[MetaLearner], dict[str, float]]:
    if not len(data.val):
        raise UserError(
            f"validate_every = {every}: {settings.data} has no validation classes;"
            " set some aside (--val-classes 100)"
        )
    tasks = FewShotTasks(data.val, settings.ways, settings.shots)
    fewer = replace(settings, eval_tasks=VALIDATION_TASKS)

    def validate(learner: MetaLearner) -> dict[str, float]:
        scores = score(learner, fewer, tasks, stream=VALIDATE)
        return {"validation_accuracy": scores.transductive.accuracy}

    return validate
