"""The study of page 5.3 on recommenders: a new user, of whom ten ratings are known.

::

    python -m reptile_book.cold_start --seeds 0,1,2

A task is a user of MovieLens. A seed splits the users: some train, some choose rates,
some are tested. Of a user's ratings the first ten in time are known, and the next ones,
50 at most, are asked. A film that fewer than `few` training users rated has no vector
of its own but one that all such films share; its genres are known.

All methods start from a film's mean over training users, shrunk towards the mean of all
ratings. A small network adds to it, from a film's vector and genres; it is trained
jointly, or by Reptile with a user for a task: both on equally many gradients of one
rating to choose their rates, then on twice as many as long as that helps.
What each seed chose on its validation users is in `results/movielens/choice-<n>.json`,
with networks of another seed; how it did on test users in `seed-<n>.json`:

- `metrics.squared_error.<method>`, in squared stars, and `metrics.ndcg.<method>`, the
  NDCG@10 of the asked films, in [0, 1]: `mean` over users with `ci95`; `ahead` is how
  much better Reptile is, user by user
- `users`, `asked`: how many users, and ratings asked of them; `unseen`: the share of
  these that are of films with the common vector

Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.metrics import ndcg_score
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book import fields, records, studies
from reptile_book.records import Record
from reptile_lib.data import movielens
from reptile_lib.data.movielens import Ratings
from reptile_lib.distributions.groups import GroupTasks
from reptile_lib.errors import UserError
from reptile_lib.inner import InnerOptimizer
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.optimizers.formulas import adam, sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.reading.parts import Parts
from reptile_lib.tasks import Batch

ROW = "movielens"
USER, FILM, BOTH = "user's mean", "film's mean", "film's mean + user's offset"
RIDGE = "ridge on genres"
REPTILE, RANDOM = "Reptile", "random weights + fine-tuning"
PLAIN, TUNED = "joint training, as it is", "joint training + fine-tuning"
METHODS = REPTILE, TUNED, PLAIN, RANDOM, RIDGE, BOTH, FILM, USER
PEOPLE = 610  # in the data set


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the study is done."""

    val_users: int = 61
    test_users: int = 122
    known: int = 10
    asked: int = 50
    few: int = 5
    width: int = 8
    hidden: int = 32
    shrinkages: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Ratings of average size that are added to a mean."""
    ridges: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    gradients: int = 80_000
    """Of one rating, in a training to choose rates."""
    doublings: int = 3
    """How often a training may become twice as long."""
    joint_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    joint_batch: int = 256
    train_shots: int = 19
    inner_steps: int = 5
    inner_batch: int = 10
    meta_batch: int = 16
    alphas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Of inner steps by SGD; grids grow where an edge wins."""
    outer_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Of an outer step by Adam, tried beside the plain one, which starts with ε = 1."""
    rates: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1)
    steps: tuple[int, ...] = (5, 20)
    """Of adaptation on the known ratings; the rate is chosen with the first. A training
    of Reptile is chosen by the best rate of its own."""
    widen: int = 3
    choice_seed: int = 100
    """Added to the seed of the networks that rates are chosen with."""

    @property
    def overlap(self) -> float:
        """How many users are tested, per user that is trained on (`leads.interval`)."""
        return self.test_users / (PEOPLE - self.val_users - self.test_users)


STUDY = Study()


Ask = Callable[[Tensor], Tensor]
"""ask(phi [P]) -> stars [users, asked]."""


class Taste(nn.Module):
    """What to add to a film's mean, from its vector and its genres."""

    def __init__(self, films: int, genres: int, width: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Embedding(films, width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.hidden = nn.Linear(width + genres, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, film: Tensor, about: Tensor) -> Tensor:
        """Map films int64 [B], and mean and genres [B, 1 + genres], to stars [B, 1]."""
        mean, genres = about[..., :1], about[..., 1:]
        seen = torch.cat([self.table(film), genres], -1)
        added: Tensor = self.out(F.relu(self.hidden(seen)))
        return mean + added


class Known(NamedTuple):
    """What is known of the films from training users."""

    row: Tensor
    """int64 [films], the film's row of the table; 0 is for all that few have rated."""
    sums: Tensor
    """[films], of ratings less the mean of all."""
    counts: Tensor
    """[films]"""
    genres: Tensor
    """[films, genres]"""
    mean: float
    """Of all ratings."""

    def means(self, shrinkage: float) -> Tensor:
        """Return the films' shrunk means [films]."""
        return self.mean + self.sums / (self.counts + shrinkage)

    def about(self, film: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return what the network takes of films [...]."""
        means = self.means(shrinkage)[film][..., None]
        return self.row[film], torch.cat([means, self.genres[film]], -1)


def known(train: Ratings, genres: Tensor, few: int) -> Known:
    """Return what training users say of the films.

    Args:
        train: their ratings.
        genres: bool [films, genres].
        few: a film needs as many ratings for a vector of its own.
    """
    films, stars = len(genres), train.y[:, 0]
    counts = torch.bincount(train.x, minlength=films)
    mean = stars.mean()
    sums = torch.zeros(films).index_add(0, train.x, stars - mean)
    enough = counts >= few
    row = enough.cumsum(0) * enough
    return Known(row, sums, counts, genres.float(), mean.item())


class Users(NamedTuple):
    """Users to measure on: known ratings and those asked, filled up to one length."""

    film: Tensor
    """int64 [users, known]"""
    stars: Tensor
    """[users, known]"""
    asked_film: Tensor
    """int64 [users, asked]"""
    asked_stars: Tensor
    """[users, asked]"""
    asked: Tensor
    """bool [users, asked]: False where there is none."""


def users(ratings: Ratings, study: Study) -> Users:
    """Cut each user's ratings, which stand in the order of time."""
    rows = []
    for user in range(len(ratings.names)):
        own = (ratings.group == user).nonzero()[:, 0][: study.known + study.asked]
        rows.append(F.pad(own, (0, study.known + study.asked - len(own)), value=-1))
    every = torch.stack(rows)
    first, asked = every[:, : study.known], every[:, study.known :]
    film, stars = ratings.x, ratings.y[:, 0]
    there = asked >= 0
    return Users(
        film[first], stars[first], film[asked] * there, stars[asked] * there, there
    )


# ---- what is measured ----------------------------------------------------------------


def squared_error(answers: Tensor, them: Users) -> Tensor:
    """Return each user's mean squared error, [users], of answers [users, asked]."""
    wrong = (answers - them.asked_stars).square() * them.asked
    return wrong.sum(1) / them.asked.sum(1)


def ndcg(answers: Tensor, them: Users, first: int = 10) -> Tensor:
    """Return the NDCG of each user's `first` films, [users].

    Järvelin & Kekäläinen 2002, with gains 2^stars − 1; where answers are equal, the
    mean over their orders (McSherry & Najork 2008).
    """
    users = zip(answers, them.asked_stars, them.asked, strict=True)
    found = [
        ndcg_score(2 ** stars[None, there] - 1, guess[None, there].detach(), k=first)
        for guess, stars, there in users
    ]
    return torch.tensor(found, dtype=torch.float64)


# ---- simple baselines ----------------------------------------------------------------


def users_mean(them: Users) -> Tensor:
    """Answer with the mean of what is known of the user, [users, asked]."""
    return them.stars.mean(1, keepdim=True).expand(them.asked.shape)


def films_and_user(them: Users, films: Known, shrinkage: float, own: float) -> Tensor:
    """Add to the film's mean how far the user's ratings are above it, shrunk."""
    means = films.means(shrinkage)
    above = (them.stars - means[them.film]).sum(1, keepdim=True)
    return means[them.asked_film] + above / (them.film.shape[1] + own)


def ridge(them: Users, films: Known, shrinkage: float, penalty: float) -> Tensor:
    """Add to the film's mean a linear function of its genres, fitted to each user."""
    means = films.means(shrinkage)

    def features(film: Tensor) -> Tensor:
        genres = films.genres[film]
        return torch.cat([torch.ones_like(genres[..., :1]), genres], -1)

    z = features(them.film)
    above = (them.stars - means[them.film])[..., None]
    inner = z.mT @ z + penalty * torch.eye(z.shape[-1])
    weights = torch.linalg.solve(inner, z.mT @ above)
    added: Tensor = features(them.asked_film) @ weights
    return means[them.asked_film] + added[..., 0]


# ---- networks ------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A split of the users, and how networks are trained and asked on it."""

    parts: Parts[Ratings]
    films: Known
    shrinkage: float
    study: Study

    def model(self, seed: int) -> Taste:
        """Return the network of a seed."""
        study = self.study
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rows, genres = int(self.films.row.max()) + 1, self.films.genres.shape[1]
            return Taste(rows, genres, study.width, study.hidden)

    def learner(self, inner: InnerOptimizer, seed: int) -> MetaLearner:
        """Return an untrained learner."""
        return Reptile(
            self.model(seed),
            inner=inner,
            inner_steps=self.study.inner_steps,
            inner_batch=self.study.inner_batch,
            criterion=F.mse_loss,
            moments="reset",
            device="cpu",
            engine="stacked",
        )

    def reptile(self, alpha: float, outer: float, seed: int, times: int = 1) -> Tensor:
        """Return φ [P], with a user for a task; `outer` is Adam's rate, 0 for none."""
        study, train = self.study, self.parts.train
        learner = self.learner(sgd(alpha), seed)
        learner.outer = adam(1.0, (0.9, 0.999)) if outer else None  # its rate is ε
        about = self.films.about(train.x, self.shrinkage)
        each = study.inner_steps * study.inner_batch * study.meta_batch
        learner.fit(
            GroupTasks(about, train.y, train.group, study.train_shots),
            meta_steps=max(1, times * study.gradients // each),
            meta_batch=study.meta_batch,
            epsilon=linear(outer or 1.0, 0.0),
            seed=seed,
        )
        return learner.phi

    def joint(self, rate: float, seed: int, times: int = 1) -> Tensor:
        """Return weights [P], trained on the ratings of all users as one task."""
        study, train = self.study, self.parts.train
        return fields.train_jointly(
            self.model(seed),
            self.films.about(train.x, self.shrinkage),
            train.y,
            F.mse_loss,
            rate=rate,
            seed=seed,
            batch=study.joint_batch,
            steps=max(1, times * study.gradients // study.joint_batch),
        )

    def answers(
        self, phi: Tensor, them: Users, rate: float = 0.0, steps: int = 0
    ) -> Tensor:
        """Adapt to each user's known ratings; return stars [users, asked]."""
        inner = sgd(rate or 1.0)
        kernel = self.learner(inner, 0).kernel
        theta = phi.expand(len(them.film), -1)
        if steps:
            about = self.films.about(them.film, self.shrinkage)
            support = Batch(about, them.stars[..., None])
            order = torch.arange(them.film.shape[1]).expand(len(theta), steps, -1)
            theta = fields.adapted(kernel, phi, support, order, inner)
        asked = self.films.about(them.asked_film, self.shrinkage)
        return kernel.outputs(theta, asked)[..., 0]


@cache
def split(seed: int, study: Study) -> tuple[Parts[Ratings], Known]:
    """Return the ratings as a seed splits the users, and what trainers say of films.

    Raises:
        UserError: the data cannot be had.
    """
    parts = movielens.load(seed, study.val_users, study.test_users)
    return parts, known(parts.train, movielens.films().genres, study.few)


def _lowest(tried: dict[float, float]) -> Record:
    """Return the value of the lowest error, with all that were tried."""
    best = min(tried, key=tried.__getitem__)
    return {"value": best, "tried": {f"{v:g}": e for v, e in sorted(tried.items())}}


def choose(seed: int, study: Study, say: Callable[[str], None] = print) -> Record:
    """Choose all rates of a split by the squared error of its validation users."""
    began = time.perf_counter()
    parts, films = split(seed, study)
    them, own_seed = users(parts.val, study), study.choice_seed + seed

    def error(answers: Tensor) -> float:
        return squared_error(answers, them).mean().item()

    def told(what: str, measure: Callable[[], Tensor]) -> float:
        try:
            found = error(measure())
        except UserError as problem:  # the weights diverged
            say(str(problem))
            found = 1e6
        say(f"{ROW}: seed {seed}, {what}: {found:.4f}")
        return found

    def searched(
        what: str, first: Sequence[float], measure: Callable[[float], Tensor]
    ) -> Record:
        grid, tried = list(first), dict[float, float]()
        for _ in range(study.widen + 1):
            for rate in grid:
                if rate not in tried:
                    name = f"{what} {rate:g}"
                    tried[rate] = told(name, lambda: measure(rate))  # noqa: B023
            if not studies.grown(grid, min(tried, key=tried.__getitem__)):
                break
        return _lowest(tried)

    shrinkage = _lowest(
        {s: error(films.means(s)[them.asked_film]) for s in study.shrinkages}
    )
    s = shrinkage["value"]
    chosen: Record = {
        "shrinkage": shrinkage,
        BOTH: _lowest(
            {
                own: error(films_and_user(them, films, s, own))
                for own in study.shrinkages
            }
        ),
        RIDGE: _lowest({p: error(ridge(them, films, s, p)) for p in study.ridges}),
    }
    bench = Bench(parts, films, s, study)
    few, *more = study.steps

    def tuned(phi: Tensor) -> Tensor:
        """Return the answers at the best rate of adaptation."""
        offered = [bench.answers(phi, them, rate, few) for rate in study.rates]
        return min(offered, key=error)

    def doubled(
        what: str, found: Record, train: Callable[[int], Tensor], ask: Ask
    ) -> tuple[Record, Tensor]:
        """Train twice as long as long as it helps; return how long, and weights."""
        best = train(1)
        by_times = {1: error(ask(best))}
        for i in range(study.doublings):
            times = 2 ** (i + 1)
            phi = train(times)
            by_times[times] = told(f"{what}, {times} times as long", lambda: ask(phi))  # noqa: B023
            if by_times[times] >= by_times[times // 2]:
                break
            best = phi
        times = min(by_times, key=by_times.__getitem__)
        return found | {"times": times, "by_times": by_times}, best

    found = searched(
        "joint",
        study.joint_rates,
        lambda rate: bench.answers(bench.joint(rate, own_seed), them),
    )
    chosen["joint"], joint = doubled(
        "joint",
        found,
        lambda times, rate=found["value"]: bench.joint(rate, own_seed, times),  # type: ignore[misc]
        lambda phi: bench.answers(phi, them),
    )

    def learnt(alpha: float, outer: float) -> Tensor:
        return tuned(bench.reptile(alpha, outer, own_seed))

    chosen["alpha"] = searched("alpha", study.alphas, lambda a: learnt(a, 0.0))
    alpha = chosen["alpha"]["value"]
    plain = chosen["alpha"]["tried"][f"{alpha:g}"]
    outers = {0.0: plain} | {
        rate: told(f"Adam outside {rate:g}", lambda: learnt(alpha, rate))  # noqa: B023
        for rate in study.outer_rates
    }
    found = _lowest(outers)
    chosen["outer"], phi = doubled(
        "Reptile",
        found,
        lambda times, outer=found["value"]: bench.reptile(  # type: ignore[misc]
            alpha, outer, own_seed, times
        ),
        tuned,
    )
    starts = {REPTILE: phi, TUNED: joint, RANDOM: ravel(bench.model(own_seed))}
    for method, start in starts.items():
        found = searched(
            method,
            study.rates,
            lambda rate: bench.answers(start, them, rate, few),  # noqa: B023
        )
        rate = found["value"]
        by_steps = {few: found["tried"][f"{rate:g}"]} | {
            steps: told(
                f"{method}, {steps} steps",
                lambda: bench.answers(start, them, rate, steps),  # noqa: B023
            )
            for steps in more
        }
        best = min(by_steps, key=by_steps.__getitem__)
        chosen[method] = found | {"steps": best, "by_steps": by_steps}
    return {"chosen": chosen, "seconds": time.perf_counter() - began}


def final(choice: Record, seed: int, study: Study) -> Record:
    """Train as chosen, and score all methods on the test users of a split."""
    began, chosen = time.perf_counter(), choice["chosen"]
    parts, films = split(seed, study)
    them, shrinkage = users(parts.test, study), chosen["shrinkage"]["value"]
    bench = Bench(parts, films, shrinkage, study)
    how, outer = chosen["joint"], chosen["outer"]
    joint = bench.joint(how["value"], seed, how["times"])
    jointly = time.perf_counter()
    alpha = chosen["alpha"]["value"]
    phi = bench.reptile(alpha, outer["value"], seed, outer["times"])
    seconds = {"joint": jointly - began, "reptile": time.perf_counter() - jointly}

    def tuned(method: str, start: Tensor) -> Tensor:
        how = chosen[method]
        return bench.answers(start, them, how["value"], how["steps"])

    answers = {
        REPTILE: tuned(REPTILE, phi),
        TUNED: tuned(TUNED, joint),
        PLAIN: bench.answers(joint, them),
        RANDOM: tuned(RANDOM, ravel(bench.model(seed))),
        RIDGE: ridge(them, films, shrinkage, chosen[RIDGE]["value"]),
        BOTH: films_and_user(them, films, shrinkage, chosen[BOTH]["value"]),
        FILM: films.means(shrinkage)[them.asked_film],
        USER: users_mean(them),
    }
    errors = {method: squared_error(own, them) for method, own in answers.items()}
    ranks = {method: ndcg(own, them) for method, own in answers.items()}
    return {
        "metrics": {
            "squared_error": fields.paired(errors, REPTILE, lower=True),
            "ndcg": fields.paired(ranks, REPTILE),
        },
        "users": len(them.film),
        "asked": int(them.asked.sum()),
        "unseen": (films.row[them.asked_film][them.asked] == 0).double().mean().item(),
        "train_seconds": seconds,
        "seconds": time.perf_counter() - began,
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table, a line a method; empty if none is recorded.

    Returns: method; squared error, mean and standard deviation over seeds; how much
    lower Reptile's is, the mean of a seed, its lowest and highest; NDCG@10 in %.
    """
    found = [r["metrics"] for r in records.read(folder / ROW)]

    def values(metric: str, method: str, key: str) -> list[float]:
        return [seed[metric][method][key] for seed in found]

    return [
        [
            method,
            fields.over_seeds(values("squared_error", method, "mean"), digits=3),
            ""
            if method == REPTILE
            else fields.leads(values("squared_error", method, "ahead"), digits=3),
            fields.over_seeds(values("ndcg", method, "mean"), 100),
        ]
        for method in METHODS
        if found
    ]


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
        "python -m reptile_book.cold_start",
        choose=lambda seed: choose(seed, study, say),
        final=lambda choice, seed: final(choice, seed, study),
        say=say,
    )


def main(arguments: list[str] | None = None) -> int:
    """Record the seeds; return 0, or 2 for a user's mistake."""
    return studies.command("cold_start", __doc__, record, arguments)


if __name__ == "__main__":
    sys.exit(main())
