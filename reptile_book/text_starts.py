"""The study of page 5.2: a few sentences of five new classes, told apart in many ways.

::

    python -m reptile_book.text_starts clinc150 --seeds 0,1,2

Reptile trains a bag of hashed words and characters, weighted by their rarity in the
training sentences: as in the paper, and with the last layer at zero at every task's
start. Beside it stand random weights, joint training, and TF-IDF without any training
on other classes. Rates, steps and penalties, how large the words' vectors are at first,
and how long Reptile trains (more can be worse for new classes), are chosen on tasks of
validation classes, with networks of another seed: `results/text-starts/<data>.json`.
Each seed is then scored on tasks of test classes, the same for all methods:
`<data>-<seed>.json`:

- `metrics.<shots>-shot.<method>`: `mean` accuracy in [0, 1] over tasks with its `ci95`,
  and how far Reptile with the head at zero is `ahead`, task by task, with `ahead_ci95`
- `rates.<shots>-shot.<method>`: of adaptation; the chosen one, or half of it, or a
  quarter where test tasks diverged (since that was seen to happen: not in `clinc150`,
  where none did)
- `seconds`: of each training, and of all

Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book import fields, records, rows, studies
from reptile_book.glyph_heads import nearest_mean, right, search
from reptile_book.records import Record
from reptile_lib.data.sets import load
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.evaluation import evaluate
from reptile_lib.examples import Examples
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.text import TABLE_STD, encode_words, rarity, text_bag
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.reading.texts import Texts
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs import run
from reptile_lib.tasks import Episodes, draw_tasks

ROW = "text-starts"
DATA = "clinc150", "banking77", "huffpost"
ZEROED, PAPER = "Reptile, head at zero", "Reptile, as in the paper"
RANDOM, TUNED = "random weights", "joint training + fine-tuning"
NEAREST = "joint training, nearest mean"
WORDS, BOTH = "TF-IDF of words", "TF-IDF of words and characters"
CENTROID, NEIGHBOUR = "TF-IDF, nearest mean", "TF-IDF, nearest neighbour"
COUNTED = 2**13  # columns of words, and of runs
METHODS = ZEROED, PAPER, RANDOM, TUNED, NEAREST, WORDS, BOTH, CENTROID, NEIGHBOUR


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done."""

    ways: int = 5
    shots: tuple[int, ...] = rows.SHOTS
    test_tasks: int = 600
    validation_tasks: int = 100
    train_shots: int = 10
    inner_steps: int = 10
    inner_batch: int = 10
    meta_batch: int = 5
    meta_steps: tuple[int, ...] = (50, 200, 800)
    """Lengths of training by Reptile; the middle one chooses α."""
    scales: tuple[float, ...] = (0.02, 0.1)
    """Standard deviations of the words' first vectors; each start has its own."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of SGD, in training and in adaptation; grids grow where an edge wins."""
    steps: tuple[int, ...] = (10, 50)
    """Of adaptation."""
    penalties: tuple[float, ...] = (1.0, 10.0, 100.0)
    """C of logistic regression."""
    joint_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    joint_steps: int = 1_000
    joint_batch: int = 64
    widen: int = 3
    choice_seed: int = 100


STUDY = Study()


class Corpus:
    """Sentences of training classes, and what is made of them: rarity and TF-IDF."""

    def __init__(self, texts: Texts) -> None:
        self.examples = texts.examples(encode_words)
        ids = self.examples.pool
        assert isinstance(ids, Tensor)
        self.ids, self.rarity = ids, rarity(ids)
        self.labels = torch.arange(len(texts)).repeat_interleave(
            torch.tensor(self.examples.counts)
        )
        self.sentences = [sentence for own in texts.sentences for sentence in own]

    def network(self, ways: int, seed: int, scale: float) -> nn.Module:
        """Return a bag: words weighted by rarity, first vectors of std `scale`."""
        net = text_bag(ways, seed=seed, weights=self.rarity)
        with torch.no_grad():
            net.get_parameter("table.weight").mul_(scale / TABLE_STD)
        return net

    @cached_property
    def tfidf(self) -> dict[str, Any]:
        """Return what makes rows of numbers of sentences; rarity is counted here.

        Words are hashed: with a list of the words seen here, those of new kinds, which
        tell them apart, would be dropped.
        """
        size = {"n_features": COUNTED, "norm": None, "alternate_sign": False}
        words = HashingVectorizer(token_pattern=r"\w+|[^\w\s]", **size)
        runs = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **size)
        kinds = {WORDS: [("words", words)], BOTH: [("words", words), ("runs", runs)]}
        return {
            name: make_pipeline(FeatureUnion(parts), TfidfTransformer()).fit(
                self.sentences
            )
            for name, parts in kinds.items()
        }


