"""The dense network's gradient written out, against autograd through the module.

What every kernel must do is asked in `test_kernels`.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from reptile_lib import Batch, adam, adapt, conv4, mlp
from reptile_lib.fast.mlp import mlp_kernel
from reptile_lib.fast.written import Written
from reptile_lib.kernel import of_model
from reptile_lib.params import ravel
from tests import textbook

Criterion = Callable[[Tensor, Tensor], Tensor]
summed = partial(F.cross_entropy, reduction="sum")


def kernel_of(model: nn.Module, criterion: Criterion) -> Written | None:
    return mlp_kernel(model, criterion, of_model(model, criterion))


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
    kernel = kernel_of(models[0], criterion)
    assert kernel is not None
    x, y = examples((n, batch, sizes[0]), sizes[-1], criterion, seed)
    theta = torch.stack([ravel(m) for m in models])
    kernel.gradient(theta + 1, Batch(x + 1, y))  # what buffers held does not matter
    found, losses = kernel.gradient(theta, Batch(x, y))
    for i, model in enumerate(models):
        expected = textbook.gradient(model, criterion, x[i], y[i])
        torch.testing.assert_close((found[i], losses[i]), expected, rtol=0, atol=1e-11)
    assert torch.equal(theta, torch.stack([ravel(m) for m in models]))


@pytest.mark.parametrize("criterion", [F.mse_loss, F.cross_entropy, summed])
def test_inner_loops_on_pictures_are_the_references(criterion: Criterion) -> None:
    model = nn.Sequential(nn.Flatten(), mlp(6, 4, 3)).double()
    kernel = kernel_of(model, criterion)
    assert kernel is not None
    g = torch.Generator().manual_seed(1)
    for n in (5, 1, 2, 5):  # buffers of several shapes
        support = Batch(*examples((n, 7, 1, 2, 3), 3, criterion, 0))
        order = torch.rand(n, 7, generator=g).argsort(1)[:, :6].view(n, 3, 2)
        found, plain = (
            adapt(k, ravel(model), support, order, adam(0.1))
            for k in (kernel, kernel.reference)
        )
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-11)


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
def test_it_is_for_nothing_else(model: nn.Module) -> None:
    assert kernel_of(model, F.mse_loss) is None


def test_it_is_for_no_other_loss() -> None:
    assert kernel_of(mlp(1, 2, 1), F.l1_loss) is None
    assert (
        kernel_of(mlp(1, 2, 3), partial(F.cross_entropy, label_smoothing=0.1)) is None
    )
    assert kernel_of(mlp(1, 2, 1), F.mse_loss) is not None
