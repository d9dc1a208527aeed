"""A parameter set as one vector."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reptile_lib import UserError, conv4, mlp
from reptile_lib.params import interpolate, layout, ravel, unravel

floats = st.floats(-1e6, 1e6, width=32)
vectors = st.lists(st.tuples(floats, floats), min_size=1, max_size=8).map(
    lambda rows: torch.tensor(rows).unbind(1)
)


@pytest.mark.parametrize("model", [mlp(2, 3, 1), conv4(ways=3, size=8)])
def test_unravel_undoes_ravel_name_by_name(model: nn.Module) -> None:
    phi = ravel(model)
    named = unravel(phi, layout(model))
    assert len(phi) == sum(p.numel() for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(named.pop(name), parameter)
    assert not named


def test_ravel_copies_and_unravel_is_differentiable() -> None:
    model = mlp(2, 3, 1)
    phi = ravel(model)
    assert not phi.requires_grad
    phi.zero_()
    assert ravel(model).abs().sum() > 0
    phi.requires_grad_()
    unravel(phi, layout(model))["2.weight"].sum().backward()
    assert phi.grad is not None
    assert phi.grad.tolist() == 9 * [0] + 3 * [1] + [0]  # 6 + 3 below, 3, 1 above


@given(vectors)
def test_interpolate_ends_exactly_at_both_ends(pair: tuple[Tensor, Tensor]) -> None:
    phi, target = pair
    assert torch.equal(interpolate(phi, target, 0.0), phi)
    assert torch.equal(interpolate(phi, target, 1.0), target)


@given(vectors, st.floats(0, 1))
def test_interpolate_goes_a_share_epsilon_of_the_way(
    pair: tuple[Tensor, Tensor], epsilon: float
) -> None:
    phi, target = (v.double() for v in pair)
    expected = phi + epsilon * (target - phi)
    moved = interpolate(phi, target, epsilon)
    assert torch.allclose(moved, expected, rtol=1e-12, atol=1e-8)


def test_interpolate_moves_towards_the_target() -> None:
    phi, target = torch.tensor([0.0, 8.0]), torch.tensor([4.0, 0.0])
    assert interpolate(phi, target, 0.25).tolist() == [1.0, 6.0]


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no parameters"):
        ravel(nn.ReLU())
    with pytest.raises(UserError, match=r"float64.*float32.*give all parameters one"):
        ravel(nn.Sequential(nn.Linear(1, 1).double(), nn.Linear(1, 1)))
    with pytest.raises(UserError, match=r"shape \[5\], the model needs \[4\]"):
        unravel(torch.zeros(5), layout(mlp(1, 2)))
    with pytest.raises(UserError, match=r"shape \[2, 4\]"):
        unravel(torch.zeros(2, 4), layout(mlp(1, 2)))
