"""Sentences of named classes: as the arrays that are kept, and in three parts."""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from reptile_lib.reading import arrays
from reptile_lib.reading.parts import Parts, check_range
from reptile_lib.reading.texts import Texts

MOST = 20_000_000  # bytes of a file, and of all that is in an archive


def pack_classes(classes: Mapping[str, Sequence[str]]) -> arrays.Arrays:
    """Return as arrays: all texts, all names, and the number of texts of each name."""
    text, ends = arrays.pack_texts([text for own in classes.values() for text in own])
    name, name_ends = arrays.pack_texts(list(classes))
    counts = np.array([len(own) for own in classes.values()], np.int64)
    found: arrays.Arrays = {"text": text, "name": name, "counts": counts}
    return {**found, "ends": ends, "name_ends": name_ends}


def classes_of(source: arrays.Source) -> dict[str, tuple[str, ...]]:
    """Return the classes of a data set, whose arrays `pack_classes` made.

    Raises:
        UserError: the arrays cannot be had, as `arrays_of` says.
    """
    found = arrays.arrays_of(source)
    texts = iter(arrays.unpack_texts(found["text"], found["ends"]))
    names = arrays.unpack_texts(found["name"], found["name_ends"])
    counts = found["counts"].tolist()
    return {n: tuple(islice(texts, k)) for n, k in zip(names, counts, strict=True)}


def shared_out(
    classes: Mapping[str, tuple[str, ...]], splits: Sequence[str], split: int = 1
) -> Parts[Texts]:
    """Split classes as published.

    Args:
        classes: the sentences of each class.
        splits: each a digit per class: 0 for train, 1 for val, 2 for test.
        split: which of them, from 1 on.

    Raises:
        UserError: there is no such split.
    """
    check_range("split", split, 1, len(splits))
    chosen = list(zip(classes, splits[split - 1], strict=True))
    parts = ([name for name, digit in chosen if digit == part] for part in "012")
    return Parts(*(Texts(tuple(classes[n] for n in own), tuple(own)) for own in parts))
