"""Schedules of the outer step."""

import pytest

from reptile_lib import UserError, constant, cosine, linear


def test_schedules() -> None:
    anneal = linear(1.0, 0.0)
    assert [anneal(done) for done in (0, 0.25, 0.5, 0.75)] == [1, 0.75, 0.5, 0.25]
    assert linear(0.5, 0.1)(0.5) == pytest.approx(0.3)
    assert {constant(0.1)(done / 7) for done in range(7)} == {0.1}
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"epsilon = {bad}; give a number"):
            linear(1.0, bad)
        with pytest.raises(UserError, match=f"epsilon = {bad}; give a number"):
            constant(bad)


def test_cosine_starts_ends_and_stands_in_the_middle_where_it_must() -> None:
    epsilon = cosine(1.0, 0.2)
    assert [epsilon(done) for done in (0, 1 / 3, 1 / 2, 2 / 3, 1)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, 0.2]
    )
    with pytest.raises(UserError, match="epsilon = -1"):
        cosine(1.0, -1)
