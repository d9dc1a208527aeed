"""The dense network's gradient written out, against autograd through the module."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from reptile_lib import Batch, adapt, conv4, mlp, sgd
from reptile_lib.engine import make_loss
from reptile_lib.mlp_gradient import MlpLoss, applies
from reptile_lib.params import ravel
from tests import textbook

Criterion = Callable[[Tensor, Tensor], Tensor]
summed = partial(F.cross_entropy, reduction="sum")


def examples(
    shape: tuple[int, ...], answers: int, criterion: Criterion, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw inputs [tasks, examples, ...] and their answers."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    if criterion is not F.mse_loss:
        return x, torch.randint(answers, shape[:2], generator=g)
    return x, torch.randn(*shape[:2], answers, generator=g, dtype=torch.float64)


@given(
    n=st.integers(1, 4),
    batch=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    activation=st.sampled_from([nn.Tanh, nn.ReLU]),
    criterion=st.sampled_from([F.mse_loss, F.cross_entropy, summed]),
    seed=st.integers(0, 9),
)
def test_gradient_is_autograds(
    n: int,
    batch: int,
    sizes: list[int],
    activation: type[nn.Module],
    criterion: Criterion,
    seed: int,
) -> None:
    models = [
        mlp(*sizes, activation=activation, seed=seed + i).double() for i in range(n)
    ]
    loss, _ = make_loss(models[0], criterion)
    assert isinstance(loss, MlpLoss)
    x, y = examples((n, batch, sizes[0]), sizes[-1], criterion, seed)
    theta = torch.stack([ravel(m) for m in models])
    found, losses = loss.gradient(theta, Batch(x, y))
    for i, model in enumerate(models):
        expected = textbook.gradient(model, criterion, x[i], y[i])
        torch.testing.assert_close((found[i], losses[i]), expected, rtol=0, atol=1e-11)
    assert torch.equal(theta, torch.stack([ravel(m) for m in models]))


@pytest.mark.parametrize("criterion", [F.mse_loss, F.cross_entropy, summed])
def test_inner_loops_on_pictures_are_those_of_one_task_at_a_time(
    criterion: Criterion,
) -> None:
    model = nn.Sequential(nn.Flatten(), mlp(6, 4, 3)).double()
    loss, _ = make_loss(model, criterion)
    support = Batch(*examples((5, 7, 1, 2, 3), 3, criterion, 0))
    g = torch.Generator().manual_seed(1)
    order = torch.rand(5, 7, generator=g).argsort(1)[:, :6].view(5, 3, 2)
    assert isinstance(loss, MlpLoss)
    assert loss.takes(support)
    found = adapt(loss, ravel(model), support, order, sgd(0.1))
    plain = adapt(loss.plain, ravel(model), support, order, sgd(0.1), None, "serial")
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


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
        nn.Sequential(nn.Linear(2, 3), nn.Flatten(), nn.Linear(3, 1)),
        nn.Sequential(nn.Flatten(0), nn.Linear(2, 3)),
        nn.Sequential(),
        nn.Sequential(tied := nn.Linear(2, 2), nn.Tanh(), tied),
        nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))),
    ],
)
def test_it_applies_to_nothing_else(model: nn.Module) -> None:
    assert not applies(model, F.mse_loss)
    assert not applies(mlp(1, 2, 1), F.l1_loss)
    smoothed = partial(F.cross_entropy, label_smoothing=0.1)
    assert not applies(mlp(1, 2, 3), smoothed)
    assert applies(mlp(1, 2, 1), F.mse_loss)
