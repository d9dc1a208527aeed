"""The study of page 5.3 on anomalies: letters, of which only the normal one is shown.

::

    python -m reptile_book.anomalies --seeds 0,1,2

A negative control. A task is a letter; its support set are drawings of that letter
alone, all labelled "normal", and half of the queries are of other letters. A network
that adapts to such a set may answer "normal" whatever it is asked. Frikha et al. 2021
(arXiv:2007.04146) explain when it does not: MAML, through the gradient of the queries
at the end of the inner loop; and say that first-order methods lack what is needed.

Networks see letters at half their size and have no batch norm, which would tell what
else is asked. One-class Reptile takes k inner steps on normal drawings and one more on
a balanced minibatch; one-class FOMAML and MAML take the k steps, and the balanced
queries for their outer gradient. Beside them stand distances to the mean of the support
set: of pixels, and of features of a Conv4 at the recorded φ of `glyphs-5way` or at
random weights, each query beside the support set. α, and how much further than the
support's own drawings is too far, are chosen on letters of validation scripts:
`results/anomalies/glyphs.json`. A seed's scores on test scripts are in
`glyphs-<n>.json`:

- `metrics.<method>.accuracy`: the share of right answers to balanced queries, in
  [0, 1], `mean` over tasks with `ci95`; `ahead` is how far Reptile is ahead
- `metrics.<method>.auc`: the chance that an anomaly looks stranger than a normal query
  of its task, for which no threshold is needed

Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from reptile_book import fields, records, studies
from reptile_book.glyph_heads import Body, body_of, features
from reptile_book.records import Record
from reptile_lib.data.sets import load
from reptile_lib.device import find_device
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples
from reptile_lib.inner_loop import adapt
from reptile_lib.learner import MetaLearner
from reptile_lib.meta import Rule, fomaml, maml, reptile
from reptile_lib.models.conv4 import conv4
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import adam, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.rng import TEST, VALIDATE, Draws
from reptile_lib.runs.run import reopen
from reptile_lib.tasks import Batch, Episodes, draw_tasks

ROW, TRAINED = "anomalies", "glyphs-5way"
REPTILE = "one-class Reptile"
RULES: dict[str, Rule] = {
    REPTILE: reptile,
    "one-class FOMAML": fomaml,
    "one-class MAML": maml,
}
PIXELS, PHI = "distance of pixels", "distance of φ's features"
RANDOM = "distance of random features"
DISTANCES = PIXELS, PHI, RANDOM
METHODS = (*RULES, *DISTANCES)


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done."""

    shots: int = 10
    asked: int = 5
    """Queries of the letter, and as many of other letters."""
    sizes: tuple[int, ...] = (196, 128, 64, 2)
    inner_steps: int = 5
    """On normal drawings, all in each."""
    meta_steps: int = 1_500
    meta_batch: int = 8
    alphas: tuple[float, ...] = (0.01, 0.03, 0.1)
    outer_rate: float = 1e-3
    """Of Adam in the outer step of FOMAML and MAML; Reptile's ε is 1; all fall to 0."""
    factors: tuple[float, ...] = (0.8, 1.0, 1.2, 1.4, 1.6, 2.0)
    """A query is an anomaly where it is so many times as far from the mean of the
    support set as one of its drawings is from the mean of the others."""
    validation_tasks: int = 200
    test_tasks: int = 300
    choice_seed: int = 100


STUDY = Study()


