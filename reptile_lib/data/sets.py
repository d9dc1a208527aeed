"""Data sets, each as three sets of classes: ``load("glyphs")``."""

import inspect

from reptile_lib.data import glyphs, omniglot
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits

__all__ = ["DATASETS", "Examples", "Splits", "load"]

DATASETS = {"glyphs": glyphs.load, "omniglot": omniglot.load}


def load(name: str, **options: int) -> Splits:
    """Return a data set as (train, val, test), by its name.

    ``load("glyphs")`` is embedded and takes no options;
    ``load("omniglot", seed=0, val_classes=0)`` is downloaded once.

    >>> train, val, test = load("glyphs")
    >>> len(train), len(val), len(test), train.names[0]
    (1205, 133, 129, 'Latin/U+0041')

    Raises:
        UserError: no data set has this name, or it does not take such an option; or the
            data cannot be had, as the data set's own `load` says.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise UserError(f"unknown data set {name!r}: choose one of {known}")
    known = ", ".join(inspect.signature(DATASETS[name]).parameters) or "none"
    for option in options:
        if option not in known.split(", "):
            raise UserError(f"{name} has no option {option!r}: its options are {known}")
    return DATASETS[name](**options)