@dataclass(frozen=True)
class Bench:
    """Tasks of some classes, to score on; the same for all methods."""

    corpus: Corpus
    texts: Texts
    stream: int
    count: int
    seed: int
    study: Study

    @cached_property
    def examples(self) -> Examples:
        """The classes, in hashed words."""
        return self.texts.examples(encode_words)

    def drawn(self, classes: Examples, shots: int) -> Episodes:
        """Return the tasks that `adapted` scores on."""
        tasks = FewShotTasks(classes, self.study.ways, shots)
        return draw_tasks(tasks, self.count, self.seed, stream=self.stream)

    def adapted(
        self, learner: MetaLearner, rate: float, steps: int, shots: int
    ) -> Tensor:
        """Adapt a learner to each task by SGD; return accuracies [tasks]."""
        learner.inner = sgd(rate)
        found = evaluate(
            learner,
            FewShotTasks(self.examples, self.study.ways, shots),
            inner_steps=steps,
            inner_batch=min(self.study.inner_batch, self.study.ways * shots),
            count=self.count,
            seed=self.seed,
            stream=self.stream,
        )
        return found.non_transductive.values

    def nearest(self, net: nn.Module, shots: int) -> Tensor:
        """Answer with the nearest mean of what a network gives its last layer."""
        tasks = self.drawn(self.examples, shots)
        sx, qx = tasks.support.x, tasks.query.x
        assert isinstance(sx, Tensor)
        assert isinstance(qx, Tensor)
        body = without_head(net)
        with torch.no_grad():
            support, query = body(sx), body(qx)
        head = nearest_mean(support, tasks.support.y, self.study.ways)
        return right(head, query, tasks)

    def sparse(self, kind: str, shots: int, answer: Callable[..., Any]) -> Tensor:
        """Answer from rows of TF-IDF: answer(support, labels, queries) -> labels."""
        table = self.corpus.tfidf[kind].transform(
            [sentence for own in self.texts.sentences for sentence in own]
        )
        numbers = torch.arange(sum(self.examples.counts))
        by_class = torch.split(numbers, list(self.examples.counts))
        tasks = self.drawn(Examples(list(by_class), self.texts.names), shots)
        sx, qx = tasks.support.x, tasks.query.x
        assert isinstance(sx, Tensor)
        assert isinstance(qx, Tensor)
        hits = []
        for s, y, q, truth in zip(sx, tasks.support.y, qx, tasks.query.y, strict=True):
            found = answer(table[s.numpy()], y.numpy(), table[q.numpy()])
            hits.append((torch.as_tensor(found) == truth).double().mean())
        return torch.stack(hits)


def without_head(net: nn.Module) -> nn.Module:
    """Return a text network without its last layer; it shares the other weights."""
    bag = text_bag(1, net.get_submodule("table").num_embeddings)  # type: ignore[arg-type]
    bag.table, bag.weights = net.table, net.weights
    head = list(net.get_submodule("head").children())
    bag.head = nn.Sequential(*head[:-1])
    return bag


def regression(penalty: float, support: Any, y: Any, queries: Any) -> Any:
    """Fit a logistic regression with C = `penalty` and answer."""
    return (
        LogisticRegression(C=penalty, max_iter=1_000).fit(support, y).predict(queries)
    )


def nearest_neighbour(support: Any, y: Any, queries: Any) -> Any:
    """Answer as the support sentence with the largest product of rows."""
    return y[(queries @ support.T).toarray().argmax(1)]


def nearest_centroid(support: Any, y: Any, queries: Any) -> Any:
    """Answer with the class whose mean row is nearest."""
    x = torch.from_numpy(support.toarray())
    head = nearest_mean(x, torch.from_numpy(y), int(y.max()) + 1)
    return head(torch.from_numpy(queries.toarray())).argmax(1)


