"""MovieLens (ml-latest-small): what 610 people thought of films."""

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.reading import arrays
from reptile_lib.reading.archive import contents, csv_rows
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


def split(
    source: arrays.Source, seed: int, val_users: int, test_users: int
) -> Parts[Ratings]:
    """Do what `load` does, with the ratings of any source."""
    found = arrays.arrays_of(source)
    user, film, time = torch.from_numpy(found["rated"])
    stars = torch.from_numpy(found["stars"])[:, None]
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


def films(source: arrays.Source | None = None) -> Films:
    """Return titles and genres of the films, by their numbers in the published files.

    Raises:
        UserError: the data cannot be had (`arrays.arrays_of`).
    """
    found = arrays.arrays_of(source or SOURCE)
    texts = arrays.unpack_texts(found["films"], found["film_ends"])
    titles, lists = zip(*(text.split("\n") for text in texts), strict=True)
    own = [set(text.split("|")) - {"(no genres listed)"} for text in lists]
    names = tuple(sorted(set().union(*own)))
    genres = torch.tensor([[name in some for name in names] for some in own])
    return Films(titles, genres, names)


def read(paths: arrays.Paths) -> arrays.Arrays:
    """Return a zip file's ratings by user, time and film, and its films by number."""
    files = contents(paths, r"ml-latest-small/(movies|ratings)\.csv", 20_000_000)
    movies, ratings = (
        list(csv_rows(files[name][1])) for name in ("movies.csv", "ratings.csv")
    )
    movies.sort(key=lambda row: int(row["movieId"]))
    numbers = np.array([row["movieId"] for row in movies], np.int64)
    keys = "userId", "movieId", "timestamp"
    rated = np.array([[row[key] for row in ratings] for key in keys], np.int64)
    stars = np.array([row["rating"] for row in ratings], np.float32)
    order = np.lexsort(rated[[1, 2, 0]])
    rated[1] = np.searchsorted(numbers, rated[1])
    about = [f"{row['title']}\n{row['genres']}" for row in movies]
    texts, ends = arrays.pack_texts(about)
    rated, stars = rated[:, order], stars[order]
    return {"rated": rated, "stars": stars, "films": texts, "film_ends": ends}


URL = "https://files.grouplens.org/datasets/movielens"
FILE = "ml-latest-small.zip"
DIGEST = "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
SOURCE = arrays.Source(
    "movielens",
    "e6a46a042ee5bb5879ec2a250bc4065ae98a70737a88756ba807e0fea948eafe",
    arrays.site(URL, 2_000_000, {FILE: DIGEST}),
    read,
    (f"movielens/{FILE}",),
)
