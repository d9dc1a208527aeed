"""MovieLens (ml-latest-small): what 610 people thought of films."""

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.reading.archive import damage_told, members
from reptile_lib.reading.arrays import (
    Arrays,
    Source,
    arrays_of,
    pack_texts,
    unpack_texts,
)
from reptile_lib.reading.fetch import Remote
from reptile_lib.reading.parts import About, Parts

ABOUT = About(
    "100,836 ratings of 9,742 films by 610 users, 20 to 2,698 each; users set aside by"
    " seed",
    "GroupLens's terms: for research, not commercially without permission",
    "Harper, Konstan 2015, ACM Transactions on Interactive Intelligent Systems 5(4):19",
    "https://grouplens.org/datasets/movielens/latest",
)


class Ratings(NamedTuple):
    """Ratings of some users; a task is a user: ``GroupTasks(*ratings[:3], shots=10)``.

    Those of a user stand in the order of their times.
    """

    x: Tensor
    """int64 [ratings], the film: an index of what `films` returns."""
    y: Tensor
    """float32 [ratings, 1], 0.5 to 5 stars."""
    group: Tensor
    """int64 [ratings], the user: an index of `names`."""
    names: tuple[str, ...]
    """The users' numbers in the published files."""
    time: Tensor
    """int64 [ratings], seconds since 1970 (UTC)."""


class Films(NamedTuple):
    """What is known of the films."""

    titles: tuple[str, ...]
    """"Toy Story (1995)": one per film; a few come twice."""
    genres: Tensor
    """bool [films, genres]"""
    names: tuple[str, ...]
    """One per genre."""


def load(seed: int = 0, val_users: int = 61, test_users: int = 122) -> Parts[Ratings]:
    """Return the ratings in three parts that share no user.

    The set has no such split of its own: users are shuffled with `seed`; the last are
    for testing, those before them for validation.

    Raises:
        UserError: no user is left to train; or the data cannot be had
            (`arrays.arrays_of`).
    """
    return split(SOURCE, seed, val_users, test_users)


def split(source: Source, seed: int, val_users: int, test_users: int) -> Parts[Ratings]:
    """Do what `load` does, with the ratings of any source."""
    arrays = arrays_of(source)
    user, film, time = torch.from_numpy(arrays["rated"])
    stars = torch.from_numpy(arrays["stars"])[:, None]
    order = torch.unique(user).tolist()
    if min(val_users, test_users) < 0 or val_users + test_users >= len(order):
        raise UserError(
            f"val_users = {val_users}, test_users = {test_users}: choose from 0,"
            f" and fewer than {len(order)} together"
        )
    random.Random(seed).shuffle(order)

    def part(some: list[int]) -> Ratings:
        users = torch.tensor(sorted(some), dtype=torch.int64)
        rows = torch.isin(user, users)
        group, names = torch.searchsorted(users, user[rows]), map(str, users.tolist())
        return Ratings(film[rows], stars[rows], group, tuple(names), time[rows])

    test = len(order) - test_users
    val = test - val_users
    return Parts(part(order[:val]), part(order[val:test]), part(order[test:]))


def films(source: Source | None = None) -> Films:
    """Return titles and genres of the films, by their numbers in the published files.

    Raises:
        UserError: the data cannot be had (`arrays.arrays_of`).
    """
    arrays = arrays_of(source or SOURCE)
    texts = unpack_texts(arrays["films"], arrays["film_ends"])
    titles, lists = zip(*(text.split("\n") for text in texts), strict=True)
    own = [set(text.split("|")) - {"(no genres listed)"} for text in lists]
    names = tuple(sorted(set().union(*own)))
    return Films(
        titles, torch.tensor([[n in some for n in names] for some in own]), names
    )


def read(paths: Sequence[Path]) -> Arrays:
    """Return a zip file's ratings by user, time and film, and its films by number."""
    (path,) = paths
    with damage_told(path):
        movies, titles, genres = _columns(path, "movies.csv")
        users, rated_movies, stars, times = _columns(path, "ratings.csv")
        numbers = np.array(movies, np.int64)
        rated = np.array([users, rated_movies, times], np.int64)
        by_number, by_user = np.argsort(numbers), np.lexsort(rated[[1, 2, 0]])
        rated[1] = np.searchsorted(numbers[by_number], rated[1])
        texts, ends = pack_texts([f"{titles[i]}\n{genres[i]}" for i in by_number])
        return {
            "rated": rated[:, by_user],
            "stars": np.array(stars, np.float32)[by_user],
            "films": texts,
            "film_ends": ends,
        }


def _columns(path: Path, name: str) -> list[tuple[str, ...]]:
    for _, content in members(path, f"ml-latest-small/{name}", 20_000_000):
        _, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
        return list(zip(*rows, strict=True))
    raise ValueError(f"there is no {name} in it")


SOURCE = Source(
    name="movielens",
    sha256="e6a46a042ee5bb5879ec2a250bc4065ae98a70737a88756ba807e0fea948eafe",
    remotes=(
        Remote(
            "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
            "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            2_000_000,
        ),
    ),
    read=read,
    packed=("movielens/ml-latest-small.zip",),
)
