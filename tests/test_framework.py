"""What page 3.1 says of the loop, asked of the library: numbers, and plain PyTorch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import (
    Batch,
    Episodes,
    InnerOptimizer,
    MetaLearner,
    Reptile,
    Sine,
    adam,
    constant,
    linear,
    mlp,
    sgd,
)
from reptile_lib.fit.prepare import training
from reptile_lib.inner import Moments, State
from reptile_lib.meta import MetaState, Training, meta_steps
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import minibatches
from tests import textbook
from tests.kit import CPU

pytestmark = pytest.mark.usefixtures("float64")

SINE = Sine(points=7, query_points=11)
A, B = 0.0, 18.0


class Bowls:
    """Tasks ½(θ − w)² for a model whose one weight is its answer, w in turn."""

    def __init__(self, *solutions: float) -> None:
        self.solutions = solutions

    def to(self, device: torch.device) -> "Bowls":
        return self

    def sample(self, draws: Draws) -> Episodes:
        count, n = len(draws.uniform(0, 1)), len(self.solutions)
        w = torch.tensor(self.solutions).repeat(-(-count // n))[:count].view(-1, 1, 1)
        batch = Batch(torch.ones_like(w), w)
        return Episodes(batch, batch)


def half_square(answer: Tensor, target: Tensor) -> Tensor:
    return (answer - target).square().sum(1).mean() / 2


def phi_after(tasks: Bowls, meta_steps: int, meta_batch: int, **options: Any) -> float:
    """Return φ, which starts at 16, takes inner steps at the rate ½, and half steps."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 16.0)
    how = {"inner_steps": 2, "epsilon": 0.5} | options
    epsilon = constant(how.pop("epsilon"))
    learner = Reptile(model, sgd(0.5), criterion=half_square, device="cpu", **how)
    learner.fit(tasks, meta_steps=meta_steps, meta_batch=meta_batch, epsilon=epsilon)
    return learner.phi.item()


def test_two_tasks_in_the_head() -> None:
    assert phi_after(Bowls(A, B), 1, 1) == 10
    assert phi_after(Bowls(A, B), 2, 1) == 13
    assert phi_after(Bowls(B, A), 2, 1) == 10.46875
    assert phi_after(Bowls(A, B), 1, 2) == 13.375
    assert phi_after(Bowls(B, A), 1, 2) == 13.375


def test_serial_it_jumps_and_in_a_batch_it_rests() -> None:
    assert phi_after(Bowls(A, B), 61, 1) == pytest.approx(6.92, abs=0.01)
    assert phi_after(Bowls(A, B), 60, 1) == pytest.approx(11.08, abs=0.01)
    assert phi_after(Bowls(A, B), 60, 2) == pytest.approx(9, abs=1e-9)
    path = [phi_after(Bowls(A, B), steps, 2) for steps in range(1, 6)]
    assert path == sorted(path, reverse=True)


def test_the_last_task_wins_when_epsilon_is_one() -> None:
    solved = {"inner_steps": 60, "epsilon": 1.0}
    serial = [phi_after(Bowls(A, B), steps, 1, **solved) for steps in range(1, 5)]
    assert serial == pytest.approx([0, 18, 0, 18])
    batched = [phi_after(Bowls(A, B), steps, 2, **solved) for steps in (1, 2)]
    assert batched == pytest.approx([9, 9])


def test_a_loop_that_moves_phi_within_the_batch_is_serial() -> None:
    # the exercise: steps of ε/n after every task, against one step to the mean
    assert phi_after(Bowls(A, B), 2, 1, epsilon=0.25) == 13.9375
    for epsilon in (0.08, 0.04, 0.02):  # they differ by the square of ε
        pair = Bowls(A, B)
        within = phi_after(pair, 2, 1, epsilon=epsilon / 2)
        apart = within - phi_after(pair, 1, 2, epsilon=epsilon)
        assert apart / epsilon**2 == pytest.approx(2.25, abs=1e-9)


