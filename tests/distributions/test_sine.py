"""Sine waves."""

import math

import pytest
import torch
from torch import Tensor

from reptile_lib import (
    Sine,
    UserError,
)
from tests.kit import many, tensors


@pytest.mark.usefixtures("float64")
def test_sine_waves() -> None:
    support, query, _ = Sine(points=10, query_points=21).sample(many(4000))
    x, y, grid, values = tensors((support, query))
    assert x.shape == y.shape == (4000, 10, 1)
    assert -5 <= x.min() < -4.99
    assert 4.99 < x.max() < 5
    assert x.mean().abs() < 0.05
    assert torch.equal(grid[0, :, 0], torch.linspace(-5, 5, 21))

    # y = a sin(x + b) = (a cos b) sin x + (a sin b) cos x: two unknowns, ten equations
    def basis(x: Tensor) -> Tensor:
        return torch.cat([x.sin(), x.cos()], -1)

    solution = torch.linalg.lstsq(basis(x), y).solution
    torch.testing.assert_close(basis(x) @ solution, y)
    torch.testing.assert_close(basis(grid) @ solution, values, rtol=0, atol=1e-9)
    in_phase, quadrature = solution.squeeze(-1).unbind(1)
    amplitude = torch.hypot(in_phase, quadrature)
    phase = torch.atan2(quadrature, in_phase) % (2 * math.pi)
    for value, low, high in ((amplitude, 0.1, 5), (phase, 0, 2 * math.pi)):
        share = (value - low) / (high - low)
        assert -1e-9 < share.min() < 0.005
        assert 0.995 < share.max() < 1 + 1e-9
        bins = torch.bincount((share * 10).long().clamp(0, 9), minlength=10)
        assert ((bins - 400) ** 2 / 400).sum() < 38  # 9 d. o. f., p < 2e-5
    assert torch.corrcoef(torch.stack([amplitude, phase]))[0, 1].abs() < 0.06


def test_sine_waves_have_the_default_dtype() -> None:
    support, query, _ = Sine().sample(many(1))
    assert {t.dtype for t in tensors((support, query))} == {torch.float32}


def test_bad_settings_name_the_value_and_the_remedy() -> None:
    with pytest.raises(UserError, match="query_points = -1; give at least 1"):
        Sine(query_points=-1)
