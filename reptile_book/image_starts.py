"""The study of page 5.1: what Reptile's φ adds to simpler ways, on the same tasks.

::

    python -m reptile_book.image_starts glyphs --seeds 0,1,2

Beside the recorded φ, scored as the paper does it, stand random weights and the weights
of a joint training, both fine-tuned at rates of their own, and the nearest mean of the
joint training's features. Rates, and how long joint training takes, are chosen on
validation classes: `results/image-starts/<data>.json`. Each seed is then scored on
tasks of its test classes, each query beside the support set: `<data>-<seed>.json`,
accuracies in [0, 1] (`mean` over tasks with `ci95`) and how far Reptile is `ahead`,
task by task. Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from reptile_book import fields, records, rows, studies
from reptile_book.glyph_heads import (
    body_of,
    features,
    nearest_mean,
    right,
    search,
    train_jointly,
)
from reptile_book.records import Record
from reptile_lib.data.sets import load
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits
from reptile_lib.learner import MetaLearner
from reptile_lib.models.pictures import NETS
from reptile_lib.optimizers.formulas import adam
from reptile_lib.params import ravel
from reptile_lib.reading.split import only
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs import run
from reptile_lib.runs.settings import Settings
from reptile_lib.tasks import draw_tasks

ROW = "image-starts"
TRAINED = {
    "glyphs": "glyphs-5way",
    "omniglot": "omniglot-5way",
    "cifar-fs-256": "cifar-fs-256-5way",
}
"""The row of a data set, whose φ is taken."""
REPTILE, RANDOM = "Reptile", "random weights"
TUNED, NEAREST = "joint training + fine-tuning", "joint training, nearest mean"
METHODS = REPTILE, RANDOM, TUNED, NEAREST


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done; network and evaluation are those of the recorded row."""

    shots: tuple[int, ...] = rows.SHOTS
    test_tasks: int = 300
    validation_tasks: int = 100
    rates: tuple[float, ...] = (0.001, 0.002, 0.004)
    """Of fine-tuning by Adam; the grid grows where an edge wins, so does the next."""
    joint_rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3)
    joint_steps: int = 1_000
    """To choose the rate; then they are doubled as long as it helps."""
    doublings: int = 3
    joint_batch: int = 64
    widen: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    """Omniglot is split by the seed. No class of a test chooses a rate."""
    val_classes: int = 100
    choice_seed: int = 100


STUDY = Study()


def classes_of(data: str, seed: int) -> Splits:
    """Return the classes of the φ of a seed."""
    found: Splits = load(data, **({"seed": seed} if data == "omniglot" else {}))
    return found


def classes_to_choose(data: str, study: Study) -> Splits:
    """Return classes to choose with: none of them is a test class of any seed."""
    if data != "omniglot":
        return classes_of(data, 0)
    first = load(data, seed=study.seeds[0], val_classes=study.val_classes)
    tested = {
        name for seed in study.seeds for name in classes_of(data, seed).test.names
    }

    def untested(classes: Examples) -> Examples:
        return only(classes, [name for name in classes.names if name not in tested])

    return Splits(untested(first.train), untested(first.val), first.test)


@dataclass(frozen=True)
class Joint:
    """How joint training is done."""

    rate: float
    steps: int
    turned: bool = False
    """Whether letters turned by 90 degrees are further classes, as for Reptile."""

    def train(
        self, settings: Settings, classes: Examples, seed: int, batch: int
    ) -> nn.Module:
        """Return the network of the settings, trained to tell all classes apart."""
        seen = classes.rotated() if self.turned else classes
        net = NETS[settings.net]
        model = net(len(seen), settings.channels, settings.size, seed)
        how = {"batch": batch, "steps": self.steps}
        return train_jointly(seen, model, self.rate, seed, **how)


def fine_tuned(learner: MetaLearner, phi: Tensor, rate: float) -> MetaLearner:
    """Let a learner start from φ [P], with a fresh Adam of a rate of its own."""
    learner.inner, learner.moments = adam(rate), "reset"
    learner.state = learner.state._replace(phi=phi)
    return learner


@dataclass(frozen=True)
class Bench:
    """Tasks of some classes, to score on; the same for all."""

    settings: Settings
    classes: Examples
    stream: int

    def tasks(self, shots: int) -> FewShotTasks:
        """Return the distribution."""
        return FewShotTasks(self.classes, self.settings.ways, shots)

    def adapted(self, learner: MetaLearner, shots: int) -> Tensor:
        """Adapt a learner to each task; return accuracies [tasks]."""
        found = run.score(learner, self.settings, self.tasks(shots), stream=self.stream)
        return found.non_transductive.values

    def nearest(self, joint: nn.Module, shots: int) -> Tensor:
        """Answer with the nearest mean of a network's features: accuracies [tasks]."""
        settings = self.settings
        tasks = draw_tasks(
            self.tasks(shots), settings.eval_tasks, settings.seed, stream=self.stream
        ).for_model(torch.zeros(1))
        support, queries = features([body_of(joint, ravel(joint))], tasks)
        head = nearest_mean(support, tasks.support.y, settings.ways)
        return right(head, queries, tasks)

    def tuned(
        self, start: Callable[[MetaLearner], Tensor], rate: float, shots: int
    ) -> Tensor:
        """Fine-tune from weights [P] that `start` returns: accuracies [tasks]."""
        learner = run.build(self.settings, "cpu")
        return self.adapted(fine_tuned(learner, start(learner), rate), shots)


def _settings(data: str, seed: int, tasks: int) -> Settings:
    """Return the settings of the recorded row; a step takes the support set at most."""
    return rows.settings(TRAINED[data], "full", seed, {"eval_tasks": tasks})


