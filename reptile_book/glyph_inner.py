"""The letters of pages 4.1 and 4.3: inner optimisers over rotating scripts.

::

    python -m reptile_book.glyph_inner sgd,adam,gd --seeds 0,1,2

The twelve scripts are cut into four groups. Each group is the test once, with the next
one for validation and the other two for training, so every script is a test script
once. All ways spend one number of gradients of one example. For each way and group α,
then ε, then the rate of adaptation are chosen by 1-shot accuracy on validation scripts:
`results/glyph-inner/<way>-<group>.json`. Each seed then trains as chosen and is scored
on tasks within each test script, the same for all ways: the same name with the seed.
Nothing is overwritten: what is recorded is kept, if it is of the same settings.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_lib.data.sets import load
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.evaluation import evaluate
from reptile_lib.examples import Examples
from reptile_lib.inner import InnerOptimizer
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.conv4 import conv4
from reptile_lib.optimizers.formulas import adam, gd, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.rng import TEST, VALIDATE

ROW = "glyph-inner"
GROUPS = (
    ("Latin", "Greek", "Cyrillic"),  # which share shapes
    ("Canadian Syllabics", "Old Italic", "Armenian"),
    ("Arabic", "Hebrew", "NKo"),
    ("Georgian", "Lao", "Tifinagh"),
)
WAYS: dict[str, Callable[[float], InnerOptimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "gd": gd,
}


@dataclass(frozen=True)
class Study:
    """How the study is done."""

    gradients: int = 75_000
    """Of one example, in a training."""
    ways: int = 5
    train_shots: int = 10
    inner_steps: int = 5
    inner_batch: int = 10
    meta_batch: int = 5
    rates: tuple[tuple[str, tuple[float, ...]], ...] = (
        ("sgd", (0.1, 0.2, 0.4)),
        ("adam", (0.002, 0.004, 0.008)),
        ("gd", (0.2, 0.4, 0.8)),
    )
    """α tried first; the grid grows by factors of two where an edge wins."""
    widen: int = 3
    epsilons: tuple[float, ...] = (1.0, 0.5)
    """At the beginning; they fall to zero. α is chosen with the first."""
    stretch: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Rates of adaptation over α."""
    choice_seed: int = 100
    validation_tasks: int = 67
    test_tasks: int = 100
    """Of each script, of which there are three."""
    eval_steps: int = 50
    eval_batch: int = 5

    def meta_steps(self, way: str) -> int:
        """Return how many meta-steps the gradients pay for."""
        all_of_them = self.ways * self.train_shots
        batch = all_of_them if way == "gd" else self.inner_batch
        return self.gradients // (batch * self.inner_steps * self.meta_batch)

    def as_dict(self) -> Record:
        """Return the settings by name, for JSON."""
        return asdict(self) | {
            "rates": {way: list(rates) for way, rates in self.rates},
            "epsilons": list(self.epsilons),
            "stretch": list(self.stretch),
        }


STUDY = Study()


def letters(scripts: Sequence[str]) -> Examples:
    """Return the glyphs of some scripts, whatever split they are in."""
    found = [
        (name, values)
        for part in load("glyphs")
        for name, values in zip(part.names, part.by_class(), strict=True)
        if name.split("/")[0] in scripts
    ]
    names, values = zip(*found, strict=True)
    return Examples(values, names)


def training_scripts(group: int) -> list[str]:
    """Return those of the two groups that are neither test nor validation."""
    return [s for i in (2, 3) for s in GROUPS[(group + i) % len(GROUPS)]]


def validation_scripts(group: int) -> tuple[str, ...]:
    """Return those of the next group."""
    return GROUPS[(group + 1) % len(GROUPS)]


def train(
    way: str, group: int, rates: studies.Pair, seed: int, study: Study
) -> MetaLearner:
    """Train on the scripts that are neither for test nor for validation."""
    alpha, epsilon = rates
    learner = Reptile(
        conv4(study.ways, seed=seed),
        inner=WAYS[way](alpha),
        inner_steps=study.inner_steps,
        inner_batch=study.inner_batch,
        device="cpu",
    )
    classes = letters(training_scripts(group)).rotated()
    learner.fit(
        FewShotTasks(classes, study.ways, study.train_shots),
        meta_steps=study.meta_steps(way),
        meta_batch=study.meta_batch,
        epsilon=linear(epsilon, 0.0),
        seed=seed,
    )
    return learner


