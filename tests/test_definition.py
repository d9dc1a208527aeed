"""What page 1.1 says, asked of the library: numbers done in the head, and SGD."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib import Batch, Quadratics, Reptile, Sine, adapt, constant, mlp, sgd
from reptile_lib.kernel import of_loss
from reptile_lib.params import interpolate, ravel
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import minibatches
from reptile_lib.theory.quadratics import quadratic_loss
from tests import textbook

ALPHA = 0.5


def pair(h: float) -> Quadratics:
    """Return task A at 0 with curvature 1, and B at 18 with curvature h."""
    curvatures = torch.tensor([1.0, h], dtype=torch.float64)
    solutions = torch.tensor([0.0, 18.0], dtype=torch.float64)
    return Quadratics(curvatures.view(2, 1, 1), solutions.view(2, 1))


def meta_step(phi: Tensor, task: int, epsilon: float) -> tuple[float, Tensor]:
    """Return φ̃ and the new φ after two inner steps on a task of curvature 1."""
    bowls = pair(1.0)
    support = Batch(bowls.H[[task], None], bowls.w[[task], None])
    order = torch.zeros(1, 2, 1, dtype=torch.int64)
    kernel = of_loss(quadratic_loss)
    adapted = adapt(kernel, phi, support, order, sgd(ALPHA)).theta[0]
    return adapted.item(), interpolate(phi, adapted, epsilon)


def test_the_first_two_meta_steps_in_the_head() -> None:
    phi = torch.tensor([16.0], dtype=torch.float64)
    adapted, phi = meta_step(phi, 0, 0.5)
    assert (adapted, phi.item()) == (4, 10)
    adapted, phi = meta_step(phi, 1, 0.5)
    assert (adapted, phi.item()) == (16, 13)


def test_it_jumps_to_and_fro_and_rests_between_the_two() -> None:
    phi = torch.tensor([16.0], dtype=torch.float64)
    for _ in range(20):
        _, after_a = meta_step(phi, 0, 0.5)
        _, phi = meta_step(after_a, 1, 0.5)
    assert after_a.item() == pytest.approx(6.92, abs=0.01)
    assert phi.item() == pytest.approx(11.08, abs=0.01)
    steps = 400
    for step in range(steps):
        _, phi = meta_step(phi, step % 2, 0.5 * (1 - step / steps))
    assert phi.item() == pytest.approx(9, abs=0.01)
    adapted = [meta_step(phi, task, 0.5)[0] for task in (0, 1)]
    assert adapted == pytest.approx([2.25, 18 - 2.25], abs=0.01)


@pytest.mark.parametrize(
    ("k", "rest"), [(1, 6), (2, 126 / 19), (60, 9)], ids=["SGD", "between", "solved"]
)
def test_where_phi_rests_depends_on_the_inner_steps(k: int, rest: float) -> None:
    assert pair(0.5).fixed_point(ALPHA, k).item() == pytest.approx(rest, abs=1e-6)


@pytest.mark.usefixtures("float64")
def test_one_inner_step_is_torchs_sgd_on_the_mixture() -> None:
    alpha, epsilon, steps = 0.05, 0.4, 20
    tasks, cpu = Sine(points=12), torch.device("cpu")
    learner = Reptile(
        mlp(1, 8, 1), sgd(alpha), 1, 5, criterion=F.mse_loss, device="cpu"
    )
    model = textbook.model_at(learner.model, learner.phi)
    learner.fit(tasks, meta_steps=steps, epsilon=constant(epsilon))
    plain = torch.optim.SGD(model.parameters(), lr=epsilon * alpha)
    who = draws(0, TRAIN, range(steps), range(1), cpu)
    (x, y), _, order = minibatches(tasks.sample(who), who, 1, 5)
    for step in range(steps):
        textbook.descend(model, plain, F.mse_loss, x[step], y[step], order[step])
    torch.testing.assert_close(ravel(model), learner.phi, rtol=0, atol=1e-13)
