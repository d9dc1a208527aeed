"""Which engine a model gets."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_lib import Batch, Episodes, UserError, conv4, mlp, sgd
from reptile_lib.fast.choose import (
    Engine,
    fastest,
    make_kernel,
    stacking_told,
    written_engine,
)
from reptile_lib.kernel import Kernel
from reptile_lib.params import ravel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[1, 2])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_engine_of_a_gradient_written_out(cores: int) -> None:
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    alone = "threads" if cores == 1 else "stacked"
    assert written_engine(conv4(5), F.cross_entropy, CPU) == alone
    assert written_engine(conv4(5), F.cross_entropy, CUDA) == "stacked"
    for device in (CPU, CUDA):
        assert written_engine(mlp(1, 1), F.mse_loss, device) == "stacked"
        assert written_engine(mlp(1, 1), F.l1_loss, device) == "auto"
        assert written_engine(conv4(5), F.mse_loss, device) == "auto"
        assert written_engine(other, F.cross_entropy, device) == "auto"


class Recurrent(nn.Module):
    """A model that torch cannot stack."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.gru(x)[0][:, -1]
        return outputs


def tried(model: nn.Module, n: int = 2) -> Engine:
    kernels: dict[Engine, Kernel] = {
        engine: make_kernel(model, F.mse_loss, device=CPU, engine=engine)
        for engine in ("stacked", "serial")
    }
    support = Batch(torch.ones(n, 4, 3, 2), torch.ones(n, 4, 3))
    order = torch.arange(4).expand(n, 2, 4)
    tasks = Episodes(support, support, order)
    return fastest(kernels, sgd(0.1), ravel(model), tasks)


def test_what_cannot_be_stacked_is_not() -> None:
    assert tried(Recurrent()) == "serial"


def test_many_small_tasks_are_stacked() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Sigmoid())
    assert tried(model, 100) == "stacked"


def test_a_model_that_no_kernel_takes_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        tried(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)))


def test_stacking_what_cannot_be_is_told() -> None:
    model = Recurrent()
    kernel = make_kernel(model, F.mse_loss, device=CPU, engine="stacked")
    theta, batch = (
        ravel(model).expand(2, -1),
        Batch(torch.ones(2, 4, 3, 2), torch.ones(2, 4, 3)),
    )
    with (
        pytest.raises(UserError, match=r'engine = "stacked" .* take "threads"'),
        stacking_told("stacked"),
    ):
        kernel.gradient(theta, batch)
    with pytest.raises(ZeroDivisionError), stacking_told("stacked"):
        _ = 1 / 0