def accuracy(
    learner: MetaLearner, way: str, rate: float, script: str, study: Study, stream: int
) -> float:
    """Return the 1-shot accuracy in [0, 1] on tasks within a script, at a rate."""
    learner.inner = WAYS[way](rate)
    count = study.test_tasks if stream == TEST else study.validation_tasks
    found = evaluate(
        learner,
        FewShotTasks(letters([script]), study.ways, 1),
        inner_steps=study.eval_steps,
        inner_batch=study.eval_batch,
        count=count,
        stream=stream,
    )
    return found.transductive.accuracy


def choose(
    way: str, group: int, study: Study, say: Callable[[str], None] = print
) -> Record:
    """Choose α, then ε, then the rate of adaptation, on the validation scripts."""
    began = time.perf_counter()
    scripts = validation_scripts(group)
    learners: dict[studies.Pair, MetaLearner] = {}
    found: dict[tuple[float, float, float], float] = {}

    def measure(alpha: float, epsilon: float, stretch: float) -> float:
        """Return the mean accuracy, 0 for a training that diverged."""
        key = alpha, epsilon, stretch
        if key in found:
            return found[key]
        pair = alpha, epsilon
        try:
            if pair not in learners:
                learners[pair] = train(way, group, pair, study.choice_seed, study)
            ask = partial(accuracy, learners[pair], way, alpha * stretch)
            found[key] = fmean(ask(s, study, VALIDATE) for s in scripts)
        except UserError as error:
            say(str(error))
            found[key] = 0.0
        say(f"{ROW}: {way}, group {group}, {key}: {found[key]:.3f}")
        return found[key]

    grid, first = list(dict(study.rates)[way]), study.epsilons[0]
    for _ in range(study.widen + 1):
        alpha = max(grid, key=lambda a: measure(a, first, 1.0))
        if not studies.grown(grid, alpha):
            break
    epsilon = max(study.epsilons, key=lambda e: measure(alpha, e, 1.0))
    stretch = max(study.stretch, key=lambda s: measure(alpha, epsilon, s))
    return {
        "row": ROW,
        "way": way,
        "group": group,
        "config": study.as_dict(),
        "alpha": alpha,
        "epsilon": epsilon,
        "rate": alpha * stretch,
        "inside": grid[0] < alpha < grid[-1],
        "validation_accuracy": [[*key, value] for key, value in sorted(found.items())],
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def final(way: str, group: int, chosen: Record, seed: int, study: Study) -> Record:
    """Train as chosen and score on tasks of each test script."""
    began = time.perf_counter()
    learner = train(way, group, (chosen["alpha"], chosen["epsilon"]), seed, study)
    trained = time.perf_counter()
    ask = partial(accuracy, learner, way, chosen["rate"])
    return {
        "row": ROW,
        "way": way,
        "group": group,
        "seed": seed,
        "config": study.as_dict(),
        "accuracy": {script: ask(script, study, TEST) for script in GROUPS[group]},
        "train_seconds": trained - began,
        "evaluate_seconds": time.perf_counter() - trained,
        **records.circumstances(find_device("cpu")),
    }


def record(
    way: str,
    group: int,
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose rates and train the seeds, unless that is recorded; return all records.

    Raises:
        UserError: there is no such way, or a record is of other settings.
    """
    if way not in WAYS:
        raise UserError(f"unknown way {way!r}; take one of {', '.join(WAYS)}")
    return studies.one_by_one(
        folder / ROW,
        f"{way}-{group}",
        seeds,
        study.as_dict(),
        f"python -m reptile_book.glyph_inner {way}",
        choose=lambda: choose(way, group, study, say),
        final=lambda choice, seed: final(way, group, choice, seed, study),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record some ways over all groups; return 0, or 2 for a user's mistake."""
    parser = studies.parser("glyph_inner", __doc__)
    parser.add_argument("ways", help=f"comma-separated, of {', '.join(WAYS)}")
    options = parser.parse_args(arguments)

    def act() -> None:
        seeds = studies.seeds_of(options.seeds)
        for group in range(len(GROUPS)):
            for way in options.ways.split(","):
                record(way, group, seeds, options.results)

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
