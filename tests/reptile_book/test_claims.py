"""Claims."""

import pytest

from reptile_book.claims import claim
from reptile_lib import UserError


def test_a_true_claim_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    claim("Reptile beats joint training", True)
    assert capsys.readouterr().out == "holds: Reptile beats joint training\n"


def test_a_false_claim_fails_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError, match="does not hold: the sun is cold"):
        claim("the sun is cold", False)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("statement", ["above 90 %", "٣ steps"])
def test_a_digit_is_refused(statement: str) -> None:
    with pytest.raises(UserError, match="has a digit"):
        claim(statement, True)