def learner_of(
    corpus: Corpus, study: Study, seed: int, *, scale: float, zeroed: bool
) -> MetaLearner:
    """Return the untrained learner, its head at zero if `zeroed`."""
    learner = Reptile(
        corpus.network(study.ways, seed, scale),
        sgd(1.0),
        inner_steps=study.inner_steps,
        inner_batch=study.inner_batch,
        criterion=F.cross_entropy,
        device="cpu",
    )
    return starting(learner, learner.phi, zeroed=zeroed)


def starting(learner: MetaLearner, phi: Tensor, *, zeroed: bool) -> MetaLearner:
    """Let a learner start from φ [P], or from that with zeros for its head."""
    body = run.body_of(learner.model)
    start = phi * body if zeroed else phi
    learner.state = learner.state._replace(phi=start)
    return learner


@dataclass(frozen=True)
class Training:
    """How a start is trained."""

    scale: float
    rate: float
    steps: int


def train(
    corpus: Corpus, how: Training, study: Study, seed: int, *, zeroed: bool
) -> MetaLearner:
    """Train by Reptile on tasks of the training classes."""
    learner = learner_of(corpus, study, seed, scale=how.scale, zeroed=zeroed)
    learner.inner, line = sgd(how.rate), linear(1.0, 0.0)
    body = run.body_of(learner.model)
    learner.fit(
        FewShotTasks(corpus.examples, study.ways, study.train_shots),
        meta_steps=how.steps,
        meta_batch=study.meta_batch,
        epsilon=(lambda done: line(done) * body) if zeroed else line,
        seed=seed,
    )
    return learner


def train_jointly(corpus: Corpus, how: Training, study: Study, seed: int) -> nn.Module:
    """Train a network to tell all training classes apart."""
    net = corpus.network(len(corpus.examples), seed, how.scale)
    sizes = {"seed": seed, "batch": study.joint_batch, "steps": how.steps}
    fields.train_jointly(
        net, corpus.ids, corpus.labels, F.cross_entropy, rate=how.rate, **sizes
    )
    return net


def joined(learner: MetaLearner, net: nn.Module) -> MetaLearner:
    """Let a learner start from a jointly trained network, with zeros for its head."""
    return starting(learner, fields.with_new_head(learner.model, net), zeroed=True)


def over_scales(
    study: Study, steps: int, measure: Callable[[Training], float]
) -> Record:
    """Search the rate at each scale; return the best search, with its scale."""
    found = []
    for scale in study.scales:

        def rated(rate: float) -> float:
            return measure(Training(scale, rate, steps))  # noqa: B023

        found.append({"scale": scale, **search(study.rates, rated, study.widen)})
    own = max(found, key=lambda one: one["validation"])
    others = {str(one["scale"]): one["validation"] for one in found}
    return {**own, "steps": steps, "scales": others}


def trained_as(found: Record) -> Training:
    """Return the training that `over_scales` has found."""
    return Training(found["scale"], found["value"], found["steps"])


