"""Schedules: how large the outer step ε is as training goes on."""

import math

from reptile_lib.errors import UserError
from reptile_lib.meta import Schedule


def constant(epsilon: float) -> Schedule:
    """Keep ε as it is."""
    return linear(epsilon, epsilon)


def linear(start: float, end: float) -> Schedule:
    """Move ε from `start` to `end` in equal steps; the paper's schedule is 1 to 0.

    >>> epsilon = linear(1.0, 0.0)
    >>> [epsilon(done) for done in (0.0, 0.25, 0.5)]
    [1.0, 0.75, 0.5]
    """
    for epsilon in (start, end):
        if not math.isfinite(epsilon) or epsilon < 0:
            raise UserError(f"epsilon = {epsilon}; give a number that is not negative")
    return lambda done: start + done * (end - start)


def cosine(start: float, end: float) -> Schedule:
    """Move ε from `start` to `end` along half a cosine, slowly at both ends.

    Loshchilov & Hutter 2017, without their restarts.
    """
    line = linear(start, end)
    return lambda done: line((1 - math.cos(math.pi * done)) / 2)
