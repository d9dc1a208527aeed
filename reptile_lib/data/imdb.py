"""IMDB: 50,000 film reviews, against a film or for it."""

import numpy as np

from reptile_lib.data import sentences
from reptile_lib.reading.archive import csv_rows, damage_told, members, unpacked
from reptile_lib.reading.arrays import Arrays, Paths, Source, site
from reptile_lib.reading.parts import About, Parts, check_range
from reptile_lib.reading.texts import Texts

Review = tuple[int, int, int, str]  # group, number in it, rating, text

ABOUT = About(
    "25,000 film reviews for training, 25,000 of other films for testing, in each half"
    " as many against (neg) as for (pos) the film; the parts share these two classes",
    "not stated; the authors ask to cite their paper",
    "Maas, Daly, Pham, Huang, Ng, Potts 2011, ACL, aclanthology.org/P11-1015",
    "https://ai.stanford.edu/~amaas/data/sentiment/",
)
FILES = {"aclImdb_v1.tar.gz": "7c2ac02c03563afcf9b574c7e56c153a"}
MOST = 500_000_000  # bytes of all that is in the archive
NAMES = ("neg", "pos")
GROUPS = ("train/neg", "train/pos", "test/neg", "test/pos")


def load(val_reviews: int = 0) -> Parts[Texts]:
    """Return the reviews: classes "neg" and "pos" in every part, not disjoint ones.

    They are as published, with "<br />" for new lines, in the order of their numbers.
    Of the training half the last `val_reviews` of each class are set aside for
    validation; by default none, and `val` has no class.

    295 reviews repeat another of their half and class; 123 of the test half also stand
    in the training half, with the same class.

    Raises:
        UserError: `val_reviews` is not in 0..12499, or the data cannot be had.
    """
    neg, pos, *test = sentences.classes_of(SOURCE).values()
    check_range("val_reviews", val_reviews, 0, len(neg) - 1)
    cut = len(neg) - val_reviews
    held = Texts((neg[cut:], pos[cut:]), NAMES) if val_reviews else Texts((), ())
    return Parts(Texts((neg[:cut], pos[:cut]), NAMES), held, Texts(tuple(test), NAMES))


def read(paths: Paths) -> Arrays:
    """Read aclImdb_v1.tar.gz: files such as "aclImdb/test/pos/200_8.txt"."""
    found: list[Review] = []
    pattern = r"aclImdb/(train|test)/(neg|pos)/\d+_\d+\.txt"
    for name, content in members(paths[0], pattern, MOST):
        _, half, label, stem = name.removesuffix(".txt").split("/")
        number, rating = map(int, stem.split("_"))
        group = GROUPS.index(f"{half}/{label}")
        found.append((group, number, rating, content.decode()))
    return _arrays(found)


def read_packed(paths: Paths) -> Arrays:
    """Read imdb_train.csv.xz and imdb_test.csv.xz: id, rating, label (0, 1), text."""
    found: list[Review] = []
    for path, half in zip(paths, (0, 2), strict=True):
        with damage_told(path):
            for row in csv_rows(unpacked(path, MOST)):
                group = half + "01".index(row["label"])
                found.append((group, int(row["id"]), int(row["rating"]), row["text"]))
    return _arrays(found)


def _arrays(reviews: list[Review]) -> Arrays:
    reviews = sorted(reviews)
    classes: dict[str, list[str]] = {name: [] for name in GROUPS}
    for group, _, _, text in reviews:
        classes[GROUPS[group]].append(text)
    rating = np.array([rating for _, _, rating, _ in reviews], np.uint8)
    return {**sentences.pack_classes(classes), "rating": rating}


SOURCE = Source(
    "imdb",
    "b3a819f564d6a9f6e4f415ad3e0652a609ae68625bf3bdecd7fa27824bf9fc6f",
    site("https://ai.stanford.edu/~amaas/data/sentiment", 100_000_000, FILES),
    read,
    ("imdb/imdb_train.csv.xz", "imdb/imdb_test.csv.xz"),
    read_packed,
)
