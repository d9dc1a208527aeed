"""Rules that end inner loops, in the head; `test_kernels` runs the loops."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib import (
    MAML,
    Batch,
    Reptile,
    Sine,
    SwitchAtThreshold,
    SwitchEvery,
    UserError,
    adapt,
    constant,
    mlp,
    sgd,
)
from reptile_lib.inner import InnerOptimizer
from reptile_lib.kernel import of_loss
from reptile_lib.theory.quadratics import quadratic_loss


def test_stopping_in_the_head() -> None:
    # ½ (θ − w)² from θ = 4 halves the way to w = 0 in each step: losses 8, 2, ½, ⅛.
    # From 4 to w = 3 the loss is ½ at once.
    w = torch.tensor([0.0, 3.0]).view(2, 1, 1)
    tasks = Batch(torch.ones(2, 1, 1, 1), w)
    order = torch.zeros(2, 4, 1, dtype=torch.int64)
    phi = torch.tensor([4.0])
    for threshold, steps, ends in (
        (9, [0, 0], [4, 4]),
        (1, [2, 0], [1, 4]),
        (0.5, [3, 1], [0.5, 3.5]),
        (0, [4, 4], [0.25, 3.0625]),
    ):
        inner = sgd(0.5).until(SwitchAtThreshold(threshold))
        found = adapt(of_loss(quadratic_loss), phi, tasks, order, inner)
        assert found.steps.tolist() == steps
        assert found.theta[:, 0].tolist() == ends


def test_a_stopped_task_does_not_start_again() -> None:
    # Minibatches of two examples: the first is solved, the second is not.
    batch = Batch(torch.ones(1, 2, 1, 1), torch.tensor([[[0.0], [4.0]]]))
    order = torch.tensor([[[0], [1], [1]]])
    inner = sgd(0.5).until(SwitchAtThreshold(0.1))
    found = adapt(of_loss(quadratic_loss), torch.zeros(1), batch, order, inner)
    assert found.losses.tolist() == [[0, 8, 8]]
    assert found.steps.tolist() == [0]
    assert found.theta.item() == 0


def test_maml_differentiates_the_steps_taken() -> None:
    def phi_after(inner: InnerOptimizer, steps: int) -> Tensor:
        model = mlp(1, 6, 1, seed=2)
        learner = MAML(model, inner, steps, criterion=F.mse_loss, device="cpu")
        learner.fit(Sine(5), meta_steps=2, meta_batch=3, epsilon=constant(0.1))
        return learner.phi

    stopped = phi_after(sgd(0.05).until(SwitchEvery(2)), 4)
    torch.testing.assert_close(stopped, phi_after(sgd(0.05), 2))


def test_the_history_counts_the_steps_taken() -> None:
    def history(inner: InnerOptimizer) -> list[float]:
        model = mlp(1, 6, 1, seed=2)
        learner = Reptile(model, inner, 4, criterion=F.mse_loss, device="cpu")
        learner.fit(Sine(5), meta_steps=3, meta_batch=5, epsilon=constant(0.1))
        return [row["inner_steps"] for row in learner.history]

    assert history(sgd(0.01)) == [4, 4, 4]
    assert history(sgd(0.01).until(SwitchEvery(1))) == [1, 1, 1]
    counts = history(sgd(0.01).until(SwitchAtThreshold(2.0)))
    assert all(0 <= count <= 4 for count in counts)
    assert all(round(5 * count, 4).is_integer() for count in counts)
    assert 0 < sum(counts) < 12


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(UserError, match="steps = -1"):
        SwitchEvery(-1)
