"""The study of new users: what is known and asked, how it is scored, what is kept."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reptile_book import cold_start, records
from reptile_book.cold_start import METHODS, REPTILE, ROW, Bench, Study, Users
from reptile_lib import UserError
from reptile_lib.data.movielens import Ratings
from reptile_lib.reading.parts import Parts

TINY = Study(
    known=3,
    asked=4,
    few=2,
    width=2,
    hidden=3,
    shrinkages=(1.0, 2.0),
    ridges=(1.0,),
    gradients=200,
    doublings=1,
    joint_rates=(1e-3,),
    joint_batch=20,
    train_shots=4,
    inner_steps=2,
    inner_batch=2,
    meta_batch=3,
    alphas=(0.1,),
    outer_rates=(1e-3,),
    rates=(0.1,),
    steps=(1, 2),
    widen=0,
)
FILMS = 12
GENRES = torch.rand(FILMS, 3, generator=torch.Generator().manual_seed(1)) > 0.5


def ratings(people: int, seed: int, least: int = 6) -> Ratings:
    """Return ratings of some people, of six films or more each."""
    g = torch.Generator().manual_seed(seed)
    counts = [least + i % 3 for i in range(people)]
    x = torch.cat([torch.randperm(FILMS, generator=g)[:n] for n in counts])
    group = torch.arange(people).repeat_interleave(torch.tensor(counts))
    y = torch.randint(1, 11, (len(x), 1), generator=g) / 2
    names = tuple(map(str, range(people)))
    return Ratings(x, y, group, names, torch.arange(len(x)))


def parts() -> Parts[Ratings]:
    return Parts(ratings(9, 0), ratings(4, 1), ratings(5, 2))


def bench() -> Bench:
    found = parts()
    films = cold_start.known(found.train, GENRES, TINY.few)
    return Bench(found, films, 2.0, TINY)


def some(asked: list[float], there: int) -> Users:
    """Return one user with so many asked films; the rest is filled up."""
    stars = torch.tensor([asked])
    film = torch.zeros(1, 3, dtype=torch.int64)
    here = torch.arange(len(asked))[None] < there
    return Users(film, torch.ones(1, 3), torch.zeros_like(stars).long(), stars, here)


def test_a_films_mean_is_shrunk_and_a_rare_film_shares_its_vector() -> None:
    x = torch.tensor([0, 0, 2, 3, 3, 3])
    y = torch.tensor([1.0, 2.0, 5.0, 4.0, 4.0, 5.0])[:, None]
    train = Ratings(x, y, torch.zeros(6, dtype=torch.int64), ("1",), x)
    found = cold_start.known(train, GENRES[:4], few=2)
    assert found.mean == 3.5
    assert found.row.tolist() == [1, 0, 0, 2]
    assert found.means(2.0).tolist() == pytest.approx(
        [3.5 - 4 / 4, 3.5, 3.5 + 1.5 / 3, 3.5 + 2.5 / 5]
    )
    row, about = found.about(torch.tensor([3, 1]), 2.0)
    assert row.tolist() == [2, 0]
    assert about[:, 0].tolist() == [4.0, 3.5]
    assert torch.equal(about[:, 1:], GENRES[[3, 1]].float())


def test_the_first_ratings_are_known_and_the_next_ones_asked() -> None:
    own = ratings(4, 1)  # of 6, 7, 8 and 6 films
    them = cold_start.users(own, TINY)
    assert them.asked.sum(1).tolist() == [3, 4, 4, 3]
    assert torch.equal(them.film[1], own.x[6:9])
    assert torch.equal(them.stars[1], own.y[6:9, 0])
    assert torch.equal(them.asked_film[1], own.x[9:13])
    assert torch.equal(them.asked_stars[2], own.y[16:20, 0])


def test_what_is_filled_up_does_not_count() -> None:
    them = some([4.0, 2.0, 0.0], 2)
    answers = torch.tensor([[3.0, 2.0, 9.0]])
    assert cold_start.squared_error(answers, them).item() == 0.5
    assert cold_start.ndcg(answers, them).item() == pytest.approx(1.0)


def test_ndcg_by_hand_and_with_ties() -> None:
    them = some([1.0, 5.0, 3.0], 3)
    gains, places = (1.0, 31.0, 7.0), [1 / math.log2(i + 2) for i in range(3)]
    best = 31 * places[0] + 7 * places[1] + 1 * places[2]
    answers = torch.tensor([[2.0, 1.0, 3.0]])  # third, first, second
    own = 7 * places[0] + 1 * places[1] + 31 * places[2]
    assert cold_start.ndcg(answers, them).item() == pytest.approx(own / best)
    tied = torch.ones(1, 3)
    expected = sum(gains) / 3 * sum(places) / best
    assert cold_start.ndcg(tied, them).item() == pytest.approx(expected)
    first = cold_start.ndcg(answers, them, first=1).item()
    assert first == pytest.approx(7 / 31)


def test_the_baselines_by_hand() -> None:
    it = bench()
    them = cold_start.users(it.parts.test, TINY)
    means, i = it.films.means(2.0), 1
    mine = cold_start.users_mean(them)[i]
    assert mine.tolist() == pytest.approx([them.stars[i].mean().item()] * 4)
    above = sum((them.stars[i, j] - means[them.film[i, j]]).item() for j in range(3))
    both = cold_start.films_and_user(them, it.films, 2.0, 4.0)[i]
    expected = means[them.asked_film[i]] + above / 7
    torch.testing.assert_close(both, expected)
    # ridge: the gradient of its loss is zero
    found = cold_start.ridge(them, it.films, 2.0, 3.0)
    one = torch.ones(3, 1)
    z = torch.cat([one, GENRES[them.film[i]].float()], 1).double().requires_grad_()
    r = (them.stars[i] - means[them.film[i]]).double()
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    fit = torch.optim.LBFGS([w], max_iter=100, tolerance_grad=1e-12)

    def loss() -> Tensor:
        fit.zero_grad()
        value = (z.detach() @ w - r).square().sum() + 3 * w.square().sum()
        value.backward()
        return value

    fit.step(loss)
    asked = torch.cat([torch.ones(4, 1), GENRES[them.asked_film[i]].float()], 1)
    answers = means[them.asked_film[i]] + asked @ w.detach().float()
    torch.testing.assert_close(found[i], answers, atol=1e-4, rtol=1e-4)


def test_adaptation_is_plain_descent_on_what_is_known() -> None:
    it = bench()
    them, model = cold_start.users(it.parts.test, TINY), it.model(3)
    phi = torch.cat([p.detach().flatten() for p in model.parameters()])
    found = it.answers(phi, them, 0.1, 2)
    none = it.answers(phi, them)
    film, about = it.films.about(them.asked_film, 2.0)
    torch.testing.assert_close(none[0], model(film[0], about[0])[:, 0])
    known_film, known_about = it.films.about(them.film, 2.0)
    descent = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        descent.zero_grad()
        wrong = model(known_film[0], known_about[0])[:, 0] - them.stars[0]
        wrong.square().mean().backward()
        descent.step()
    torch.testing.assert_close(found[0], model(film[0], about[0])[:, 0])


@pytest.mark.slow
def test_records_say_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = bench()
    monkeypatch.setattr(cold_start, "split", lambda seed, study: (it.parts, it.films))
    (scored,) = cold_start.record([0], tmp_path, TINY)
    choice = records.read_one(tmp_path / ROW / "choice-0.json")
    assert choice["config"] == scored["config"] == TINY.as_dict()
    assert choice["chosen"]["joint"]["times"] in (1, 2)
    assert choice["chosen"][REPTILE]["steps"] in (1, 2)
    for metric, sign in (("squared_error", -1), ("ndcg", 1)):
        scores = scored["metrics"][metric]
        assert set(scores) == set(METHODS)
        for score in scores.values():
            gap = sign * (scores[REPTILE]["mean"] - score["mean"])
            assert score["ahead"] == pytest.approx(gap, abs=1e-6)
    assert scored["users"] == 5
    assert [line[0] for line in cold_start.table(tmp_path)] == [*METHODS]
    assert cold_start.table(tmp_path / "nothing") == []
    with pytest.raises(UserError, match="other settings"):
        cold_start.record([0], tmp_path)


@pytest.mark.needs_data("movielens")
def test_the_published_users_are_split() -> None:
    found, films = cold_start.split(0, Study())
    them = cold_start.users(found.test, Study())
    assert them.film.shape == (122, 10)
    assert them.asked.sum(1).min() >= 10
    assert films.counts[films.row > 0].min() >= 5
    tested, trained = len(found.test.names), len(found.train.names)
    assert tested / trained == Study().overlap