@dataclass(frozen=True)
class OneClass:
    """Tasks of one letter each, to tell it (0) from others (1).

    Queries are `asked` other drawings of it, and one each of as many other letters. In
    training the support set holds `shots` drawings of the letter first and then what
    would be queries, for a last step on all of these.
    """

    classes: Examples
    shots: int
    asked: int
    inner_steps: int = 0
    """Where it is above 0, minibatches are cut as Reptile's training needs them."""
    half: bool = True
    """Whether pictures are made half as large, and flat."""

    def to(self, device: torch.device) -> "OneClass":
        """Return the tasks; they are for the CPU."""
        return self

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x [m, examples, ...] and y [m, examples]."""
        each, asked = self.classes.counts[0], self.asked
        letters = draws.distinct(0, 1 + asked, len(self.classes))
        own = letters[:, :1] * each + draws.permutations(1, 1, each)[:, 0]
        other = (draws.uniform(3, asked) * each).long()
        last = self.shots + asked
        normal, query = own[:, : self.shots], own[:, self.shots : last]
        query = torch.cat([query, letters[:, 1:] * each + other], 1)
        support = self._batch(normal, self.shots)
        queries = self._batch(query, asked)
        if not self.inner_steps:
            return Episodes(support, queries)
        both = self._batch(torch.cat([normal, query], 1), last)
        steps = torch.arange(self.shots).expand(len(own), self.inner_steps, -1)
        end = self.shots + torch.arange(2 * asked).expand(len(own), 1, -1)
        return Episodes(both, queries, torch.cat([steps, end], 1))

    def _batch(self, rows: Tensor, normal: int) -> Batch:
        assert isinstance(self.classes.pool, Tensor)
        x = self.classes.to_input(self.classes.pool[rows])
        assert isinstance(x, Tensor)
        if self.half:
            x = F.avg_pool2d(x.flatten(0, 1), 2).view(*x.shape[:2], -1)
        y = (torch.arange(rows.shape[1]) >= normal).long()
        return Batch(x, y.expand(len(rows), -1))


def train(method: str, alpha: float, seed: int, study: Study) -> MetaLearner:
    """Train by a one-class method on letters of the training scripts."""
    rule = RULES[method]
    plain = rule is reptile
    learner = MetaLearner(
        mlp(*study.sizes, seed=seed),
        sgd(alpha),
        study.inner_steps + plain,
        rule=rule,
        moments="reset",
        outer=None if plain else adam(1.0, (0.9, 0.999)),  # its rate is ε
        device="cpu",
        engine="stacked",
    )
    steps = study.inner_steps if plain else 0
    learner.fit(
        OneClass(load("glyphs").train, study.shots, study.asked, steps),
        meta_steps=study.meta_steps,
        meta_batch=study.meta_batch,
        epsilon=linear(1.0 if plain else study.outer_rate, 0.0),
        seed=seed,
    )
    return learner


def tasks_of(
    classes: Examples, seed: int, stream: int, study: Study, *, half: bool
) -> Episodes:
    """Draw tasks to score on: the same letters and drawings in both sizes."""
    count = study.test_tasks if stream == TEST else study.validation_tasks
    tasks = OneClass(classes, study.shots, study.asked, half=half)
    return draw_tasks(tasks, count, seed, stream=stream).for_model(torch.zeros(1))


def strangeness(learner: MetaLearner, tasks: Episodes, study: Study) -> Tensor:
    """Adapt to normal drawings; return how strange queries look, [n, Q].

    It is above 0 where the answer is "anomaly".
    """
    whole = torch.arange(study.shots).expand(len(tasks.order), study.inner_steps, -1)
    kernel = learner.kernel
    found = adapt(kernel, learner.phi, tasks.support, whole, learner.inner)
    answers = kernel.outputs(kernel.pack(found.theta), tasks.query.x)
    return answers.diff(dim=-1)[..., 0]


def distances(body: Body, tasks: Episodes) -> Tensor:
    """Return how far queries are from the mean of the support set, [n, Q].

    The unit is the mean distance of its examples from the mean of the others.
    """
    support, queries = features([body], tasks)
    shots, mean = support.shape[1], support.mean(1, keepdim=True)
    # x − mean of the others = (x − mean) · shots / (shots − 1)
    own = (support - mean).norm(dim=-1).mean(1, keepdim=True) * shots / (shots - 1)
    far: Tensor = (queries - mean).norm(dim=-1) / own
    return far


def auc(scores: Tensor, y: Tensor) -> Tensor:
    """Return the chance that an anomaly (1) scores above a normal query (0), [n].

    Args:
        scores: [n, Q].
        y: [n, Q].
    """
    pairs = zip(y.numpy(), scores.detach().numpy(), strict=True)
    return torch.tensor([float(roc_auc_score(*pair)) for pair in pairs])


def accuracy(scores: Tensor, y: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the share of queries that are taken for what they are, [n]."""
    right: Tensor = (scores > threshold) == y
    return right.double().mean(1)


