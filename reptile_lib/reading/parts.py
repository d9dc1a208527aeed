"""What data sets are made of, besides classes of examples."""

from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs

T = TypeVar("T")


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise a UserError if an option is not in least..most."""
    if not least <= value <= most:
        raise UserError(f"{name} is {value}: choose from {least} to {most}")


class Parts(NamedTuple, Generic[T]):
    """Three parts that share no class, user, speaker or sign, as `Splits` of examples.

    `train` is for meta-training, `val` for choosing settings, `test` for the one number
    that is reported.
    """

    train: T
    val: T
    test: T


class Rows(NamedTuple):
    """Rows of a table in groups: ``GroupTasks(*rows[:3], shots=5)``."""

    x: Inputs
    """[rows, ...], or a tuple of such."""
    y: Tensor
    """[rows] labels, or [rows, ...] values to predict."""
    group: Tensor
    """int64 [rows], an index of `names`."""
    names: tuple[str, ...]
    """One a group."""


class About(NamedTuple):
    """What a user should know of a data set before using it."""

    holds: str
    """In one line: what, how many, and how it is split."""
    licence: str
    """As its source states it."""
    cite: str
    source: str
    """The address of the official source."""
