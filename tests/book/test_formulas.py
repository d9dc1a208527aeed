"""Formulas of the text that no cell of their page computes."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book.transform import ridge_head
from reptile_lib import (
    Batch,
    Interpolated,
    Quadratics,
    SwitchAtThreshold,
    adam,
    adapt,
    cosine,
    linear,
    momentum,
    sgd,
)
from reptile_lib.kernel import of_loss, of_model
from reptile_lib.meta import outer_step
from reptile_lib.params import ravel
from reptile_lib.theory.quadratics import quadratic_loss

positive = st.floats(0.1, 3.0)
quadratic = of_loss(quadratic_loss)


def quadratics(h: float, minima: list[float]) -> Quadratics:
    """Return one-dimensional bowls with curvature h."""
    w = torch.tensor(minima, dtype=torch.float64).view(-1, 1)
    return Quadratics(torch.full_like(w, h)[..., None], w)


def bowls(h: float, minima: list[float]) -> Batch:
    """Return what an inner loop sees of them: one example per task."""
    tasks = quadratics(h, minima)
    return Batch(tasks.H[:, None], tasks.w[:, None])


@pytest.mark.slow
@given(h=positive, c=positive, share=st.floats(0.05, 0.95), d=st.floats(0.01, 50.0))
def test_2_2_the_pull_under_a_threshold(
    h: float, c: float, share: float, d: float
) -> None:
    alpha, r = share / h, (2 * c / h) ** 0.5
    assume(abs(d - r) > 1e-6)  # at r itself rounding decides
    inner = sgd(alpha).until(SwitchAtThreshold(c))
    order = torch.zeros(1, 200, 1, dtype=torch.int64)
    start = torch.zeros(1, dtype=torch.float64)
    pull = adapt(quadratic, start, bowls(h, [d]), order, inner).theta.item()
    if d < r:
        assert pull == 0
    else:
        assert d - r - 1e-9 <= pull <= d - (1 - alpha * h) * r + 1e-9


def test_2_2_exercise_how_long_until_the_switch() -> None:
    inner = sgd(0.5).until(SwitchAtThreshold(0.5))
    order = torch.zeros(2, 20, 1, dtype=torch.int64)
    start = torch.zeros(1, dtype=torch.float64)
    steps = adapt(quadratic, start, bowls(1.0, [100.0, 200.0]), order, inner).steps
    assert steps.tolist() == [7, 8]


@given(h=positive, epsilon=st.floats(0.0, 1.0), share=st.floats(0.05, 0.95))
def test_2_3_exercise_what_a_round_leaves_of_an_error(
    h: float, epsilon: float, share: float
) -> None:
    k, alpha = 4, share / h
    theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = Interpolated(torch.optim.SGD([theta], lr=alpha), k, epsilon=epsilon)
    for _ in range(k):
        optimizer.zero_grad()
        (h / 2 * theta.square().sum()).backward()
        optimizer.step()
    expected = 1 - epsilon * (1 - (1 - alpha * h) ** k)
    assert theta.item() == pytest.approx(expected, abs=1e-12)


@given(h=positive, epsilon=st.floats(0.05, 1.0), share=st.floats(0.05, 0.95))
def test_2_3_exercise_the_scatter_of_the_slow_weights(
    h: float, epsilon: float, share: float
) -> None:
    k, alpha = 3, share / h
    V = alpha / (h * (2 - alpha * h))  # of SGD, with gradient noise of variance 1
    r = (1 - alpha * h) ** k
    settled = V * epsilon * (1 + r) / (2 - epsilon * (1 - r))
    fast, both = settled, settled  # variance of the fast weight; covariance with φ
    for _ in range(k):
        fast = (1 - alpha * h) ** 2 * fast + alpha**2
        both *= 1 - alpha * h
    mixed = (1 - epsilon) ** 2 * settled + epsilon**2 * fast
    mixed += 2 * epsilon * (1 - epsilon) * both
    assert mixed == pytest.approx(settled)


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.5, 1.0])
def test_2_3_the_spread_around_the_middle_of_two_tasks(epsilon: float) -> None:
    q = 0.75 * epsilon
    floor = quadratics(1.0, [0.0, 18.0]).noise_floor(0.5, 2, epsilon)
    assert floor.item() == pytest.approx(81 * q / (2 - q))


@pytest.mark.parametrize("T", [400, 1_000, 10_000])
def test_2_3_how_much_a_falling_step_remembers(T: int) -> None:
    left, weights = 1.0, []
    for t in range(T - 1, -1, -1):
        epsilon = linear(1.0, 0.0)(t / T)
        assert isinstance(epsilon, float)
        weights.append(epsilon * left)
        left *= 1 - epsilon
    assert sum(weights) == pytest.approx(1)
    assert weights.index(max(weights)) == pytest.approx(T**0.5, abs=2)
    assert 1 / sum(c**2 for c in weights) == pytest.approx(2.25 * T**0.5, rel=0.02)


@given(epsilon=st.floats(0.01, 0.99))
def test_2_3_how_much_a_constant_step_remembers(epsilon: float) -> None:
    weights = [epsilon * (1 - epsilon) ** age for age in range(3_000)]
    equal = 1 / sum(c**2 for c in weights)
    assert equal == pytest.approx((2 - epsilon) / epsilon)


def test_2_1_exercise_a_very_strong_ridge() -> None:
    noise = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat_interleave(3)
    features = torch.randn(15, 8, generator=noise, dtype=torch.float64)
    new = torch.randn(40, 8, generator=noise, dtype=torch.float64)
    scores = ridge_head(features, y, 5, ridge=1e9)(new)
    means = torch.stack([features[y == j].mean(0) for j in range(5)])
    middle = features.mean(0)
    expected = (new - middle) @ (means - middle).mT
    assert torch.equal(scores.argmax(1), expected.argmax(1))


def test_3_1_the_difference_is_the_sum_of_the_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    kernel = of_model(model, F.mse_loss)
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, 12, 3, generator=noise, dtype=torch.float64)
    y = torch.randn(1, 12, 1, generator=noise, dtype=torch.float64)
    order, phi, alpha = torch.arange(12).view(1, 4, 3), ravel(model), 0.1
    theta, met = phi, torch.zeros_like(phi)
    for rows in order[0]:
        g, _ = kernel.gradient(theta[None], Batch(x[:, rows], y[:, rows]))
        theta, met = theta - alpha * g[0], met + g[0]
    end = adapt(kernel, phi, Batch(x, y), order, sgd(alpha)).theta[0]
    torch.testing.assert_close((phi - end) / alpha, met, rtol=0, atol=1e-10)


def test_3_2_exercise_how_far_momentum_coasts() -> None:
    outer, phi, state = momentum(1.0, 0.9), torch.zeros(1, dtype=torch.float64), None
    for _ in range(500):
        phi, state = outer_step(phi, phi - 1, 1.0, outer, state)
    start = phi
    for _ in range(500):
        phi, state = outer_step(phi, phi, 1.0, outer, state)
    assert (start - phi).item() == pytest.approx(90)


@pytest.mark.parametrize("s", [10, 50])
def test_3_2_the_end_of_the_cosine(s: int) -> None:
    T = 10_000
    expected = math.pi**2 / 4 * (s / T) ** 2
    assert cosine(1.0, 0.0)((T - s) / T) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("b", "eval_b", "ratio"), [(10, 5, 2), (10, 15, 2 / 3)])
def test_4_2_exercise_what_the_mean_does_to_carried_steps(
    b: int, eval_b: int, ratio: float
) -> None:
    inner, theta = adam(1e-3), torch.zeros(3, dtype=torch.float64)
    g = torch.tensor([0.1, -0.3, 0.02], dtype=torch.float64)  # means over examples
    count = torch.tensor(1e6, dtype=torch.float64)

    def step(train_factor: int, eval_factor: int) -> Tensor:
        v = (train_factor * torch.ones_like(theta)) ** 2
        return inner.update(eval_factor * g, {"step": count, "v": v}, theta)[0]

    torch.testing.assert_close(step(1, 1), ratio * step(b, eval_b), rtol=1e-3, atol=0)


def test_3_3_1_the_mean_meta_step_descends_the_surrogate_loss() -> None:
    tasks = quadratics(2.0, [1.0, -3.0])
    phi, alpha, k = torch.tensor([0.7], dtype=torch.float64), 0.2, 3
    phi.requires_grad_()
    away, B = phi - tasks.w, tasks.progress(alpha, k)
    surrogate = torch.einsum("ti,tij,tj->t", away, B, away).mean() / 2
    (g,) = torch.autograd.grad(surrogate, phi)
    order = torch.zeros(2, k, 1, dtype=torch.int64)
    ends = adapt(quadratic, phi.detach(), bowls(2.0, [1.0, -3.0]), order, sgd(alpha))
    torch.testing.assert_close(phi.detach() - g, ends.theta.mean(0))


@pytest.mark.parametrize(("k", "limit"), [(1, 2 / 2.8), (3, 2 / (1 + 1.8**3))])
def test_3_3_1_exercise_loops_that_diverge(k: int, limit: float) -> None:
    tasks = quadratics(4.0, [1.0])
    assert tasks.mean_limit(0.7, k) == pytest.approx(limit)
    assert tasks.mean_limit(0.7, 2) <= 0  # no epsilon at all


@pytest.mark.parametrize(("start", "length"), [(0.0, 41.4), (10.0, 100.0)])
def test_4_1_exercise_how_much_longer_momentum_steps_are(
    start: float, length: float
) -> None:
    inner, theta = momentum(1.0, 0.9), torch.zeros(1, dtype=torch.float64)
    state = {"m": torch.full_like(theta, start)}
    for _ in range(10):
        theta, state = inner.update(torch.ones_like(theta), state, theta)
    assert -theta.item() == pytest.approx(length, abs=0.05)


def test_4_1_exercise_momentum_from_another_task() -> None:
    start, left_over = (
        torch.zeros(1, dtype=torch.float64),
        {"m": torch.ones(1).double()},
    )
    flat = bowls(0.0, [0.0])
    order = torch.zeros(1, 300, 1, dtype=torch.int64)
    end = adapt(quadratic, start, flat, order, momentum(0.1, 0.9), left_over).theta
    assert end.item() == pytest.approx(-0.9)


@pytest.mark.parametrize(("ah", "rate_leaves_less"), [(0.1, True), (0.6, False)])
def test_4_1_exercise_twice_the_rate_or_twice_the_steps(
    ah: float, rate_leaves_less: bool
) -> None:
    def left(alpha: float, k: int) -> float:
        order = torch.zeros(1, k, 1, dtype=torch.int64)
        start = torch.ones(1, dtype=torch.float64)
        end = adapt(quadratic, start, bowls(1.0, [0.0]), order, sgd(alpha)).theta
        return abs(end.item())

    assert (left(2 * ah, 3) < left(ah, 6)) == rate_leaves_less
    assert abs(1 - 2 * (2 - 2**0.5)) == pytest.approx((2**0.5 - 1) ** 2)
