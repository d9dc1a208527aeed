"""The study of page 5.3 on speech: the digits of a speaker whom training never heard.

::

    python -m reptile_book.speech --seeds 0,1,2

Each of the six speakers of FSDD is the test once; the next one is for validation, the
other four train. A task is a speaker, and a digit means the same for all of them: so
joint training needs no new head, and may do without adaptation. Reptile and joint
training take equally many gradients of a recording to choose their rates, then twice as
many as long as that helps. A speaker's first takes are asked, always the same; support
sets, with as many takes of every digit, are drawn from the others. Rates are chosen on
the validation speaker: `results/fsdd/<speaker>.json`. Each seed then trains as chosen
and is scored on the test speaker, `<speaker>-<seed>.json`:

- `metrics.<n>-shot.<method>`: accuracy in [0, 1], `mean` over support sets with `ci95`;
  `ahead` is Reptile's lead, on the same sets; with one set, `word_errors` over words in
  strings of three, joined with silence and cut where it is quiet
- `cut_rightly`: the share of these strings that are cut into three
- `seconds`: all of it, training included

Answers are those of a network in use: batch norms keep the statistics of the support
set, and those of training recordings where a network is taken as it is. With "batch
norm of the speaker" it takes no step either but keeps the support set's, for which no
label is needed. Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_book import fields, records, studies
from reptile_book.glyph_heads import search
from reptile_book.records import Record
from reptile_lib.data import fsdd
from reptile_lib.device import find_device
from reptile_lib.distributions.groups import GroupTasks
from reptile_lib.errors import UserError
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.conv4 import conv4
from reptile_lib.models.frozen import frozen
from reptile_lib.models.speech import BANDS, log_mel
from reptile_lib.optimizers.formulas import adam
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.rng import TEST, VALIDATE, draws
from reptile_lib.tasks import Batch, Episodes

ROW = "fsdd"
DIGITS = 10
REPTILE, RANDOM = "Reptile", "random weights + fine-tuning"
PLAIN, TUNED = "joint training, as it is", "joint training + fine-tuning"
HEARD = "joint training, batch norm of the speaker"
METHODS = REPTILE, TUNED, HEARD, PLAIN, RANDOM
BLOCK = 80  # samples, 10 ms, whose loudness is measured
QUIET = 0.02  # of the loudest block
PAUSE, WORD = 15, 5  # blocks: shorter gaps are within a word, shorter runs are none


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done."""

    shots: tuple[int, ...] = (1, 5)
    filters: int = 16
    gradients: int = 12_000
    """Of one recording, in a training to choose rates."""
    doublings: int = 2
    """How often a training may become twice as long."""
    joint_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    joint_batch: int = 50
    train_shots: int = 50
    inner_steps: int = 5
    inner_batch: int = 10
    meta_batch: int = 4
    alphas: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Of adaptation, all by Adam; grids grow where an edge wins. A training is chosen
    by the best of these for each number of shots."""
    steps: tuple[int, ...] = (20, 60, 180)
    """Of adaptation; the rate is chosen with the first, the next ones are tried as long
    as that helps."""
    widen: int = 3
    asked_takes: int = 25
    """The first of the fifty; they are never in a support set."""
    test_sets: int = 10
    validation_sets: int = 4
    strings: int = 60
    calibration: int = 200
    """Training recordings whose statistics a network without adaptation keeps."""
    choice_seed: int = 100


STUDY = Study()


class Spoken(NamedTuple):
    """Recordings, of all speakers or of some."""

    x: Tensor
    """float32 [recordings, 1, bands, frames], see `models.speech`."""
    y: Tensor
    speaker: Tensor
    """An index of `fsdd.SPEAKERS`."""
    take: Tensor
    waves: tuple[Tensor, ...] = ()

    def of(self, *speakers: str) -> "Spoken":
        """Return the recordings of some speakers."""
        numbers = torch.tensor([fsdd.SPEAKERS.index(name) for name in speakers])
        rows = torch.isin(self.speaker, numbers).nonzero()[:, 0]
        waves = tuple(self.waves[row] for row in rows.tolist()) if self.waves else ()
        x, y, speaker, take = (t[rows] for t in self[:4])
        return Spoken(x, y, speaker, take, waves)


@cache
def spoken() -> Spoken:
    """Return all recordings as pictures.

    Raises:
        UserError: the data cannot be had.
    """
    found = fsdd.load(test=(), val=()).train
    return Spoken(log_mel(found.waves), found.y, found.group, found.take, found.waves)


def parts(test: str) -> tuple[tuple[str, ...], str]:
    """Return who trains, and who validates, where a speaker is the test."""
    at = fsdd.SPEAKERS.index(test)
    val = fsdd.SPEAKERS[(at + 1) % len(fsdd.SPEAKERS)]
    return tuple(name for name in fsdd.SPEAKERS if name not in (test, val)), val


def support_sets(
    own: Spoken, shots: int, count: int, seed: int, stream: int, study: Study
) -> Episodes:
    """Draw support sets of one speaker, each with `shots` takes of every digit.

    Queries are the takes that are asked, the same for every set.
    """
    who = draws(seed, stream, range(1), range(count), torch.device("cpu"))
    asked = (own.take < study.asked_takes).nonzero()[:, 0]
    rows = []
    for digit in range(DIGITS):
        pool = ((own.y == digit) & (own.take >= study.asked_takes)).nonzero()[:, 0]
        chosen = who.uniform(1 + digit, len(pool)).argsort(1)[:, :shots]
        rows.append(pool[chosen])
    support, query = torch.cat(rows, 1), asked.expand(count, -1)
    return fields.with_minibatches(
        Episodes(
            Batch(own.x[support], own.y[support]), Batch(own.x[query], own.y[query])
        ),
        seed,
        stream,
        max(study.steps),
        study.inner_batch,
    )


def learner_of(study: Study, rate: float, seed: int) -> MetaLearner:
    """Return an untrained learner with Adam, fresh in every task."""
    return Reptile(
        conv4(DIGITS, size=BANDS, seed=seed, filters=study.filters),
        inner=adam(rate),
        inner_steps=study.inner_steps,
        inner_batch=study.inner_batch,
        moments="reset",
        device="cpu",
    )


def train_reptile(
    train: Spoken, alpha: float, seed: int, study: Study, times: int = 1
) -> Tensor:
    """Return φ [P], with a speaker for a task; `times` as many gradients."""
    learner = learner_of(study, alpha, seed)
    each = study.inner_steps * study.inner_batch * study.meta_batch
    learner.fit(
        GroupTasks(train.x, train.y, train.speaker, study.train_shots),
        meta_steps=max(1, times * study.gradients // each),
        meta_batch=study.meta_batch,
        epsilon=linear(1.0, 0.0),
        seed=seed,
    )
    return learner.phi


def train_joint(
    train: Spoken, rate: float, seed: int, study: Study, times: int = 1
) -> Tensor:
    """Return weights [P] that tell the digits of all training speakers apart."""
    return fields.train_jointly(
        conv4(DIGITS, size=BANDS, seed=seed, filters=study.filters),
        train.x,
        train.y,
        F.cross_entropy,
        rate=rate,
        seed=seed,
        batch=study.joint_batch,
        steps=max(1, times * study.gradients // study.joint_batch),
    )


Trainer = Callable[[Spoken, float, int, Study, int], Tensor]
"""train(recordings, rate, seed, study, times) -> weights [P]."""


def as_it_is(phi: Tensor, train: Spoken, study: Study) -> Callable[[Tensor], Tensor]:
    """Return the network at φ with the statistics of training recordings."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(train.y), generator=generator)[: study.calibration]
    return frozen(learner_of(study, 1.0, 0).model, phi, train.x[some])