def bodies(seed: int, phis: Path) -> dict[str, Body]:
    """Return what makes features, of pictures at full size."""
    path = phis / TRAINED / f"seed-{seed}.safetensors"
    learner, _ = reopen(path, "cpu")
    untrained = conv4(5, seed=seed)
    return {
        PIXELS: partial(torch.flatten, start_dim=1),
        PHI: body_of(learner.model, learner.phi),
        RANDOM: body_of(untrained, ravel(untrained)),
    }


def choose(study: Study, phis: Path, say: Callable[[str], None] = print) -> Record:
    """Choose α and the distances that are too far, on validation scripts."""
    began, seed = time.perf_counter(), study.choice_seed
    classes = load("glyphs").val
    small, large = (
        tasks_of(classes, seed, VALIDATE, study, half=half) for half in (True, False)
    )
    chosen: Record = {}

    def kept(method: str, found: dict[float, tuple[float, float]]) -> None:
        best = max(found, key=lambda value: found[value])
        chosen[method] = {
            "value": best,
            "tried": {f"{v:g}": list(pair) for v, pair in found.items()},
        }
        say(f"{ROW}: {method}: {chosen[method]}")

    for method in RULES:
        found = {}
        for alpha in study.alphas:
            try:
                scores = strangeness(train(method, alpha, seed, study), small, study)
            except UserError as error:  # it diverged
                say(str(error))
                found[alpha] = 0.0, 0.0
                continue
            y = small.query.y
            right, chance = accuracy(scores, y), auc(scores, y)
            found[alpha] = right.mean().item(), chance.mean().item()
        kept(method, found)
    for name, body in bodies(0, phis).items():  # there is no φ of the choice's seed
        far, y = distances(body, large), large.query.y
        area = auc(far, y).mean().item()
        kept(
            name, {f: (accuracy(far, y, f).mean().item(), area) for f in study.factors}
        )
    return {
        "row": ROW,
        "config": study.as_dict(),
        "chosen": chosen,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def final(choice: Record, seed: int, study: Study, phis: Path) -> Record:
    """Train as chosen, and score on letters of the test scripts."""
    began, chosen = time.perf_counter(), choice["chosen"]
    classes = load("glyphs").test
    small, large = (
        tasks_of(classes, seed, TEST, study, half=half) for half in (True, False)
    )
    y, right, chance, seconds = small.query.y, {}, {}, {}
    for method in RULES:
        start = time.perf_counter()
        learner = train(method, chosen[method]["value"], seed, study)
        seconds[method] = time.perf_counter() - start
        scores = strangeness(learner, small, study)
        right[method], chance[method] = accuracy(scores, y), auc(scores, y)
    for name, body in bodies(seed, phis).items():
        far = distances(body, large)
        right[name] = accuracy(far, y, chosen[name]["value"])
        chance[name] = auc(far, y)
    accuracies, chances = (fields.paired(own, REPTILE) for own in (right, chance))
    return {
        "row": ROW,
        "seed": seed,
        "config": study.as_dict(),
        "metrics": {
            method: {"accuracy": accuracies[method], "auc": chances[method]}
            for method in METHODS
        },
        "train_seconds": seconds,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table, a line a method; empty if none is recorded.

    Returns: method; balanced accuracy and AUC in %, mean and standard deviation over
    seeds.
    """
    found = [
        records.read_one(path)["metrics"]
        for path in sorted((folder / ROW).glob("glyphs-[0-9].json"))
    ]
    return [
        [method]
        + [
            fields.over_seeds([seed[method][metric]["mean"] for seed in found], 100)
            for metric in ("accuracy", "auc")
        ]
        for method in METHODS
        if found
    ]


def record(
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
        "glyphs",
        seeds,
        study.as_dict(),
        "python -m reptile_book.anomalies",
        choose=lambda: choose(study, phis, say),
        final=lambda choice, seed: final(choice, seed, study, phis),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record the seeds; return 0, or 2 for a user's mistake."""
    return studies.command("anomalies", __doc__, record, arguments)


if __name__ == "__main__":
    sys.exit(main())
