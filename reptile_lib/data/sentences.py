"""Sentences of named classes: as the arrays that are kept, and in three parts."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from reptile_lib.errors import UserError
from reptile_lib.reading import arrays
from reptile_lib.reading.archive import damage_told, members, unpacked
from reptile_lib.reading.parts import Parts
from reptile_lib.reading.texts import Texts

MOST = 20_000_000  # bytes of a file, and of all that is in an archive


@contextmanager
def layout_told(path: Path) -> Iterator[None]:
    """Let a file laid out otherwise than the published one end as a damaged one."""
    with damage_told(path):
        try:
            yield
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"laid out otherwise: {error!r}") from error


def contents(
    paths: Sequence[Path], names: Sequence[str]
) -> Iterator[tuple[Path, bytes]]:
    """Yield path and content of the official files of these names, or of their zip."""
    if len(paths) == len(names):
        yield from ((path, unpacked(path, MOST)) for path in paths)
    else:
        found = dict(members(paths[0], "|".join(map(re.escape, names)), MOST))
        with layout_told(paths[0]):
            yield from [(paths[0], found[name]) for name in names]


def csv_rows(content: bytes) -> Iterator[dict[str, str]]:
    """Yield the rows of a UTF-8 CSV file; fields keep their spaces and newlines."""
    text = io.StringIO(content.decode(), newline="")
    for row in csv.DictReader(text, strict=True):
        if None in row or None in row.values():
            raise ValueError(f"a row of {len(row)} fields: {row}"[:80])
        yield row


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
    if split not in range(1, len(splits) + 1):
        raise UserError(f"split is {split}: choose from 1 to {len(splits)}")
    chosen = list(zip(classes, splits[split - 1], strict=True))
    parts = ([name for name, digit in chosen if digit == part] for part in "012")
    return Parts(*(Texts(tuple(classes[n] for n in own), tuple(own)) for own in parts))
