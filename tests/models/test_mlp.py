"""Multi-layer perceptrons."""

import pytest
import torch
from torch import nn

from reptile_lib import UserError, mlp
from reptile_lib.params import layout, ravel


def test_mlp() -> None:
    model = mlp(1, 64, 64, 1)
    assert len(ravel(model)) == 128 + 64 * 65 + 65
    assert isinstance(model, nn.Sequential)
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert layout(model).shapes[0] == (64, 1)
    for m in model:
        if isinstance(m, nn.Linear):
            assert m.weight.abs().max() <= m.in_features**-0.5
    smooth = mlp(2, 3, 1, activation=nn.Tanh)
    assert [m for m in smooth.modules() if isinstance(m, nn.Tanh)]
    with pytest.raises(UserError, match="at least an input and an output size"):
        mlp(3)


def test_a_seed_fixes_the_start_and_nothing_else_is_touched() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = ravel(mlp(1, 8, 8, 1, seed=7))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, ravel(mlp(1, 8, 8, 1, seed=7)))
    assert not torch.equal(first, ravel(mlp(1, 8, 8, 1, seed=8)))
