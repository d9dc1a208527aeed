"""Claims: what a notebook asserts, printed for readers and enforced by the tests."""

import re

from reptile_lib.errors import UserError


def claim(statement: str, holds: bool) -> None:
    """Print `statement` if it holds, fail otherwise.

    Numbers differ a little from machine to machine, so a statement has none; the band
    that makes it true stands in the code of `holds`.

    Raises:
        AssertionError: the claim does not hold.
        UserError: the statement contains a digit.
    """
    if re.search(r"\d", statement):
        raise UserError(
            f"the claim {statement!r} has a digit; put numbers into the code"
        )
    if not holds:
        raise AssertionError(f"does not hold: {statement}")
    print(f"holds: {statement}")