def choose(data: str, study: Study, say: Callable[[str], None] = print) -> Record:
    """Choose on tasks of validation classes, with networks of another seed."""
    began, parts = time.perf_counter(), load(data)
    corpus, seed = Corpus(parts.train), study.choice_seed
    bench = Bench(corpus, parts.val, VALIDATE, study.validation_tasks, seed, study)
    chosen: Record = {}

    def told(what: str, measure: Callable[[], float]) -> float:
        try:
            found = measure()
        except UserError as error:  # the weights diverged
            say(str(error))
            found = 0.0
        say(f"{ROW}: {data}, {what}: {found:.3f}")
        return found

    def over_shots(learner: MetaLearner, rate: float) -> float:
        k = max(study.steps)
        return fmean(
            bench.adapted(learner, rate, k, n).mean().item() for n in study.shots
        )

    trained: dict[tuple[str, Training], MetaLearner] = {}

    def training(name: str, how: Training) -> float:
        learner = train(corpus, how, study, seed, zeroed=name == ZEROED)
        trained[name, how] = learner
        return over_shots(learner, how.rate)

    def measure(name: str, how: Training) -> float:
        return told(f"{name}, {how}", partial(training, name, how))

    middle = sorted(study.meta_steps)[len(study.meta_steps) // 2]
    best = {}
    for name in (ZEROED, PAPER):
        found = over_scales(study, middle, partial(measure, name))
        how, lengths = trained_as(found), {middle: found["validation"]}
        for steps in set(study.meta_steps) - {middle}:
            lengths[steps] = measure(name, replace(how, steps=steps))
        steps = max(lengths, key=lambda n: lengths[n])
        best[name] = trained[name, replace(how, steps=steps)]
        by_length = {str(n): lengths[n] for n in sorted(lengths)}
        chosen[name] = {"training": found | {"steps": steps, "lengths": by_length}}

    joint: dict[Training, nn.Module] = {}

    def jointly(how: Training) -> float:
        joint[how] = train_jointly(corpus, how, study, seed)
        return fmean(bench.nearest(joint[how], n).mean().item() for n in study.shots)

    found = over_scales(
        replace(study, rates=study.joint_rates),
        study.joint_steps,
        lambda how: told(f"{TUNED}, {how}", partial(jointly, how)),
    )
    chosen[TUNED] = {"training": found}
    plain = partial(learner_of, corpus, study, seed)
    tuned = trained_as(found)
    fresh = plain(scale=tuned.scale, zeroed=True)
    starts: dict[str, dict[tuple[str, float], MetaLearner]] = {
        ZEROED: {("zero", trained_as(chosen[ZEROED]["training"]).scale): best[ZEROED]},
        PAPER: {("learnt", trained_as(chosen[PAPER]["training"]).scale): best[PAPER]},
        RANDOM: {
            (head, scale): plain(scale=scale, zeroed=head == "zero")
            for scale in study.scales
            for head in ("drawn", "zero")
        },
        TUNED: {("zero", tuned.scale): joined(fresh, joint[tuned])},
    }
    for name, heads in starts.items():
        for shots in study.shots:
            tried = {}
            for (head, scale), learner in heads.items():
                for steps in study.steps:

                    def rated(rate: float) -> float:
                        start = f"{name}, {head}, {scale}"  # noqa: B023
                        what = f"{start}, {shots}-shot, {steps} steps, {rate}"  # noqa: B023
                        score = partial(bench.adapted, learner, rate, steps, shots)  # noqa: B023
                        return told(what, lambda: score().mean().item())

                    tried[head, scale, steps] = search(study.rates, rated, study.widen)
            head, scale, steps = max(tried, key=lambda key: tried[key]["validation"])
            own = tried[head, scale, steps] | {
                "head": head,
                "scale": scale,
                "steps": steps,
            }
            chosen.setdefault(name, {})[f"{shots}-shot"] = own
    for kind in (WORDS, BOTH):
        for shots in study.shots:

            def penalised(penalty: float) -> float:
                answer = partial(regression, penalty)
                score = partial(bench.sparse, kind, shots, answer)  # noqa: B023
                what = f"{kind}, {shots}-shot, C = {penalty}"  # noqa: B023
                return told(what, lambda: score().mean().item())

            own = search(study.penalties, penalised, study.widen)
            chosen.setdefault(kind, {})[f"{shots}-shot"] = own
    return {
        "row": ROW,
        "data": data,
        "config": study.as_dict(),
        "chosen": chosen,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
    }


def at_once_or_halved(
    rate: float, score: Callable[[float], Tensor]
) -> tuple[float, Tensor]:
    """Return the rate, halved up to three times until no task diverges, and the scores.

    A hundred validation tasks may all go well where a few of six hundred others do not.
    That a task diverges shows on its examples: no answer of a query is looked at.

    Raises:
        UserError: tasks diverge even so.
    """
    for lower in (rate, rate / 2, rate / 4):
        try:
            return lower, score(lower)
        except UserError as error:
            if "diverged" not in str(error):
                raise
    return rate / 8, score(rate / 8)


def final(data: str, choice: Record, seed: int, study: Study) -> Record:
    """Train as chosen, and score all methods on the same tasks of test classes."""
    began, parts, chosen = time.perf_counter(), load(data), choice["chosen"]
    corpus = Corpus(parts.train)
    bench = Bench(corpus, parts.test, TEST, study.test_tasks, seed, study)
    seconds: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = act()
        seconds[name] = time.perf_counter() - start
        return made

    def reptile(name: str, zeroed: bool) -> MetaLearner:
        how = trained_as(chosen[name]["training"])
        made: MetaLearner = timed(
            name, lambda: train(corpus, how, study, seed, zeroed=zeroed)
        )
        return made

    plain = partial(learner_of, corpus, study, seed)

    def untrained(shots: int) -> MetaLearner:
        own = chosen[RANDOM][f"{shots}-shot"]
        return plain(scale=own["scale"], zeroed=own["head"] == "zero")

    tuned = trained_as(chosen[TUNED]["training"])
    net: nn.Module = timed(TUNED, lambda: train_jointly(corpus, tuned, study, seed))
    learners = {
        ZEROED: reptile(ZEROED, True),
        PAPER: reptile(PAPER, False),
        TUNED: joined(plain(scale=tuned.scale, zeroed=True), net),
    }
    metrics: Record = {}
    rates: Record = {}
    for shots in study.shots:
        found = {}
        used = rates.setdefault(f"{shots}-shot", {})
        for name, learner in {**learners, RANDOM: untrained(shots)}.items():
            own = chosen[name][f"{shots}-shot"]
            used[name], found[name] = at_once_or_halved(
                own["value"],
                lambda rate: bench.adapted(learner, rate, own["steps"], shots),  # noqa: B023
            )
        found[NEAREST] = bench.nearest(net, shots)
        for kind in (WORDS, BOTH):
            answer = partial(regression, chosen[kind][f"{shots}-shot"]["value"])
            found[kind] = bench.sparse(kind, shots, answer)
        found[CENTROID] = bench.sparse(BOTH, shots, nearest_centroid)
        found[NEIGHBOUR] = bench.sparse(BOTH, shots, nearest_neighbour)
        metrics[f"{shots}-shot"] = fields.paired(found, ZEROED)
    return {
        "row": ROW,
        "data": data,
        "seed": seed,
        "config": study.as_dict(),
        "metrics": metrics,
        "rates": rates,
        "seconds": {**seconds, "all": time.perf_counter() - began},
        **records.circumstances(find_device("cpu")),
    }


def recorded(data: str, folder: Path = Path("results")) -> list[Record]:
    """Return the metrics of each recorded seed."""
    paths = sorted((folder / ROW).glob(f"{data}-[0-9].json"))
    return [records.read_one(path)["metrics"] for path in paths]


def leads(
    data: str, shots: int, others: Sequence[str], folder: Path = Path("results")
) -> list[float]:
    """Return how far Reptile with its head at zero is ahead of these, in each seed."""
    found = [seed[f"{shots}-shot"] for seed in recorded(data, folder)]
    return [scores[who]["ahead"] for scores in found for who in others]


def table(data: str, folder: Path = Path("results")) -> list[list[str]]:
    """Return a row per method: accuracies in % and leads at each number of shots.

    Returns: the method; for each of `rows.SHOTS` the accuracy, mean and standard
    deviation over seeds, and how far Reptile with its head at zero is ahead, its mean
    with the lowest and the highest of a seed. Empty where nothing is recorded.
    """
    found = recorded(data, folder)
    lines = []
    for method in METHODS if found else ():
        line = [method]
        for shots in rows.SHOTS:
            own = [seed[f"{shots}-shot"][method] for seed in found]
            line.append(fields.over_seeds([one["mean"] for one in own], 100))
            lead = fields.leads([one["ahead"] for one in own], 100)
            line.append("–" if method == ZEROED else lead)
        lines.append(line)
    return lines


def record(
    data: str,
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose and score the seeds, unless that is recorded; return all records.

    Raises:
        UserError: a record is of other settings, or the data cannot be had.
    """
    return studies.one_by_one(
        folder / ROW,
        data,
        seeds,
        study.as_dict(),
        f"python -m reptile_book.text_starts {data}",
        choose=lambda: choose(data, study, say),
        final=lambda choice, seed: final(data, choice, seed, study),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record a data set; return 0, or 2 for a user's mistake."""
    parser = studies.parser("text_starts", __doc__)
    parser.add_argument("data", choices=(*DATA, "requests"))
    options = parser.parse_args(arguments)

    def act() -> None:
        record(options.data, studies.seeds_of(options.seeds), options.results)

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
