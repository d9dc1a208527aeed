"""The study of page 5.3 on a table of medicine: a diagnosis from five or ten of each.

::

    python -m reptile_book.tabular --seeds 0,1,2

The breast-cancer table is small, of one hospital and of 1995. What follows shows how
methods differ; it is no medical device, and no advice for anyone. One table has one
question, so tasks are made of the table itself, without any diagnosis: is this
measurement of a nucleus above a threshold (that of a random share of the samples), told
by the other measurements? Its own three columns (mean, error, worst) are blanked, and
which side is called 1 is drawn. Nam et al. 2023 (STUNT, arXiv:2303.00918) make tasks of
a table so; they cluster several columns where this study cuts one. It stands for a
hospital with many measured samples and few diagnoses. It does not stand for other
hospitals, machines or patients, and the intervals do not reach so far.

A seed splits the samples, and sets three of the ten measurements aside: questions about
them, on validation samples, choose all rates, so that no diagnosis is used but those of
the support set. These are of training samples; all test samples are asked. What was
chosen on a split is in `results/breast-cancer/choice-<n>.json`, with networks of
another seed; how it did in `seed-<n>.json`:

- `metrics.<n>-shot.<method>`: `sensitivity` (malignant samples that are found) and
  `specificity` (benign ones that are called so), each with `ci95` over test samples;
  `balanced`, the mean of both over support sets with `ci95`, and how far Reptile is
  `ahead`, set by set
- `samples`: malignant and benign test samples

"Logistic regression on all" is told every training sample's diagnosis, and takes ρ = 1.
Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book import fields, records, studies
from reptile_book.glyph_heads import cross_entropy_head, nearest_mean, search
from reptile_book.records import Record
from reptile_lib.data.scikit import load_breast_cancer
from reptile_lib.errors import UserError
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.rng import TEST, VALIDATE, Draws, draws
from reptile_lib.runs.run import body_of
from reptile_lib.tasks import Batch, Episodes, draw_tasks

ROW = "breast-cancer"
MEASUREMENTS = 10
REPTILE, RANDOM = "Reptile", "random weights + fine-tuning"
TUNED = "joint training + fine-tuning"
LOGISTIC, NEAREST = "logistic regression on the support set", "nearest mean"
ALL = "logistic regression on all"
METHODS = REPTILE, TUNED, RANDOM, LOGISTIC, NEAREST, ALL


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done."""

    shots: tuple[int, ...] = (5, 10)
    """Of each kind."""
    aside: int = 3
    """Measurements whose questions are for validation."""
    hidden: int = 64
    gradients: int = 200_000
    """Of one sample, in a training."""
    joint_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    joint_batch: int = 50
    train_shots: int = 10
    inner_steps: int = 5
    inner_batch: int = 10
    meta_batch: int = 8
    alphas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Of inner steps by SGD; grids grow where an edge wins."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    steps: tuple[int, ...] = (10, 50)
    """Of adaptation on the whole support set; the rate is chosen with the first. A
    training is chosen by the best rate of its own."""
    ridges: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """ρ of logistic regression, see `glyph_heads.cross_entropy_head`."""
    validation_tasks: int = 200
    asked: int = 20
    """Queries of each kind, in validation."""
    test_sets: int = 100
    widen: int = 3
    choice_seed: int = 100
    """Added to the seed of the networks that rates are chosen with."""


STUDY = Study()


@dataclass(frozen=True)
class Split:
    """The samples as a seed splits them; columns of `train` have mean 0, variance 1."""

    train: Tensor
    """[samples, 30]"""
    val: Tensor
    test: Tensor
    malignant: Tensor
    """bool [training samples]: told of those in a support set."""
    answer: Tensor
    """bool [test samples]: malignant."""
    aside: tuple[int, ...]
    """Measurements for validation."""

    @property
    def seen(self) -> tuple[int, ...]:
        """Return the measurements for training."""
        return tuple(m for m in range(MEASUREMENTS) if m not in self.aside)


@cache
def split(seed: int, study: Study) -> Split:
    """Return the samples, and the measurements that are set aside.

    Raises:
        UserError: the data cannot be had.
    """
    parts = load_breast_cancer(seed)
    xs, kinds = [], []
    for part in parts:
        assert isinstance(part.pool, Tensor)
        xs.append(part.pool)
        kinds.append(torch.arange(sum(part.counts)) < part.counts[0])
    mean, std = xs[0].mean(0), xs[0].std(0)
    train, val, test = ((x - mean) / std for x in xs)
    order = torch.randperm(
        MEASUREMENTS, generator=torch.Generator().manual_seed(seed)
    ).tolist()
    aside = tuple(sorted(order[: study.aside]))
    return Split(train, val, test, kinds[0], kinds[2], aside)


