"""MovieLens: a small table of ratings, and the published one where it is at hand."""

from pathlib import Path

import pytest
import torch

from reptile_lib import GroupTasks, UserError, load
from reptile_lib.data import movielens
from reptile_lib.data.movielens import Films, Ratings
from reptile_lib.reading.arrays import Source
from reptile_lib.reading.parts import Parts
from tests.data.ways import complaint, damaged, from_packed, from_site, small, zipped

PACKED = "movielens/ml-latest-small.zip"
MOVIES = (
    "movieId,title,genres\n"
    "7,Sabrina (1995),Comedy|Romance\n"
    '2,"Misérables, Les (1995)",Drama\n'
    '900,"""Great"" Trip",(no genres listed)\n'
)
STARS = {  # user, movie: stars, time
    (1, 7): (4.5, 900),
    (1, 2): (0.5, 800),
    (1, 900): (3.0, 800),
    (30, 2): (5.0, 100),
    (30, 7): (1.0, 50),
    (4, 900): (2.0, 7),
}


def files(movies: str = MOVIES, eol: str = "\n") -> dict[str, bytes]:
    rows = [f"{u},{m},{stars},{time}" for (u, m), (stars, time) in STARS.items()]
    ratings = "\n".join(["userId,movieId,rating,timestamp", *rows, ""])
    texts = {"movies": movies, "ratings": ratings, "README": "Summary"}
    return {
        f"ml-latest-small/{name}.csv": text.replace("\n", eol).encode()
        for name, text in texts.items()
    }


@pytest.fixture
def source(tmp_path: Path) -> Source:
    official = {"ml-latest-small.zip": zipped(files(eol="\r\n"))}
    return small(movielens.SOURCE, official, tmp_path)


def both(source: Source) -> tuple[Parts[Ratings], Films]:
    return movielens.split(source, 0, 1, 1), movielens.films(source)


def test_both_ways_lead_to_the_same_ratings(source: Source, tmp_path: Path) -> None:
    ways = [
        from_site(source, tmp_path, both),
        from_packed(source, {PACKED: zipped(files())}, tmp_path, both),
    ]
    for found, films in ways:
        assert films.titles == (
            "Misérables, Les (1995)",
            "Sabrina (1995)",
            '"Great" Trip',
        )
        assert films.names == ("Comedy", "Drama", "Romance")
        assert films.genres.int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
        numbers, seen = (2, 7, 900), {}
        for part in found:
            assert len(part.names) == 1
            assert part.y.dtype == torch.float32
            assert part.y.shape == (len(part.x), 1)
            rows = zip(part.group, part.x, part.y[:, 0], part.time, strict=True)
            for user, film, stars, time in rows:
                which = int(part.names[user]), numbers[film]
                seen[which] = float(stars), int(time)
            times = list(zip(part.time.tolist(), part.x.tolist(), strict=True))
            assert times == sorted(times)
        assert seen == STARS
        assert len({part.names for part in found}) == 3


def test_users_are_set_aside_by_seed(source: Source, tmp_path: Path) -> None:
    def users(seed: int, val: int, test: int) -> list[tuple[str, ...]]:
        def act(some: Source) -> list[tuple[str, ...]]:
            return [part.names for part in movielens.split(some, seed, val, test)]

        return from_site(source, tmp_path, act)

    assert users(3, 0, 1)[1] == ()
    assert users(3, 1, 1) == users(3, 1, 1)
    assert len({tuple(users(seed, 1, 1)) for seed in range(20)}) == 6  # all orders
    assert users(3, 0, 0)[0] == ("1", "4", "30")
    for val, test in ((-1, 1), (1, 2), (0, 3)):
        with pytest.raises(UserError, match=f"test_users = {test}: .* fewer than 3"):
            users(0, val, test)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, how: str) -> None:
    more = "".join(f"{n},Film {n * 7919 % 10_007},Drama\n" for n in range(1000, 1100))
    content = damaged(zipped(files(MOVIES + more)))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    "movies",
    ["", "movieId,title\n7,Sabrina\n", "movieId,title,genres\nx,Sabrina,Drama\n"],
)
def test_a_table_laid_out_otherwise_is_noticed(
    source: Source, tmp_path: Path, movies: str
) -> None:
    content = zipped(files(movies))
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


def test_a_table_that_is_not_there_is_named(source: Source, tmp_path: Path) -> None:
    content = zipped({"ml-latest-small/movies.csv": MOVIES.encode()})
    told = complaint(source, {PACKED: content}, tmp_path)
    assert "there is no 'ratings.csv' in it" in told


@pytest.mark.needs_data("movielens")
@pytest.mark.usefixtures("cache")
def test_the_published_ratings() -> None:
    parts = load("movielens")
    assert [len(part.names) for part in parts] == [427, 61, 122]
    assert len({name for part in parts for name in part.names}) == 610
    assert sum(len(part.x) for part in parts) == 100_836
    whole = load("movielens", val_users=0, test_users=0).train
    rows = torch.stack([whole.group, whole.time, whole.x], 1).tolist()
    assert rows == sorted(rows)
    assert sorted({*whole.y[:, 0].tolist()}) == [n / 2 for n in range(1, 11)]
    assert whole.y.mean().item() == pytest.approx(3.501557, abs=1e-6)
    counts = torch.bincount(whole.group)
    assert [int(counts.min()), int(counts.max())] == [20, 2698]
    films = movielens.films()
    assert len(films.titles) == 9742
    assert films.genres.sum(0).max() == 4361  # dramas
    assert "(no genres listed)" not in films.names
    # of user 1, the earliest two, at once, and the next
    assert [films.titles[film] for film in whole.x[:3]] == [
        "She's the One (1996)",
        "Star Wars: Episode VI - Return of the Jedi (1983)",
        "Bambi (1942)",
    ]
    assert whole.y[:3, 0].tolist() == [4.0, 5.0, 5.0]
    x, y, group = parts.test[:3]
    episodes = GroupTasks(x, y, group, shots=10, query_shots=10).draw(3)
    assert episodes.support.y.shape == (3, 10, 1)