def sine_learner(inner: InnerOptimizer, moments: Moments = "carry") -> MetaLearner:
    model = mlp(1, 8, 8, 1, activation=nn.Tanh)
    how: dict[str, Any] = {"criterion": F.mse_loss, "device": "cpu"}
    return Reptile(model, inner, 3, 4, moments=moments, **how)


def mean_memory(model: nn.Module, optimizers: list[torch.optim.Adam]) -> State:
    """Average what several Adams remember, as flat vectors."""

    def flat(optimizer: torch.optim.Adam, name: str) -> Tensor:
        parts = [optimizer.state[p][name].flatten() for p in model_of[optimizer]]
        return torch.cat(parts)

    model_of = {o: o.param_groups[0]["params"] for o in optimizers}
    mean = {
        short: torch.stack([flat(o, name) for o in optimizers]).mean(0)
        for short, name in (("m", "exp_avg"), ("v", "exp_avg_sq"))
    }
    first = model_of[optimizers[0]][0]
    return mean | {"step": optimizers[0].state[first]["step"]}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("moments", [None, "reset", "carry"])
def test_both_forms_are_a_plain_loop(n: int, moments: Moments | None) -> None:
    # the inner loop is torch.optim's; None is SGD, which remembers nothing
    inner = adam(0.01, (0.9, 0.99)) if moments else sgd(0.05)
    learner, steps = sine_learner(inner, moments or "carry"), 8
    phi, memory = learner.phi.clone(), None
    options: dict[str, Any] = {"epsilon": linear(1.0, 0.0), "seed": 4}
    learner.fit(SINE, meta_steps=steps, meta_batch=n, **options)
    for step in range(steps):
        who = draws(4, TRAIN, range(step, step + 1), range(n), CPU)
        (x, y), _, order = minibatches(SINE.sample(who), who, 3, 4)
        ends, adams = [], []
        for task in range(n):
            model = textbook.model_at(learner.model, phi)
            optimizer: torch.optim.Optimizer
            if moments is None:
                optimizer = torch.optim.SGD(model.parameters(), 0.05)
            else:
                start = memory or {k: torch.zeros_like(phi) for k in "mv"}
                start = {"step": torch.tensor(0.0)} | start
                optimizer = textbook.adam_from(model, start, 0.01, (0.9, 0.99))
                adams.append(optimizer)
            textbook.descend(
                model, optimizer, F.mse_loss, x[task], y[task], order[task]
            )
            ends.append(textbook.vector(model))
        phi = phi + (1 - step / steps) * (torch.stack(ends).mean(0) - phi)
        memory = mean_memory(model, adams) if moments == "carry" else None
    torch.testing.assert_close(learner.phi, phi, rtol=0, atol=1e-10)
    if memory:
        assert learner.inner_state is not None
        torch.testing.assert_close(learner.inner_state["v"], memory["v"])


def loop(learner: MetaLearner) -> Training:
    return training(learner, SINE, 6, 3, linear(1.0, 0.0), 0)


def test_the_state_and_the_run_are_all_that_the_loop_remembers() -> None:
    learner = sine_learner(adam(0.01, (0.9, 0.99)))
    run = loop(learner)
    whole = [now for now, _ in meta_steps(run, learner.state, range(6))]
    half = whole[2].map(Tensor.clone)
    (*_, end), _ = list(zip(*meta_steps(run, half, range(3, 6)), strict=True))
    assert isinstance(end, MetaState)
    assert end.meta_step == whole[-1].meta_step == 6
    assert torch.equal(end.phi, whole[-1].phi)


def test_nothing_that_was_handed_out_is_written_on() -> None:
    learner = sine_learner(adam(0.01, (0.9, 0.99)))
    seen = [
        (now, now.map(Tensor.clone))
        for now, _ in meta_steps(loop(learner), learner.state, range(6))
    ]
    assert all(torch.equal(now.phi, then.phi) for now, then in seen)
    assert len({tuple(now.phi.tolist()) for now, _ in seen}) == 6