@dataclass(frozen=True)
class Adapted:
    """A network adapted to each of n support sets."""

    learner: MetaLearner
    theta: Tensor
    """[n, P], in the kernel's order."""
    tasks: Episodes

    def accuracies(self) -> Tensor:
        """Return the share of rightly answered queries, [n]."""
        hits = []
        for i in range(len(self.theta)):
            x, y = self.tasks.query.x, self.tasks.query.y[i]
            assert isinstance(x, Tensor)
            hits.append((self.answers(x[i], i) == y).double().mean())
        return torch.stack(hits)

    def answers(self, x: Tensor, i: int = 0) -> Tensor:
        """Return the digits [m] that it hears after support set i."""
        one = slice(i, i + 1)
        given = self.tasks.support.x
        assert isinstance(given, Tensor)
        found = self.learner.on_support(self.theta[one], given[one], x[None])
        assert found is not None  # Conv4 has batch norms
        return found[0].argmax(-1)


def adapt(
    phi: Tensor, rate: float, steps: int, tasks: Episodes, study: Study
) -> Adapted:
    """Adapt φ [P] to each support set, by Adam."""
    learner, order = learner_of(study, rate, 0), tasks.order[:, :steps]
    theta = fields.adapted(
        learner.kernel, phi, tasks.support, order, learner.inner, at_once=5
    )
    return Adapted(learner, learner.kernel.pack(theta), tasks)


