"""The dense network's gradient written out, against autograd through the module."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reptile_lib import Batch, conv4, mlp
from reptile_lib.engine import make_loss
from reptile_lib.mlp_gradient import MlpLoss, applies
from reptile_lib.params import ravel
from tests import textbook


@given(
    n=st.integers(1, 4),
    batch=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    activation=st.sampled_from([nn.Tanh, nn.ReLU]),
    seed=st.integers(0, 9),
)
def test_gradient_is_autograds(
    n: int, batch: int, sizes: list[int], activation: type[nn.Module], seed: int
) -> None:
    models = [
        mlp(*sizes, activation=activation, seed=seed + i).double() for i in range(n)
    ]
    loss, _ = make_loss(models[0], F.mse_loss)
    assert isinstance(loss, MlpLoss)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, batch, sizes[0], generator=g, dtype=torch.float64)
    y = torch.randn(n, batch, sizes[-1], generator=g, dtype=torch.float64)
    theta = torch.stack([ravel(m) for m in models])
    found, losses = loss.gradient(theta, Batch(x, y))
    for i, model in enumerate(models):
        expected = textbook.gradient(model, F.mse_loss, x[i], y[i])
        torch.testing.assert_close((found[i], losses[i]), expected, rtol=0, atol=1e-11)
    assert torch.equal(theta, torch.stack([ravel(m) for m in models]))


@pytest.mark.parametrize(
    "model",
    [
        conv4(5),
        nn.Linear(2, 1),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh()),
        nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1)),
        nn.Sequential(
            nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)
        ),
    ],
)
def test_it_applies_to_nothing_else(model: nn.Module) -> None:
    assert not applies(model, F.mse_loss)
    assert not applies(mlp(1, 2, 1), F.l1_loss)
    assert applies(mlp(1, 2, 1), F.mse_loss)
