"""The study of page 4.2: what becomes of Adam's memory, each choice at its own α.

::

    python -m reptile_book.adam_rates glyphs carry,reset --seeds 0,1,2
    python -m reptile_book.adam_rates glyphs carry,reset --meta-steps 250

α is chosen on one seed of its own by 1-shot accuracy on validation classes, after half
of the training: `results/adam-rates/<data>-<choice>.json`. Each seed then trains with
it and is scored on tasks of test classes, the same for all, with the memory of its
training and (not in those of 1,000 meta-steps) with the other: the same name with the
seed. If there are not 1,000 meta-steps, their number stands behind `<data>`.
Nothing is overwritten: what is recorded is kept, if it is of the same settings.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.evaluation import Evaluation
from reptile_lib.examples import Splits
from reptile_lib.inner import Moments, State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.learner import MetaLearner
from reptile_lib.meta import Target, reptile
from reptile_lib.optimizers.formulas import adam
from reptile_lib.optimizers.schedules import linear
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs import run
from reptile_lib.runs.data import load_data
from reptile_lib.runs.settings import Settings
from reptile_lib.tasks import Episodes, check_positive

ROW = "adam-rates"


@dataclass(frozen=True)
class Choice:
    """What is done with Adam's memory."""

    moments: Moments
    beta2: float = 0.999
    zeroed: bool = False
    """Whether every task starts with a head of zeros."""


CHOICES = {
    "carry": Choice("carry"),
    "reset": Choice("reset"),
    "carry-shorter": Choice("carry", 0.995),
    "carry-zeroed": Choice("carry", zeroed=True),
    "reset-zeroed": Choice("reset", zeroed=True),
}


@dataclass(frozen=True)
class Study:
    """How the study is done; other settings are those of the recorded rows."""

    meta_steps: int = 1_000
    choice_steps: int = 500
    rates: tuple[float, ...] = (0.002, 0.004, 0.008)
    """Tried first; the grid grows by factors of two where an edge wins."""
    widen: int = 4
    choice_seed: int = 100
    val_classes: int = 100
    """Of Omniglot's training classes; the glyphs have validation classes."""
    validation_tasks: int = 200
    test_tasks: int = 1_000
    eval_steps: int = 50
    shots: tuple[int, ...] = (1,)

    def as_dict(self) -> Record:
        """Return the settings by name, for JSON."""
        return asdict(self) | {"rates": list(self.rates), "shots": list(self.shots)}


STUDY = Study()


def load(data: str, study: Study) -> Splits:
    """Return the split of seed 0, whatever the seed of the training."""
    classes = study.val_classes if data == "omniglot" else 0
    return load_data(Settings(data=data, val_classes=classes))


def train(
    choice: Choice, settings: Settings, data: Splits, meta_steps: int
) -> MetaLearner:
    """Train from the weights of the settings' seed."""
    learner = run.build(settings, "cpu")
    learner.inner = adam(settings.lr, (0.0, choice.beta2))
    if choice.zeroed:
        learner.rule = ZeroedHead(learner)
    learner.fit(
        FewShotTasks(data.train.rotated(), settings.ways, settings.train_shots),
        meta_steps=meta_steps,
        meta_batch=settings.meta_batch,
        epsilon=linear(settings.epsilon, settings.epsilon_final),
        seed=settings.seed,
    )
    if choice.zeroed:
        phi = learner.phi * run.body_of(learner.model)
        learner.state = learner.state._replace(phi=phi)
    return learner


class ZeroedHead:
    """Reptile's rule, where tasks start from φ with zeros for a head."""

    def __init__(self, learner: MetaLearner) -> None:
        self.body = learner.kernel.pack(run.body_of(learner.model))

    def __call__(
        self, U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None
    ) -> Target:
        """Target the mean of the adapted parameters."""
        return reptile(U, phi * self.body, tasks, state)


def score(
    learner: MetaLearner,
    data: FewShotTasks,
    study: Study,
    stream: int,
    moments: Moments | None = None,
) -> Evaluation:
    """Score on tasks that depend on the stream alone; `moments`: not the learner's."""
    tests = study.test_tasks if stream == TEST else study.validation_tasks
    settings = Settings(eval_steps=study.eval_steps, eval_tasks=tests)
    return run.score(learner, settings, data, stream=stream, moments=moments)