def blanked(x: Tensor, measurement: Tensor) -> Tensor:
    """Put the mean, 0, in the three columns of a measurement.

    Args:
        x: [m, rows, 30].
        measurement: int64 [m].
    """
    own = torch.arange(x.shape[-1]) % MEASUREMENTS == measurement[:, None]
    return x * ~own[:, None]


@dataclass(frozen=True)
class Questions:
    """Tasks made of a table: is a measurement above a threshold?

    Args:
        rows: [rows, 30], what support sets are drawn from.
        measurements: those that are asked about.
        shots: support rows on each side of the threshold.
        asked: query rows on each side.
        queries: [rows, 30], where they are drawn from; from `rows`, none of which is in
            the support set, if None.
    """

    rows: Tensor
    measurements: tuple[int, ...]
    shots: int
    asked: int = 1
    queries: Tensor | None = None

    def to(self, device: torch.device) -> "Questions":
        """Return the tasks; they are for the CPU."""
        return self

    def sample(self, draws: Draws) -> Episodes:
        """Return tasks with x [m, 2·shots, 30] and y [m, 2·shots], 0s first."""
        u = draws.uniform(0, 4)
        which = torch.tensor(self.measurements)
        measurement = which[(u[:, 0] * len(which)).long()]
        column = measurement + MEASUREMENTS * (u[:, 1] * 3).long()
        place = (0.3 + 0.4 * u[:, 2]) * (len(self.rows) - 1)
        sorted_columns = self.rows.sort(0).values.T
        threshold = sorted_columns[column, place.long()]
        turned = u[:, 3] < 0.5

        def chosen(table: Tensor, slot: int, skip: int, count: int) -> Batch:
            y = (table.T[column] > threshold[:, None]) ^ turned[:, None]
            chance = draws.uniform(slot, len(table))
            rows = torch.cat(
                [
                    (chance + (y != side)).argsort(1)[:, skip : skip + count]
                    for side in (False, True)
                ],
                1,
            )
            return Batch(blanked(table[rows], measurement), y.gather(1, rows).long())

        support = chosen(self.rows, 1, 0, self.shots)
        if self.queries is None:
            return Episodes(support, chosen(self.rows, 1, self.shots, self.asked))
        return Episodes(support, chosen(self.queries, 3, 0, self.asked))


def diagnoses(it: Split, shots: int, count: int, seed: int) -> Episodes:
    """Draw support sets of `shots` samples of each kind; all test samples are asked.

    Malignant is 1.
    """
    who = draws(seed, TEST, range(1), range(count), torch.device("cpu"))
    sides = []
    for slot, kind in enumerate((False, True)):
        pool = (it.malignant == kind).nonzero()[:, 0]
        sides.append(pool[who.uniform(1 + slot, len(pool)).argsort(1)[:, :shots]])
    rows = torch.cat(sides, 1)
    y, answer = it.malignant.long(), it.answer.long().expand(count, -1)
    query = it.test.expand(count, -1, -1)
    return Episodes(Batch(it.train[rows], y[rows]), Batch(query, answer))


# ---- networks ------------------------------------------------------------------------


def network(
    study: Study, outputs: int, seed: int, *, zeroed: bool = False
) -> nn.Module:
    """Return the network of a seed."""
    model = mlp(3 * MEASUREMENTS, study.hidden, study.hidden, outputs, seed=seed)
    if zeroed:
        for parameter in list(model.parameters())[-2:]:
            nn.init.zeros_(parameter)
    return model


def learner_of(
    study: Study, rate: float, seed: int, *, zeroed: bool = False
) -> MetaLearner:
    """Return an untrained learner with SGD."""
    return Reptile(
        network(study, 2, seed, zeroed=zeroed),
        sgd(rate),
        study.inner_steps,
        study.inner_batch,
        moments="reset",
        device="cpu",
    )