def random_weights(learner: MetaLearner) -> Tensor:
    """Return those that a learner was built with."""
    return learner.phi


def choose(data: str, study: Study, say: Callable[[str], None] = print) -> Record:
    """Choose rates, and how joint training is done, on tasks of validation classes."""
    began, classes = time.perf_counter(), classes_to_choose(data, study)
    seed = study.choice_seed
    settings = _settings(data, seed, study.validation_tasks)
    bench = Bench(settings, classes.val, VALIDATE)
    known: dict[Joint, tuple[nn.Module, float]] = {}

    def worth(joint: Joint) -> float:
        if joint not in known:
            model = joint.train(settings, classes.train, seed, study.joint_batch)
            accuracy = fmean(bench.nearest(model, n).mean().item() for n in study.shots)
            known[joint] = model, accuracy
            say(f"{ROW}: {data}, {joint}: {accuracy:.3f}")
        return known[joint][1]

    steps = study.joint_steps
    rate = search(study.joint_rates, lambda r: worth(Joint(r, steps)), study.widen)[
        "value"
    ]
    best = Joint(rate, steps)
    for _ in range(study.doublings):
        longer = Joint(rate, 2 * best.steps)
        if worth(longer) <= worth(best):
            break
        best = longer
    if settings.turns:
        best = max(best, Joint(rate, best.steps, turned=True), key=worth)
    model = known[best][0]

    starts: dict[str, Callable[[MetaLearner], Tensor]] = {
        RANDOM: random_weights,
        TUNED: lambda learner: fields.with_new_head(learner.model, model),
    }
    chosen: Record = {}
    for method, start in starts.items():
        for shots in study.shots:

            def accuracy(rate: float) -> float:
                try:
                    found = bench.tuned(start, rate, shots).mean().item()  # noqa: B023
                except UserError as error:  # the weights diverged
                    say(str(error))
                    found = 0.0
                say(f"{ROW}: {data}, {method}, {shots}-shot, {rate}: {found:.3f}")  # noqa: B023
                return found

            own = search(study.rates, accuracy, study.widen)
            chosen.setdefault(method, {})[f"{shots}-shot"] = own
    return {
        "row": ROW,
        "data": data,
        "config": study.as_dict(),
        "joint": asdict(best),
        "joint_tried": [[asdict(how), worth(how)] for how in known],
        "chosen": chosen,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def final(data: str, choice: Record, seed: int, study: Study, phis: Path) -> Record:
    """Score φ, and the others as chosen, on tasks of test classes.

    Args:
        data: name of the set.
        choice: what `choose` returned.
        seed: of φ, of the other networks, and of the tasks.
        study: how it is done.
        phis: folder of the recorded rows.

    Raises:
        UserError: φ is not recorded.
    """
    began, classes = time.perf_counter(), classes_of(data, seed)
    settings = _settings(data, seed, study.test_tasks)
    bench = Bench(settings, classes.test, TEST)
    path = phis / TRAINED[data] / f"seed-{seed}.safetensors"
    phi, _ = run.reopen(path, "cpu")
    joint = Joint(**choice["joint"]).train(
        settings, classes.train, seed, study.joint_batch
    )
    trained, metrics = time.perf_counter() - began, {}
    for shots in study.shots:
        rate = {m: own[f"{shots}-shot"]["value"] for m, own in choice["chosen"].items()}
        found = {
            REPTILE: bench.adapted(phi, shots),
            RANDOM: bench.tuned(random_weights, rate[RANDOM], shots),
            TUNED: bench.tuned(
                lambda x: fields.with_new_head(x.model, joint), rate[TUNED], shots
            ),
            NEAREST: bench.nearest(joint, shots),
        }
        metrics[f"{shots}-shot"] = fields.paired(found, REPTILE)
    return {
        "row": ROW,
        "data": data,
        "seed": seed,
        "config": study.as_dict(),
        "metrics": metrics,
        "joint_seconds": trained,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table, of the sets that are recorded.

    Returns: set, shots; then of each of `METHODS` the accuracy in %, mean and standard
    deviation over seeds; then the lead over the best of the others: its mean, and the
    lowest and the highest of a seed.
    """
    lines = []
    for data in TRAINED:
        for shots in rows.SHOTS:
            found = [
                records.read_one(path)["metrics"][f"{shots}-shot"]
                for path in sorted((folder / ROW).glob(f"{data}-[0-9].json"))
            ]
            if not found:
                continue
            means = {m: [seed[m]["mean"] for seed in found] for m in METHODS}
            best = max(METHODS[1:], key=lambda m: fmean(means[m]))
            scores = [fields.over_seeds(own, 100) for own in means.values()]
            lead = fields.leads([seed[best]["ahead"] for seed in found], 100)
            lines.append([data, str(shots), *scores, lead])
    return lines


def record(
    data: str,
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    *,
    phis: Path = Path("results"),
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose and score the seeds, unless that is recorded; return all records.

    Raises:
        UserError: a φ is not recorded, or a record is of other settings.
    """
    return studies.one_by_one(
        folder / ROW,
        data,
        seeds,
        study.as_dict(),
        f"python -m reptile_book.image_starts {data}",
        choose=lambda: choose(data, study, say),
        final=lambda choice, seed: final(data, choice, seed, study, phis),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record a data set; return 0, or 2 for a user's mistake."""
    parser = studies.parser("image_starts", __doc__)
    parser.add_argument("data", choices=TRAINED)
    options = parser.parse_args(arguments)

    def act() -> None:
        record(options.data, studies.seeds_of(options.seeds), options.results)

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