def choose(
    data: str, choice: Choice, study: Study, say: Callable[[str], None] = print
) -> Record:
    """Choose α by accuracy on validation classes."""
    began, classes = time.perf_counter(), load(data, study)
    settings = Settings(data=data, seed=study.choice_seed, moments=choice.moments)
    tasks = FewShotTasks(classes.val, settings.ways, 1)
    found: dict[float, float | None] = {}
    rates = list(study.rates)
    for _ in range(study.widen + 1):
        for rate in [rate for rate in rates if rate not in found]:
            own = replace(settings, lr=rate)
            try:
                learner = train(choice, own, classes, study.choice_steps)
                value = score(learner, tasks, study, VALIDATE).transductive.accuracy
            except UserError as error:  # it diverged
                say(str(error))
                value = None
            found[rate] = value
            say(f"{ROW}: {data}, {choice}, α = {rate}: {value}")
        best = max(found, key=lambda rate: found[rate] or 0)
        if not studies.grown(rates, best):
            break
    return {
        "row": ROW,
        "data": data,
        "choice": asdict(choice),
        "config": study.as_dict(),
        "alpha": best,
        "inside": min(found) < best < max(found),
        "validation_accuracy": {str(rate): found[rate] for rate in sorted(found)},
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def final(data: str, choice: Choice, alpha: float, seed: int, study: Study) -> Record:
    """Train as chosen and score on test classes."""
    began, classes = time.perf_counter(), load(data, study)
    settings = Settings(data=data, seed=seed, moments=choice.moments, lr=alpha)
    learner = train(choice, settings, classes, study.meta_steps)
    trained = time.perf_counter()

    def scores(moments: Moments) -> Record:
        return {
            f"{shots}-shot": score(
                learner,
                FewShotTasks(classes.test, settings.ways, shots),
                study,
                TEST,
                moments,
            ).as_dict()
            for shots in study.shots
        }

    other: Moments = "reset" if choice.moments == "carry" else "carry"
    return {
        "row": ROW,
        "data": data,
        "seed": seed,
        "choice": asdict(choice),
        "config": study.as_dict(),
        "alpha": alpha,
        "metrics": scores(choice.moments),
        "metrics_switched_moments": scores(other),
        "train_seconds": trained - began,
        "evaluate_seconds": time.perf_counter() - trained,
        **records.circumstances(find_device("cpu")),
    }


def file_name(data: str, name: str, meta_steps: int = STUDY.meta_steps) -> str:
    """Return what the files of a choice are called, but for the seed."""
    length = f"-{meta_steps}" if meta_steps != STUDY.meta_steps else ""
    return f"{data}{length}-{name}"


def record(
    data: str,
    name: str,
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose α and train the seeds, unless that is recorded; return all records.

    Raises:
        UserError: there is no such choice, or a record is of other settings.
    """
    if name not in CHOICES:
        raise UserError(f"unknown choice {name!r}; take one of {', '.join(CHOICES)}")
    choice, length = CHOICES[name], study.meta_steps
    option = f" --meta-steps {length}" if length != STUDY.meta_steps else ""
    return studies.one_by_one(
        folder / ROW,
        file_name(data, name, length),
        seeds,
        study.as_dict(),
        f"python -m reptile_book.adam_rates {data} {name}{option}",
        choose=lambda: choose(data, choice, study, say),
        final=lambda first, seed: final(data, choice, first["alpha"], seed, study),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record some choices; return 0, or 2 for a user's mistake."""
    parser = studies.parser("adam_rates", __doc__)
    parser.add_argument("data", help="glyphs or omniglot")
    parser.add_argument("choices", help=f"comma-separated, of {', '.join(CHOICES)}")
    parser.add_argument(
        "--meta-steps", type=int, default=STUDY.meta_steps, help="of a training"
    )
    options = parser.parse_args(arguments)
    length = options.meta_steps
    study = replace(STUDY, meta_steps=length, choice_steps=max(1, length // 2))

    def act() -> None:
        check_positive(meta_steps=length)
        seeds = studies.seeds_of(options.seeds)
        for name in options.choices.split(","):
            record(options.data, name, seeds, options.results, study)

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