# ---- strings of three digits ---------------------------------------------------------


def joined(waves: Sequence[Tensor], silence: int = 1_600) -> Tensor:
    """Join recordings, with 0.2 s of digital silence between them."""
    gap = torch.zeros(silence, dtype=waves[0].dtype)
    return torch.cat([part for wave in waves for part in (gap, wave)][1:])


def words_in(wave: Tensor) -> list[Tensor]:
    """Cut a wave [samples] where it is quiet: one word after the other.

    A block of 10 ms is quiet below `QUIET` times the loudness of the loudest one. Fewer
    than `PAUSE` quiet blocks belong to the word, such as the closure before a "t".
    """
    blocks = wave[: len(wave) // BLOCK * BLOCK].double().view(-1, BLOCK)
    loudness = blocks.square().mean(1).sqrt()
    loud = (loudness > QUIET * loudness.max()).nonzero()[:, 0].tolist()
    runs: list[list[int]] = []
    for block in loud:
        if runs and block - runs[-1][-1] <= PAUSE:
            runs[-1].append(block)
        else:
            runs.append([block])
    return [
        wave[run[0] * BLOCK : (run[-1] + 1) * BLOCK] for run in runs if len(run) >= WORD
    ]


def edits(said: Sequence[int], heard: Sequence[int]) -> int:
    """Return the fewest words to replace, to add and to leave out.

    >>> edits([1, 2, 3], [1, 3]), edits([1, 2, 3], [1, 5, 3, 3])
    (1, 2)
    """
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said):
        last, row = row, [i + 1]
        for j, other in enumerate(heard):
            row.append(min(last[j] + (word != other), last[j + 1] + 1, row[j] + 1))
    return row[-1]


class Strings(NamedTuple):
    """Strings of three digits of one speaker, cut into words again."""

    said: list[list[int]]
    words: list[int]
    """How many were cut out of each."""
    x: Tensor
    """Their pictures, one after the other, [words, 1, bands, frames]."""

    def errors(self, hear: Callable[[Tensor], Tensor]) -> float:
        """Return the word error rate of what hears digits [words] in pictures."""
        heard = [part.tolist() for part in torch.split(hear(self.x), self.words)]
        wrong = sum(map(edits, self.said, heard))
        return wrong / sum(map(len, self.said))


def strings(own: Spoken, count: int, study: Study) -> Strings:
    """Make strings of the takes that are asked."""
    asked = (own.take < study.asked_takes).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    said, words, cut = [], [], list[Tensor]()
    for _ in range(count):
        rows = asked[torch.randperm(len(asked), generator=generator)[:3]].tolist()
        found = words_in(joined([own.waves[row] for row in rows]))
        said.append(own.y[rows].tolist())
        words.append(len(found))
        cut += found
    return Strings(said, words, log_mel(cut))


