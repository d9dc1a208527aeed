"""Splits of one's own classes into training, validation and test."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from copy import copy
from hashlib import blake2b
from typing import NamedTuple

import torch

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits, each


class Names(NamedTuple):
    """The names of the classes of each split, to be written down."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def split_names(
    names: Iterable[str], *, val: float = 0.2, test: float = 0.2, seed: int = 0
) -> Names:
    """Share out classes by their names.

    They are ordered by a hash of seed and name, so that neither the order in which they
    come nor the machine matters. The first are for testing, the next for validation; a
    share above 0 gets at least one class.

    >>> split_names(["ant", "bee", "cat", "dog", "eel"])
    Names(train=('bee', 'dog', 'eel'), val=('cat',), test=('ant',))

    Raises:
        UserError: a name comes twice, or the shares leave nothing to train on.
    """
    given = list(names)
    if twice := Counter(given) - Counter(set(given)):
        raise UserError(f"class {min(twice)!r} comes twice; rename one of the two")
    if min(val, test) < 0 or val + test >= 1:
        raise UserError(
            f"val = {val}, test = {test}; give shares from 0, below 1 in all"
        )

    def place(name: str) -> tuple[bytes, str]:
        text = unicodedata.normalize("NFC", f"{seed} {name}")  # as file systems differ
        return blake2b(text.encode("utf-8", "surrogatepass")).digest(), name

    order = sorted(given, key=place)
    tested, checked = (
        max(1, round(share * len(order))) if share else 0 for share in (test, val)
    )
    if tested + checked >= len(order):
        raise UserError(
            f"{len(order)} classes cannot be shared out as val = {val}, test = {test};"
            " give more classes, or smaller shares"
        )
    cuts = order[tested + checked :], order[tested : tested + checked], order[:tested]
    return Names(*(tuple(n for n in given if n in cut) for cut in map(set, cuts)))


def split_classes(
    classes: Examples, *, val: float = 0.2, test: float = 0.2, seed: int = 0
) -> Splits:
    """Split classes as `split_names` does; turn pictures (`rotated`) after that.

    Names that were written down give the same, by `only` for each part of them.
    """
    parts = split_names(classes.names, val=val, test=test, seed=seed)
    return Splits(*(only(classes, names) for names in parts))


def only(
    classes: Examples, names: Iterable[str] | None = None, *, at_least: int = 1
) -> Examples:
    """Return the classes of these names (None: all) that have `at_least` examples.

    Raises:
        UserError: there is no class of such a name.
    """
    wanted = set(classes.names if names is None else names)
    if absent := sorted(wanted.difference(classes.names)):
        raise UserError(
            f"there is no class {absent[0]!r}; give names of the {len(classes)} classes"
        )
    counts = torch.tensor(classes.counts, dtype=torch.int64)
    named = torch.tensor([name in wanted for name in classes.names], dtype=torch.bool)
    keep = named & (counts >= at_least)
    rows = keep.repeat_interleave(counts)
    kept = copy(classes)
    for name, value in {
        "pool": each(lambda x: x[rows.to(x.device)], classes.pool),
        "names": tuple(classes.names[i] for i in keep.nonzero().flatten()),
        "counts": tuple(counts[keep].tolist()),
    }.items():
        object.__setattr__(kept, name, value)
    return kept
