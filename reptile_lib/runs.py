"""A training run as plain settings in a folder: what the command line works with.

Settings are a JSON dict (`Config`); the folder holds the checkpoint, which keeps them.
Defaults are the Omniglot settings of the Reptile authors (README of their code,
openai/supervised-reptile); they depend on the number of ways.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from torch.nn import functional as F

from reptile_lib import checkpoint, conv4_compiled
from reptile_lib.data import load
from reptile_lib.data.classes import Splits
from reptile_lib.errors import UserError
from reptile_lib.evaluate import Evaluation, evaluate
from reptile_lib.files import cannot_write, written_whole
from reptile_lib.inner import Moments, adam
from reptile_lib.meta import linear
from reptile_lib.models import conv4
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.tasks import FewShotTasks
from reptile_lib.train import MetaLearner, Reptile
from reptile_lib.workers import first_alone, job, restarted

Config = dict[str, Any]
"""Settings of a run by name; JSON values only."""

Resume = Literal["never", "always", "if there"]
"""Whether a run goes on from the checkpoint in its folder."""

CHECKPOINT = "checkpoint.safetensors"
JOB = ".job"  # in the folder of a run: which torchrun job began it
LOCK = ".lock"  # there, too: which process is at work
VALIDATION_TASKS = 200
LONG = 200_000  # inner steps from which more processes pay on a CPU, and a compiler

# What φ depends on: a run must keep these settings when it is resumed.
TRAINING: Config = {
    "data": "glyphs",
    "seed": 0,
    "val_classes": 0,
    "ways": 5,
    "train_shots": 10,
    "inner_steps": 5,
    "inner_batch": 10,
    "lr": 1e-3,
    "moments": "carry",
    "reduction": "sum",
    "meta_steps": 100_000,
    "meta_batch": 5,
    "epsilon": 1.0,
    "epsilon_final": 0.0,
    "precision": "float32",
}
# Settings that older checkpoints lack, with what was done before there was a choice.
LATER: Config = {"precision": "float32", "reduction": "mean"}
EVALUATION: Config = {
    "shots": 1,
    "eval_steps": 50,
    "eval_batch": 5,
    "eval_tasks": 1000,
}
TWENTY_WAYS: Config = {
    "lr": 5e-4,
    "inner_steps": 10,
    "inner_batch": 20,
    "meta_steps": 200_000,
    "eval_batch": 10,
}


def complete(config: Config) -> Config:
    """Fill in the default of every setting that is absent or None."""
    given = {name: value for name, value in config.items() if value is not None}
    special = TWENTY_WAYS if given.get("ways") == 20 else {}
    return TRAINING | EVALUATION | special | given


def is_long(config: Config) -> bool:
    """Say whether training takes so many inner steps that preparations pay."""
    steps: int = config["meta_steps"] * config["meta_batch"] * config["inner_steps"]
    return steps >= LONG


def load_data(config: Config) -> Splits:
    """Load the data set of a run, split by its seed.

    Raises:
        UserError: there is no such data set, it cannot be had, or it has validation
            classes of its own.
    """
    if config["data"] == "omniglot":
        return load("omniglot", seed=config["seed"], val_classes=config["val_classes"])
    if config["val_classes"]:
        raise UserError(
            f"val_classes = {config['val_classes']}: only omniglot sets classes aside"
            " on demand; leave it out"
        )
    return load(config["data"])


def build(config: Config, device: str) -> MetaLearner:
    """Make the untrained learner of a run.

    The authors' code asks TensorFlow for the gradient of a vector, the losses of a
    minibatch, and gets that of their sum. Adam does not see the difference while all
    minibatches have one size. But with carried moments, training's minibatches of 10
    set the measure for evaluation's 5: the steps are half as long as with a mean.
    """
    return Reptile(
        conv4(config["ways"], seed=config["seed"]),
        criterion=partial(F.cross_entropy, reduction=config["reduction"]),
        inner=adam(config["lr"]),
        inner_steps=config["inner_steps"],
        inner_batch=config["inner_batch"],
        moments=config["moments"],
        precision=config["precision"],
        device=device,
    )


def reopen(folder: Path, device: str, **overrides: Any) -> tuple[MetaLearner, Config]:
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
    config = settings(path) | given
    learner = build(config, device)
    learner.restore(path)
    return learner, config


def settings(path: Path) -> Config:
    """Read the settings that a run keeps in its checkpoint.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it is not of such a run.
    """
    found: Config = checkpoint.load(path).metadata["config"]
    absent = [name for name in TRAINING | EVALUATION if name not in found]
    if missing := [name for name in absent if name not in LATER]:
        raise UserError(
            f"{path} does not say how it was trained ({missing[0]} is missing); restore"
            " it from Python, into the learner that wrote it"
        )
    return {name: LATER[name] for name in absent} | found


def train(
    config: Config,
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
    learner = build(config, device)
    on_cpu = learner.phi.device.type == "cpu"
    learner.compiled = on_cpu and is_long(config) and conv4_compiled.works()

    def open_folder() -> None:
        # What this job began before one of its processes died is its to go on with.
        marker = folder / JOB
        ours = restarted() and marker.exists() and marker.read_text() == job()
        if path.exists() and resume == "never" and not ours:
            raise UserError(
                f"{folder} already holds a run; continue it with --resume, or name"
                " another folder"
            )
        if resume == "always" or ((resume == "if there" or ours) and path.exists()):
            check_same(config, settings(path))
            learner.restore(path)
        if job():
            with written_whole(marker) as temporary:
                temporary.write_text(job())

    first_alone(open_folder)
    learner.agree()
    tasks = FewShotTasks(data.train.rotated(), config["ways"], config["train_shots"])
    validate = _validation(config, data, validate_every) if validate_every else None
    start_step = learner.state.meta_step
    if start_step == 0 or start_step < config["meta_steps"]:
        learner.fit(
            tasks,
            meta_steps=config["meta_steps"],
            meta_batch=config["meta_batch"],
            epsilon=linear(config["epsilon"], config["epsilon_final"]),
            seed=config["seed"],
            validate=validate,
            validate_every=validate_every,
            checkpoint_to=path,
            checkpoint_every=checkpoint_every,
            config=config,
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

    first_alone(take)
    try:
        yield
    finally:
        lock.release()


def check_evaluation(config: Config) -> None:
    """Raise UserError where no evaluation could follow the training."""
    for name, least in (("eval_tasks", 1), ("eval_batch", 1), ("eval_steps", 0)):
        if config[name] < least:
            raise UserError(f"{name} = {config[name]}; give at least {least}")


def score(
    learner: MetaLearner,
    config: Config,
    tasks: FewShotTasks,
    *,
    stream: int = TEST,
    moments: Moments | None = None,
) -> Evaluation:
    """Evaluate under the settings of a run."""
    return evaluate(
        learner,
        tasks,
        inner_steps=config["eval_steps"],
        inner_batch=config["eval_batch"],
        count=config["eval_tasks"],
        seed=config["seed"],
        stream=stream,
        moments=moments,
    )


def _validation(
    config: Config, data: Splits, every: int
) -> Callable[[MetaLearner], dict[str, float]]:
    if not len(data.val):
        raise UserError(
            f"validate_every = {every}: {config['data']} has no validation classes;"
            " set some aside (--val-classes 100)"
        )
    tasks = FewShotTasks(data.val, config["ways"], config["shots"])
    settings = config | {"eval_tasks": VALIDATION_TASKS}

    def validate(learner: MetaLearner) -> dict[str, float]:
        scores = score(learner, settings, tasks, stream=VALIDATE)
        return {"validation_accuracy": scores.transductive.accuracy}

    return validate


def check_same(asked: Config, found: Config, names: Iterable[str] = TRAINING) -> None:
    """Raise UserError unless a run began with the settings now asked for."""
    for name in names:
        if asked[name] != (began := found.get(name)):
            raise UserError(
                f"{name} is {asked[name]}, but the run began with {began}; ask"
                f" for {began} again, or begin anew in another folder"
            )
