"""Inner optimisers and rules that stop, in the head; `test_kernels` runs the loops."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import (
    Sine,
    adam,
    adapt,
    gd,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.fast.choose import Engine, make_kernel
from reptile_lib.inner import InnerOptimizer, State, mean_state
from reptile_lib.params import ravel


def test_state_is_averaged_over_tasks() -> None:
    states = {
        "v": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "step": torch.tensor([5.0, 5]),
    }
    mean = mean_state(states)
    assert mean["v"].tolist() == [2, 4]
    assert mean["step"].item() == 5


def test_a_mean_state_keeps_the_rates() -> None:
    inner = sgd(torch.tensor([1.0, 2.0]))
    mean = mean_state(inner.init(torch.zeros(3, 2)))
    assert mean["lr"].tolist() == [1, 2]


def test_what_tells_weights_apart_has_no_formula() -> None:
    rates = torch.tensor([0.1, 0.2])
    assert all(make(rates).formula is None for make in (sgd, gd, momentum, adam))

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta - g, state

    assert InnerOptimizer("own", 1.0, lambda theta: {}, update).formula is None


@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
def test_another_update_is_used_by_every_kernel(engine: Engine) -> None:
    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta + 100, state

    own = replace(sgd(0.1), update=update)
    assert own.formula is None
    model = mlp(1, 4, 1, activation=nn.Tanh)
    kernel = make_kernel(model, F.mse_loss, device=torch.device("cpu"), engine=engine)
    support, _, order = Sine().draw(2, inner_steps=3)
    phi = ravel(model)
    theta = adapt(kernel, phi, support, order, own).theta
    torch.testing.assert_close(theta, (phi + 300).expand(2, -1))
    assert pickle.loads(pickle.dumps(replace(own, update=_far))).update is _far


def _far(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
    return theta + 100, state
