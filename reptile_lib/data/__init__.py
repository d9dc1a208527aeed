"""Data sets, each as three sets of classes: ``load("glyphs")``."""

from reptile_lib.data import glyphs
from reptile_lib.data.classes import Classes, Splits
from reptile_lib.errors import UserError

__all__ = ["Classes", "Splits", "load"]

LOADERS = {"glyphs": glyphs.load}


def load(name: str) -> Splits:
    """Return a data set by its name."""
    if name not in LOADERS:
        known = ", ".join(sorted(LOADERS))
        raise UserError(f"unknown data set {name!r}: choose one of {known}")
    return LOADERS[name]()
