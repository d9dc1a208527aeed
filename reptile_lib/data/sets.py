"""Data sets by name: ``load("glyphs")``."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

from reptile_lib.data import (
    banking77,
    cifar10,
    cifar_fs,
    clinc150,
    cora,
    fsdd,
    glyphs,
    gtsrb,
    huffpost,
    imdb,
    mnist,
    movielens,
    nab,
    omniglot,
    requests,
    scikit,
)
from reptile_lib.errors import UserError
from reptile_lib.examples import Splits
from reptile_lib.reading import arrays
from reptile_lib.reading.arrays import Source
from reptile_lib.reading.parts import About


class DataSet(NamedTuple):
    """How a data set is loaded, and what there is to know of it."""

    load: Callable[..., Any]
    about: About
    sources: tuple[Source, ...] = ()
    """Of all its arrays; none if the set needs no download."""


SETS = {
    "glyphs": DataSet(glyphs.load, glyphs.ABOUT),
    "omniglot": DataSet(omniglot.load, omniglot.ABOUT, (omniglot.SOURCE,)),
    "mnist": DataSet(mnist.load, mnist.ABOUT, (mnist.SOURCE,)),
    "cifar10": DataSet(cifar10.load, cifar10.ABOUT, (cifar10.SOURCE,)),
    "cifar-fs": DataSet(cifar_fs.load, cifar_fs.ABOUT, (cifar_fs.SOURCE,)),
    "cifar-fs-256": DataSet(cifar_fs.load_256, cifar_fs.PART, (cifar_fs.SOURCE_256,)),
    "gtsrb": DataSet(gtsrb.load, gtsrb.ABOUT, (gtsrb.SOURCE,)),
    "gtsrb-part": DataSet(gtsrb.load_part, gtsrb.PART, (gtsrb.SOURCE_PART,)),
    "clinc150": DataSet(clinc150.load, clinc150.ABOUT, (clinc150.SOURCE,)),
    "banking77": DataSet(banking77.load, banking77.ABOUT, (banking77.SOURCE,)),
    "huffpost": DataSet(huffpost.load, huffpost.ABOUT, (huffpost.SOURCE,)),
    "imdb": DataSet(imdb.load, imdb.ABOUT, (imdb.SOURCE,)),
    "fsdd": DataSet(fsdd.load, fsdd.ABOUT, (fsdd.SOURCE,)),
    "movielens": DataSet(movielens.load, movielens.ABOUT, (movielens.SOURCE,)),
    "nab": DataSet(nab.load, nab.ABOUT, (nab.SOURCE,)),
    "cora": DataSet(cora.load, cora.ABOUT, (cora.SOURCE,)),
    "requests": DataSet(requests.load, requests.ABOUT),
    "digits": DataSet(scikit.load_digits, scikit.DIGITS),
    "breast-cancer": DataSet(scikit.load_breast_cancer, scikit.CANCER),
}
Pictures = Literal[
    "glyphs", "omniglot", "cifar-fs", "cifar-fs-256", "gtsrb", "gtsrb-part", "digits"
]
"""Sets that are classes of pictures."""


@overload
def load(name: Pictures, **options: float) -> Splits: ...
@overload
def load(name: str, **options: Any) -> Any: ...
def load(name: str, **options: Any) -> Any:
    """Return a data set, by its name: mostly as three parts (train, val, test).

    ``load("glyphs")`` is embedded and takes no options;
    ``load("omniglot", seed=0, val_classes=0)`` is downloaded once. What others return
    says the `load` of their module; ``python -m reptile_lib data list`` names them.

    >>> train, val, test = load("glyphs")
    >>> len(train), len(val), len(test), train.names[0]
    (1205, 133, 129, 'Latin/U+0041')

    Raises:
        UserError: no data set has this name, or it does not take such an option; or the
            data cannot be had, as the data set's own `load` says.
    """
    if name not in SETS:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(SETS)}")
    known = ", ".join(inspect.signature(SETS[name].load).parameters) or "none"
    for option in options:
        if option not in known.split(", "):
            raise UserError(f"{name} has no option {option!r}: its options are {known}")
    return SETS[name].load(**options)


def at_hand(name: str) -> bool:
    """Say whether a set can be loaded without a network."""
    return all(map(arrays.at_hand, SETS[name].sources))
