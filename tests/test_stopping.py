"""Inner loops that stop, against serial loops that break."""

from collections.abc import Callable
from typing import Any

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
    adam,
    adapt,
    constant,
    mlp,
    sgd,
)
from reptile_lib.engine import Engine, make_loss
from reptile_lib.inner import InnerOptimizer
from reptile_lib.params import ravel
from reptile_lib.tasks import quadratic_loss
from tests import textbook
from tests.test_inner import (
    ENGINES,
    OPTIMIZERS,
    TASKS,
    minibatches,
    pictures,
    regression,
    without_norm_shifts,
)

each_engine = pytest.mark.parametrize("engine", ENGINES)
Problem = Callable[[], Any]


def losses_of(problem: Problem, inner: InnerOptimizer) -> tuple[Any, Tensor, Tensor]:
    """Return a problem, minibatches, and the losses [n, k] of loops that go on."""
    model, criterion, support = problem()
    order = minibatches(inner)
    loss, _ = make_loss(model, criterion)
    found = adapt(loss, ravel(model), support, order, inner)
    return (model, criterion, support, loss), order, found.losses


@pytest.mark.parametrize("problem", [regression, pictures])
@each_engine
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_stopped_task_is_a_loop_that_broke(
    name: str, engine: Engine, problem: Problem
) -> None:
    inner, make = OPTIMIZERS[name]
    (model, criterion, support, loss), order, losses = losses_of(problem, inner)
    threshold = losses.flatten().median().item() + 1e-9  # some stop, some go on
    phi, keep = ravel(model), without_norm_shifts(model)
    stopping = inner.until(SwitchAtThreshold(threshold))
    found = adapt(loss, phi, support, order, stopping, engine=engine)
    for i in range(TASKS):
        one = textbook.model_at(model, phi)
        optimizer: torch.optim.Optimizer = make(one.parameters())
        x, y = support.x[i], support.y[i]
        taken = 0
        for batch in order[i]:
            if criterion(one(x[batch]), y[batch]).item() < threshold:
                break
            textbook.descend(one, optimizer, criterion, x, y, [batch])
            taken += 1
        assert found.steps[i] == taken
        expected = textbook.vector(one)
        torch.testing.assert_close(
            found.theta[i][keep], expected[keep], rtol=0, atol=1e-10
        )
        if name == "adam":  # its memory is frozen with the task
            assert found.state["step"][i] == taken
            kept = [optimizer.state[p] for p in one.parameters()]
            for ours, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                memory = [
                    entry.get(theirs, torch.zeros_like(p)).flatten()
                    for entry, p in zip(kept, one.parameters(), strict=True)
                ]
                torch.testing.assert_close(
                    found.state[ours][i], torch.cat(memory), rtol=0, atol=1e-10
                )
    assert len(set(found.steps.tolist())) > 1  # or the mask has not been seen


@pytest.mark.parametrize("problem", [regression, pictures])
@each_engine
@pytest.mark.parametrize("steps", [0, 2, 9])
def test_switch_every_takes_the_first_steps(
    steps: int, engine: Engine, problem: Problem
) -> None:
    inner: InnerOptimizer = adam(0.01)
    (model, _, support, loss), order, _ = losses_of(problem, inner)
    phi = ravel(model)
    found = adapt(
        loss, phi, support, order, inner.until(SwitchEvery(steps)), engine=engine
    )
    short = adapt(loss, phi, support, order[:, :steps], inner, engine=engine)
    keep = without_norm_shifts(model)
    torch.testing.assert_close(
        found.theta[:, keep], short.theta[:, keep], rtol=0, atol=1e-12
    )
    for entry, value in short.state.items():
        torch.testing.assert_close(found.state[entry], value, rtol=0, atol=1e-12)
    assert found.steps.tolist() == short.steps.tolist()
    assert found.steps.tolist() == [min(steps, order.shape[1])] * TASKS
    assert found.losses.shape == order.shape[:2]


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
        found = adapt(quadratic_loss, phi, tasks, order, inner)
        assert found.steps.tolist() == steps
        assert found.theta[:, 0].tolist() == ends


def test_a_stopped_task_does_not_start_again() -> None:
    # Minibatches of two examples: the first is solved, the second is not.
    batch = Batch(torch.ones(1, 2, 1, 1), torch.tensor([[[0.0], [4.0]]]))
    order = torch.tensor([[[0], [1], [1]]])
    inner = sgd(0.5).until(SwitchAtThreshold(0.1))
    found = adapt(quadratic_loss, torch.zeros(1), batch, order, inner)
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