def train_reptile(
    it: Split, alpha: float, seed: int, study: Study, *, zeroed: bool
) -> Tensor:
    """Return φ [P]; `zeroed` keeps its last layer at zero, where every task starts."""
    learner = learner_of(study, alpha, seed, zeroed=zeroed)
    moves = body_of(learner.model) if zeroed else torch.ones(1)
    line = linear(1.0, 0.0)
    each = study.inner_steps * study.inner_batch * study.meta_batch
    learner.fit(
        Questions(it.train, it.seen, study.train_shots),
        meta_steps=max(1, study.gradients // each),
        meta_batch=study.meta_batch,
        epsilon=lambda done: line(done) * moves,
        seed=seed,
    )
    return learner.phi


def train_joint(it: Split, rate: float, seed: int, study: Study) -> Tensor:
    """Return weights [P] with a new last layer of zeros.

    One network answers for each of the columns whether they are above their median.
    """
    columns = [m + MEASUREMENTS * kind for m in it.seen for kind in range(3)]
    measurement = torch.tensor(columns) % MEASUREMENTS
    x = blanked(it.train.expand(len(columns), -1, -1), measurement)
    above = it.train > it.train.median(0).values
    which = torch.arange(len(columns)).repeat_interleave(len(it.train))
    y = torch.stack([which, above[:, columns].T.flatten().long()], 1)

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        asked = outputs.gather(1, y[:, :1])[:, 0]
        return F.binary_cross_entropy_with_logits(asked, y[:, 1].to(outputs))

    model = network(study, len(columns), seed)
    fields.train_jointly(
        model,
        x.flatten(0, 1),
        y,
        criterion,
        rate=rate,
        seed=seed,
        batch=study.joint_batch,
        steps=max(1, study.gradients // study.joint_batch),
    )
    new = network(study, 2, seed, zeroed=True)
    kept = zip(list(new.parameters())[:-2], model.parameters(), strict=False)
    with torch.no_grad():
        for own, learnt in kept:
            own.copy_(learnt)
    return ravel(new)


def answers(
    phi: Tensor, rate: float, steps: int, tasks: Episodes, study: Study
) -> Tensor:
    """Adapt φ [P] on whole support sets; return whether queries are right, [n, Q]."""
    kernel = learner_of(study, rate, 0).kernel
    whole = torch.arange(tasks.support.y.shape[1]).expand(
        len(tasks.support.y), steps, -1
    )
    theta = fields.adapted(kernel, phi, tasks.support, whole, sgd(rate), at_once=100)
    found = kernel.outputs(kernel.pack(theta), tasks.query.x)
    return found.argmax(-1) == tasks.query.y


def regression(tasks: Episodes, ridge: float) -> Tensor:
    """Fit logistic regression to support sets; return what is right, [n, Q]."""
    assert isinstance(tasks.support.x, Tensor)
    assert isinstance(tasks.query.x, Tensor)
    head = cross_entropy_head(tasks.support.x, tasks.support.y, 2, ridge)
    return head(tasks.query.x).argmax(-1) == tasks.query.y


def by_means(tasks: Episodes) -> Tensor:
    """Take the kind with the nearest mean; return what is right, [n, Q]."""
    assert isinstance(tasks.support.x, Tensor)
    assert isinstance(tasks.query.x, Tensor)
    head = nearest_mean(tasks.support.x, tasks.support.y, 2)
    return head(tasks.query.x).argmax(-1) == tasks.query.y


# ---- choice and scores ---------------------------------------------------------------


def choose(seed: int, study: Study, say: Callable[[str], None] = print) -> Record:
    """Choose all rates of a split by questions about measurements set aside."""
    began, it = time.perf_counter(), split(seed, study)
    own_seed, few = study.choice_seed + seed, study.steps[0]
    tasks = {
        n: draw_tasks(
            Questions(it.train, it.aside, n, study.asked, it.val),
            study.validation_tasks,
            seed,
            stream=VALIDATE,
        )
        for n in study.shots
    }

    def told(what: str, measure: Callable[[], Tensor]) -> float:
        try:
            found = measure().double().mean().item()
        except UserError as problem:  # the weights diverged
            say(str(problem))
            found = 0.0
        say(f"{ROW}: seed {seed}, {what}: {found:.3f}")
        return found

    def tuned(phi: Tensor) -> Tensor:
        """Return the accuracies at the best rate for each number of shots."""
        best = []
        for own in tasks.values():
            found = [answers(phi, rate, few, own, study) for rate in study.rates]
            best.append(max(right.double().mean().item() for right in found))
        return torch.tensor(best)

    def searched(
        what: str, first: Sequence[float], measure: Callable[[float], Tensor]
    ) -> Record:
        return search(
            first,
            lambda value: told(f"{what} {value:g}", lambda: measure(value)),
            study.widen,
        )

    chosen: Record = {
        "joint": searched(
            "joint",
            study.joint_rates,
            lambda rate: tuned(train_joint(it, rate, own_seed, study)),
        )
    }
    forms = {
        zeroed: searched(
            "alpha, head zeroed" if zeroed else "alpha",
            study.alphas,
            lambda a: tuned(train_reptile(it, a, own_seed, study, zeroed=zeroed)),  # noqa: B023
        )
        for zeroed in (False, True)
    }
    zeroed = forms[True]["validation"] > forms[False]["validation"]
    other = forms[not zeroed]
    chosen["alpha"] = forms[zeroed] | {"zeroed": zeroed, "other_form": other}
    alpha, joint_rate = chosen["alpha"]["value"], chosen["joint"]["value"]
    starts = {
        REPTILE: train_reptile(it, alpha, own_seed, study, zeroed=zeroed),
        TUNED: train_joint(it, joint_rate, own_seed, study),
        RANDOM: ravel(network(study, 2, own_seed)),
    }
    for n, own in tasks.items():
        for method, phi in starts.items():
            name = f"{method}, {n}-shot"
            found = searched(
                name,
                study.rates,
                lambda rate: answers(phi, rate, few, own, study),  # noqa: B023
            )
            by_steps = {few: found["validation"]}
            for steps in study.steps[1:]:
                by_steps[steps] = told(
                    f"{name}, {steps} steps",
                    lambda: answers(phi, found["value"], steps, own, study),  # noqa: B023
                )
            best = max(by_steps, key=by_steps.__getitem__)
            more = {"steps": best, "by_steps": by_steps}
            chosen.setdefault(method, {})[f"{n}-shot"] = found | more
        ridge = search(
            study.ridges,
            lambda value: regression(own, value).double().mean().item(),  # noqa: B023
            0,
        )
        chosen.setdefault(LOGISTIC, {})[f"{n}-shot"] = ridge
    return {
        "aside": it.aside,
        "chosen": chosen,
        "seconds": time.perf_counter() - began,
    }


def scored(right: dict[str, Tensor], answer: Tensor) -> Record:
    """Return sensitivity, specificity and their mean.

    Args:
        right: of each method, whether it is right, bool [support sets, samples].
        answer: bool [samples], malignant.
    """
    found: Record = {}
    balanced = {}
    for method, own in right.items():
        share = own.double()
        parts = {"sensitivity": share[:, answer], "specificity": share[:, ~answer]}
        found[method] = {
            name: {"mean": p.mean().item(), "ci95": fields.ci95(p.mean(0))}
            for name, p in parts.items()
        }
        balanced[method] = torch.stack([p.mean(1) for p in parts.values()]).mean(0)
    compared = fields.paired(balanced, REPTILE)
    return {m: {**found[m], "balanced": compared[m]} for m in right}


def final(choice: Record, seed: int, study: Study) -> Record:
    """Train as chosen, and score all methods on the test samples of a split."""
    began, it, chosen = time.perf_counter(), split(seed, study), choice["chosen"]
    alpha = chosen["alpha"]
    starts = {
        REPTILE: train_reptile(it, alpha["value"], seed, study, zeroed=alpha["zeroed"]),
        TUNED: train_joint(it, chosen["joint"]["value"], seed, study),
        RANDOM: ravel(network(study, 2, seed)),
    }
    trained, metrics = time.perf_counter() - began, {}
    everyone = Episodes(
        Batch(it.train[None], it.malignant.long()[None]),
        Batch(it.test[None], it.answer.long()[None]),
    )
    on_all = regression(everyone, 1.0)
    for n in study.shots:
        tasks, shots = diagnoses(it, n, study.test_sets, seed), f"{n}-shot"
        right = {}
        for method, phi in starts.items():
            how = chosen[method][shots]
            right[method] = answers(phi, how["value"], how["steps"], tasks, study)
        right[LOGISTIC] = regression(tasks, chosen[LOGISTIC][shots]["value"])
        right[NEAREST] = by_means(tasks)
        right[ALL] = on_all.expand(study.test_sets, -1)
        metrics[shots] = scored(right, it.answer)
    malignant = int(it.answer.sum())
    return {
        "metrics": metrics,
        "samples": [malignant, len(it.answer) - malignant],
        "train_seconds": trained,
        "seconds": time.perf_counter() - began,
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table: a line a number of shots and method.

    Returns: shots; method; sensitivity and specificity in %, the mean over seeds ± the
    mean half width of a seed's interval over its test samples; Reptile's lead in the
    mean of both, the mean of a seed, its lowest and highest.
    """
    found = [r["metrics"] for r in records.read(folder / ROW)]
    lines = []
    for shots in found[0] if found else ():
        for method in METHODS:
            own = [seed[shots][method] for seed in found]
            cells = [
                " ± ".join(
                    f"{100 * fmean(r[name][key] for r in own):.1f}"
                    for key in ("mean", "ci95")
                )
                for name in ("sensitivity", "specificity")
            ]
            lead = fields.leads([r["balanced"]["ahead"] for r in own], 100)
            lines.append(
                [
                    shots.removesuffix("-shot"),
                    method,
                    *cells,
                    "" if method == REPTILE else lead,
                ]
            )
    return lines


def record(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    *,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose and score for each seed, unless that is recorded; return the scores.

    Raises:
        UserError: the data cannot be had, or a record is of other settings.
    """
    return fields.split_by_seed(
        folder / ROW,
        seeds,
        study.as_dict(),
        "python -m reptile_book.tabular",
        choose=lambda seed: choose(seed, study, say),
        final=lambda choice, seed: final(choice, seed, study),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record the seeds; return 0, or 2 for a user's mistake."""
    return studies.command("tabular", __doc__, record, arguments)


if __name__ == "__main__":
    sys.exit(main())