# ---- choice and scores ---------------------------------------------------------------


def choose(speaker: str, study: Study, say: Callable[[str], None] = print) -> Record:
    """Choose the rates for a test speaker, on the validation speaker."""
    began, data, seed = time.perf_counter(), spoken(), study.choice_seed
    trainers, val = parts(speaker)
    train, own = data.of(*trainers), data.of(val)
    tasks = {
        n: support_sets(own, n, study.validation_sets, seed, VALIDATE, study)
        for n in study.shots
    }
    asked = own.take < study.asked_takes
    trainers_of = {REPTILE: train_reptile, TUNED: train_joint, PLAIN: train_joint}

    @cache
    def trained(how: Trainer, rate: float, times: int) -> Tensor:
        return how(train, rate, seed, study, times)

    def told(what: str, measure: Callable[[], float]) -> float:
        try:
            found = measure()
        except UserError as error:  # the weights diverged
            say(str(error))
            found = 0.0
        say(f"{ROW}: {speaker}, {what}: {found:.3f}")
        return found

    def plainly(phi: Tensor) -> float:
        hear = as_it_is(phi, train, study)
        right = hear(own.x[asked]).argmax(1) == own.y[asked]
        return right.double().mean().item()

    def after(phi: Tensor, rate: float, shots: int, steps: int = 0) -> float:
        steps = steps or study.steps[0]
        return adapt(phi, rate, steps, tasks[shots], study).accuracies().mean().item()

    def tuned(phi: Tensor) -> float:
        return fmean(max(after(phi, r, n) for r in study.rates) for n in study.shots)

    def searched(
        what: str, first: Sequence[float], measure: Callable[[float], float]
    ) -> Record:
        return search(
            first, lambda r: told(f"{what}, {r:g}", lambda: measure(r)), study.widen
        )

    trainings: Record = {}
    for method, how in trainers_of.items():
        score = plainly if method == PLAIN else tuned
        first = study.alphas if method == REPTILE else study.joint_rates
        found = searched(
            f"training for {method}",
            first,
            lambda rate: score(trained(how, rate, 1)),  # noqa: B023
        )
        by_times = {1: found["validation"]}
        for times in (2 ** (i + 1) for i in range(study.doublings)):
            by_times[times] = told(
                f"training for {method}, {times} times as long",
                lambda: score(trained(how, found["value"], times)),  # noqa: B023
            )
            if by_times[times] <= by_times[times // 2]:
                break
        best = max(by_times, key=by_times.__getitem__)
        trainings[method] = found | {"times": best, "by_times": by_times}
    starts = {
        method: trained(trainers_of[method], own_way["value"], own_way["times"])
        for method, own_way in trainings.items()
        if method != PLAIN
    }
    starts[RANDOM] = ravel(learner_of(study, 1.0, seed).model)
    rates: Record = {}
    for method, phi in starts.items():
        for n in study.shots:
            name = f"{method}, {n}-shot"
            own_rate = searched(name, study.rates, lambda r: after(phi, r, n))  # noqa: B023
            scores = {study.steps[0]: own_rate["validation"]}
            for steps in study.steps[1:]:
                before = max(scores.values())
                scores[steps] = told(
                    f"{name}, {steps} steps",
                    lambda: after(phi, own_rate["value"], n, steps),  # noqa: B023
                )
                if scores[steps] <= before:
                    break
            longest = {"steps": max(scores, key=scores.__getitem__), "by_steps": scores}
            rates.setdefault(method, {})[f"{n}-shot"] = own_rate | longest
    return {
        "row": ROW,
        "speaker": speaker,
        "validation": val,
        "config": study.as_dict(),
        "trainings": trainings,
        "rates": rates,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def final(speaker: str, choice: Record, seed: int, study: Study) -> Record:
    """Train as chosen, and score on the test speaker."""
    began, data = time.perf_counter(), spoken()
    train, own = data.of(*parts(speaker)[0]), data.of(speaker)

    @cache
    def trained_by(how: Trainer, rate: float, times: int) -> Tensor:
        return how(train, rate, seed, study, times)

    def chosen(method: str, how: Trainer) -> Tensor:
        own_way = choice["trainings"][method]
        return trained_by(how, own_way["value"], own_way["times"])

    joint = chosen(PLAIN, train_joint)
    starts = {
        REPTILE: chosen(REPTILE, train_reptile),
        TUNED: chosen(TUNED, train_joint),
        RANDOM: ravel(learner_of(study, 1.0, seed).model),
    }
    trained = time.perf_counter() - began
    plain, asked = as_it_is(joint, train, study), own.take < study.asked_takes
    right = (plain(own.x[asked]).argmax(1) == own.y[asked]).double().mean()
    said = strings(own, study.strings, study)
    metrics = {}
    for shots in study.shots:
        tasks = support_sets(own, shots, study.test_sets, seed, TEST, study)
        found = {PLAIN: right.expand(study.test_sets)}
        errors = {PLAIN: said.errors(lambda x: plain(x).argmax(1))}
        for method, phi in starts.items():
            how = choice["rates"][method][f"{shots}-shot"]
            network = adapt(phi, how["value"], how["steps"], tasks, study)
            found[method] = network.accuracies()
            errors[method] = said.errors(network.answers)
        network = adapt(joint, 1.0, 0, tasks, study)  # no step
        found[HEARD], errors[HEARD] = (
            network.accuracies(),
            said.errors(network.answers),
        )
        scores = fields.paired(found, REPTILE)
        metrics[f"{shots}-shot"] = {
            method: scores[method] | {"word_errors": errors[method]}
            for method in METHODS
        }
    return {
        "row": ROW,
        "speaker": speaker,
        "seed": seed,
        "config": study.as_dict(),
        "metrics": metrics,
        "cut_rightly": fmean(n == 3 for n in said.words),
        "train_seconds": trained,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table: a line a number of shots and method.

    Returns: shots; method; accuracy in %, the mean over speakers (of each, over its
    seeds) ± Student's 95 % interval over the six speakers; Reptile's lead, likewise,
    and the lowest and highest of a speaker; word errors in %.
    """
    own = {
        name: [
            records.read_one(path)["metrics"]
            for path in sorted((folder / ROW).glob(f"{name}-[0-9].json"))
        ]
        for name in fsdd.SPEAKERS
    }
    done = [found for found in own.values() if found]
    if len(done) < 2:
        return []
    lines = []
    for shots in done[0][0]:
        for method in METHODS:

            def means(key: str) -> list[float]:
                return [
                    fmean(100 * seed[shots][method][key] for seed in seeds)  # noqa: B023
                    for seeds in done
                ]

            score, ahead, wrong = map(means, ("mean", "ahead", "word_errors"))
            lead = f"{fmean(ahead):+.1f} ± {fields.t95(ahead):.1f}"
            lines.append(
                [
                    shots.removesuffix("-shot"),
                    method,
                    f"{fmean(score):.1f} ± {fields.t95(score):.1f}",
                    "" if method == REPTILE else lead,
                    ""
                    if method == REPTILE
                    else f"{min(ahead):+.1f} to {max(ahead):+.1f}",
                    f"{fmean(wrong):.1f}",
                ]
            )
    return lines


def record(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    *,
    speakers: Sequence[str] = fsdd.SPEAKERS,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose and score for each test speaker, unless that is recorded.

    Raises:
        UserError: the data cannot be had, or a record is of other settings.
    """
    made = []
    for speaker in speakers:
        made += studies.one_by_one(
            folder / ROW,
            speaker,
            seeds,
            study.as_dict(),
            "python -m reptile_book.speech",
            choose=lambda: choose(speaker, study, say),  # noqa: B023
            final=lambda choice, seed: final(speaker, choice, seed, study),  # noqa: B023
            say=say,
        )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Record all speakers; return 0, or 2 for a user's mistake."""
    return studies.command("speech", __doc__, record, arguments)


if __name__ == "__main__":
    sys.exit(main())
