"""Quadratic bowls against plain loops, exact enumeration and arithmetic in the head."""

from collections.abc import Callable
from itertools import product
from math import ceil, inf, log, nan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reptile_lib import Batch, Quadratics, Reptile, UserError, adapt, constant, sgd
from reptile_lib.kernel import of_loss
from reptile_lib.rng import TRAIN, draws
from reptile_lib.theory.quadratics import quadratic_loss
from tests.kit import many, one

CPU = torch.device("cpu")
close: Any = {"rtol": 1e-9, "atol": 1e-9}


def random_bowls(seed: int, T: int = 3, d: int = 2) -> Quadratics:
    """Return bowls with curvatures between 0.2 and 2 along axes of their own."""
    g = torch.Generator().manual_seed(seed)
    options: Any = {"generator": g, "dtype": torch.float64}
    axes = torch.linalg.qr(torch.randn(T, d, d, **options))[0]
    h = 0.2 + 1.8 * torch.rand(T, d, **options)
    H = axes @ torch.diag_embed(h) @ axes.mT
    return Quadratics((H + H.mT) / 2, torch.randn(T, d, **options))


bowls = st.builds(
    random_bowls, st.integers(0, 999), st.integers(1, 4), st.integers(1, 3)
)
rates = st.floats(0.05, 0.9)
steps = st.integers(1, 6)
batches = st.integers(1, 3)


def on_the_line(h: list[float], w: list[float]) -> Quadratics:
    H, W = (torch.tensor(v, dtype=torch.float64).view(-1, 1) for v in (h, w))
    return Quadratics(H[..., None], W)


def descend(theta: Tensor, H: Tensor, w: Tensor, alpha: float, k: int) -> Tensor:
    """Gradient descent as textbooks have it."""
    for _ in range(k):
        theta = theta - alpha * (H @ (theta - w))
    return theta


def meta_step(
    phi: Tensor, tasks: Quadratics, which: Any, alpha: float, k: int, epsilon: float
) -> Tensor:
    ends = [descend(phi, tasks.H[i], tasks.w[i], alpha, k) for i in which]
    return phi + epsilon * (sum(ends) / len(ends) - phi)


def linear_part(step: Callable[[Tensor], Tensor], d: int) -> tuple[Tensor, Tensor]:
    """Read M and b off an affine map x ↦ Mx + b by feeding it unit vectors."""
    b = step(torch.zeros(d, dtype=torch.float64))
    columns = [step(e) - b for e in torch.eye(d, dtype=torch.float64)]
    return torch.stack(columns, 1), b


def every_meta_step(
    tasks: Quadratics, alpha: float, k: int, epsilon: float, n: int
) -> list[tuple[Tensor, Tensor]]:
    """Return (M, b) of the meta-step for every way to draw n tasks."""
    T, d = tasks.w.shape

    def of(which: Any) -> tuple[Tensor, Tensor]:
        return linear_part(
            lambda phi: meta_step(phi, tasks, which, alpha, k, epsilon), d
        )

    return [of(which) for which in product(range(T), repeat=n)]


def test_in_the_head() -> None:
    # α = ½, k = 2 and h = 1, ½: B = 1 − ¼ = ¾ and 1 − 9/16 = 7/16, so E[B] = 19/32.
    # w = 0, 19: φ* = (7/16 · 19)/(19/16) = 7, where r = ¾·(−7) and 7/16·12: ±5.25.
    tasks = on_the_line([1, 0.5], [0, 19])
    assert tasks.progress(0.5, 2).flatten().tolist() == [3 / 4, 7 / 16]
    assert tasks.fixed_point(0.5, 2).item() == pytest.approx(7)
    assert tasks.mean_rate(0.5, 2, epsilon=1) == pytest.approx(13 / 32)
    assert tasks.mean_limit(0.5, 2) == pytest.approx(64 / 19)
    # E[(1 − B)²] = (1/16 + 81/256)/2 = 97/512; below 1 while ε < 2 E[B]/E[B²].
    assert tasks.mean_square_rate(0.5, 2, epsilon=1) == pytest.approx(97 / 512)
    assert tasks.mean_square_limit(0.5, 2) == pytest.approx(608 / 193)
    floor = 5.25**2 / (1 - 97 / 512)
    assert tasks.noise_floor(0.5, 2, epsilon=1).item() == pytest.approx(floor)
    # Average loss: (1·0 + ½·19)/(3/2); after two steps h(1 − αh)⁴ weighs, 1/16, 81/512.
    assert tasks.minimiser(0.5, 0).item() == pytest.approx(19 / 3)
    assert tasks.minimiser(0.5, 2).item() == pytest.approx(81 * 19 / (81 + 32))


@given(tasks=bowls, alpha=st.floats(0.05, 3), k=steps)
def test_progress_is_k_steps_of_gradient_descent(
    tasks: Quadratics, alpha: float, k: int
) -> None:
    phi = torch.linspace(-1, 2, tasks.w.shape[1], dtype=torch.float64)
    B = tasks.progress(alpha, k)
    by_hand = torch.stack(
        [descend(phi, H, w, alpha, k) for H, w in zip(tasks.H, tasks.w, strict=True)]
    )
    formula = phi - torch.einsum("tij,tj->ti", B, phi - tasks.w)
    torch.testing.assert_close(by_hand, formula, rtol=1e-9, atol=1e-6)
    support = Batch(tasks.H[:, None], tasks.w[:, None])
    order = torch.zeros(len(tasks.w), k, 1, dtype=torch.int64)
    adapted = adapt(of_loss(quadratic_loss), phi, support, order, sgd(alpha)).theta
    torch.testing.assert_close(adapted, formula, rtol=1e-9, atol=1e-6)


@given(tasks=bowls, alpha=rates, k=steps, epsilon=st.floats(0.2, 1.9))
def test_all_tasks_in_every_step_lead_to_the_fixed_point_at_the_mean_rate(
    tasks: Quadratics, alpha: float, k: int, epsilon: float
) -> None:
    def step(phi: Tensor) -> Tensor:
        return meta_step(phi, tasks, range(len(tasks.w)), alpha, k, epsilon)

    rate = tasks.mean_rate(alpha, k, epsilon)
    M, _ = linear_part(step, tasks.w.shape[1])
    assert rate == pytest.approx(torch.linalg.eigvals(M).abs().max().item())
    goal = tasks.fixed_point(alpha, k)
    torch.testing.assert_close(step(goal), goal, **close)
    if rate < 0.98:
        phi = torch.ones_like(goal)
        for _ in range(ceil(log(1e-9) / log(max(rate, 0.1)))):
            phi = step(phi)
        torch.testing.assert_close(phi, goal, rtol=0, atol=1e-6)


@given(tasks=bowls, alpha=rates, k=steps, epsilon=st.floats(0.1, 3), n=batches)
def test_mean_square_rate_by_enumeration(
    tasks: Quadratics, alpha: float, k: int, epsilon: float, n: int
) -> None:
    ways = every_meta_step(tasks, alpha, k, epsilon, n)
    d = tasks.w.shape[1]

    def covariance_after(flat: Tensor) -> Tensor:
        S = flat.view(d, d)
        return torch.stack([M @ S @ M.mT for M, _ in ways]).mean(0).flatten()

    operator, _ = linear_part(covariance_after, d * d)
    expected = torch.linalg.eigvals(operator).abs().max().item()
    assert tasks.mean_square_rate(alpha, k, epsilon, n) == pytest.approx(expected)


@given(tasks=bowls, alpha=rates, k=steps, share=st.floats(0.05, 0.95), n=batches)
def test_noise_floor_by_enumeration(
    tasks: Quadratics, alpha: float, k: int, share: float, n: int
) -> None:
    epsilon = share * tasks.mean_square_limit(alpha, k, n)
    floor = tasks.noise_floor(alpha, k, epsilon, n)
    goal = tasks.fixed_point(alpha, k)
    # The second moment about φ* after one meta-step, over every way to draw the tasks.
    after = []
    for M, b in every_meta_step(tasks, alpha, k, epsilon, n):
        shift = M @ goal + b - goal
        after.append(M @ floor @ M.mT + torch.outer(shift, shift))
    scale = floor.abs().max().item() + 1e-12
    torch.testing.assert_close(
        torch.stack(after).mean(0) / scale, floor / scale, rtol=0, atol=1e-7
    )
    assert torch.linalg.eigvalsh(floor / scale).min() > -1e-7


@given(tasks=bowls, alpha=st.floats(0.05, 3), k=steps, n=batches)
def test_the_limits_part_settling_from_growing(
    tasks: Quadratics, alpha: float, k: int, n: int
) -> None:
    mean, square = tasks.mean_limit(alpha, k), tasks.mean_square_limit(alpha, k, n)
    assert square <= mean * (1 + 1e-9)
    assert (mean == 0) == (square == 0)
    for limit, rate in (
        (mean, lambda e: tasks.mean_rate(alpha, k, e)),
        (square, lambda e: tasks.mean_square_rate(alpha, k, e, n)),
    ):
        if limit:
            assert rate(0.99 * limit) < 1 < rate(1.01 * limit)
        else:
            assert min(rate(e) for e in (1e-6, 1e-3, 0.1, 1, 2)) >= 1


def test_a_simulation_settles_at_the_floor_and_no_lower() -> None:
    tasks, alpha, k, epsilon, n = random_bowls(5), 0.4, 3, 0.6, 2
    g = torch.Generator().manual_seed(1)
    B, goal = tasks.progress(alpha, k), tasks.fixed_point(alpha, k)
    phi = torch.zeros(20_000, 2, dtype=torch.float64)
    for _ in range(40):
        which = torch.randint(3, (len(phi), n), generator=g)
        off = phi[:, None] - tasks.w[which]
        phi = phi - epsilon * torch.einsum("rnij,rnj->ri", B[which], off) / n
    floor = tasks.noise_floor(alpha, k, epsilon, n)
    found = (phi - goal).mT @ (phi - goal) / len(phi)
    scale = floor.trace()
    torch.testing.assert_close(found / scale, floor / scale, rtol=0, atol=0.02)


class Point(nn.Module):
    """A model whose output is its parameters beside H, for `Reptile` to move."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start.clone())

    def forward(self, H: Tensor) -> Tensor:
        here = self.theta.expand(len(H), 1, -1)
        return torch.cat([here, H], 1)  # [1, 1 + d, d]


def bowl_loss(output: Tensor, w: Tensor) -> Tensor:
    return quadratic_loss(output[0, 0], Batch(output[:, 1:], w))


def test_fit_does_the_same_meta_steps() -> None:
    tasks, start = random_bowls(2), torch.tensor([3.0, -1.0]).double()
    learner = Reptile(Point(start), sgd(0.3), 4, criterion=bowl_loss, device="cpu")
    learner.fit(tasks, meta_steps=50, meta_batch=2, epsilon=constant(0.7))
    phi = start
    for step in range(50):
        who = draws(0, TRAIN, range(step, step + 1), range(2), CPU)
        which = (who.uniform(0) * 3).long().tolist()
        phi = meta_step(phi, tasks, which, 0.3, 4, 0.7)
    torch.testing.assert_close(learner.phi, phi, **close)


@given(tasks=bowls, alpha=rates, k=st.integers(0, 6))
def test_minimiser_is_where_the_loss_after_k_steps_is_flat(
    tasks: Quadratics, alpha: float, k: int
) -> None:
    phi = tasks.minimiser(alpha, k).requires_grad_()
    loss = torch.stack(
        [
            quadratic_loss(descend(phi, H, w, alpha, k), Batch(H[None], w[None]))
            for H, w in zip(tasks.H, tasks.w, strict=True)
        ]
    ).mean()
    (g,) = torch.autograd.grad(loss, phi)
    torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-8)


@given(tasks=bowls, k=steps)
def test_small_rates_give_joint_training(tasks: Quadratics, k: int) -> None:
    joint = tasks.minimiser(1, 0)
    scale = 1 + joint.norm().item()
    for found in (tasks.fixed_point(1e-7, k), tasks.minimiser(1e-7, k)):
        torch.testing.assert_close(found, joint, rtol=0, atol=1e-4 * scale)
    # With one step the rate does not matter at all.
    torch.testing.assert_close(tasks.fixed_point(0.9, 1), joint, **close)


@given(tasks=bowls)
def test_many_steps_give_the_mean_of_the_solutions(tasks: Quadratics) -> None:
    found = tasks.fixed_point(0.5, 400)
    torch.testing.assert_close(found, tasks.w.mean(0), rtol=0, atol=1e-9)
    assert tasks.mean_rate(0.5, 400, 0.25) == pytest.approx(0.75)
    assert tasks.mean_square_limit(0.5, 400) == pytest.approx(2)
    # A jump onto one solution after the other: their own covariance times ε/(2 − ε).
    off = tasks.w - tasks.w.mean(0)
    torch.testing.assert_close(
        tasks.noise_floor(0.5, 400, 0.25), (off.mT @ off) / len(off) / 7, **close
    )


@given(tasks=bowls, alpha=rates, k=steps, epsilon=st.floats(0.05, 0.9), n=batches)
def test_order_copies_place_and_axes_of_the_tasks(
    tasks: Quadratics, alpha: float, k: int, epsilon: float, n: int
) -> None:
    T, d = tasks.w.shape
    turn = torch.linalg.qr(random_bowls(7, 1, d).H[0])[0]
    shift = torch.linspace(1, 3, d, dtype=torch.float64)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(0)).repeat(2)
    H = turn @ tasks.H[order] @ turn.mT
    other = Quadratics((H + H.mT) / 2, tasks.w[order] @ turn.mT + shift)
    a = (alpha, k)
    for name in ("fixed_point", "minimiser"):
        one, two = (getattr(t, name)(*a) for t in (tasks, other))
        torch.testing.assert_close(two, turn @ one + shift, rtol=1e-7, atol=1e-7)
    for name, more in (
        ("mean_rate", (epsilon,)),
        ("mean_limit", ()),
        ("mean_square_rate", (epsilon, n)),
        ("mean_square_limit", (n,)),
    ):
        one, two = (getattr(t, name)(*a, *more) for t in (tasks, other))
        assert one == pytest.approx(two)
    one, two = (t.noise_floor(*a, epsilon, n) for t in (tasks, other))
    torch.testing.assert_close(two, turn @ one @ turn.mT, rtol=1e-7, atol=1e-7)


@given(tasks=bowls, alpha=rates, k=steps)
def test_scaling_in_epsilon_and_in_n(tasks: Quadratics, alpha: float, k: int) -> None:
    # Small ε: the floor falls like ε, and the mean square rate like twice the mean's.
    large, small = (tasks.noise_floor(alpha, k, e).trace() for e in (2e-5, 1e-5))
    torch.testing.assert_close(large, 2 * small, rtol=1e-3, atol=1e-12)
    mean, square = (
        1 - f(alpha, k, 1e-5) for f in (tasks.mean_rate, tasks.mean_square_rate)
    )
    assert square == pytest.approx(2 * mean, rel=1e-3)
    # Many tasks in a meta-step leave the mean, and a floor like 1/n.
    assert tasks.mean_square_rate(alpha, k, 0.5, 10**9) == pytest.approx(
        tasks.mean_rate(alpha, k, 0.5) ** 2
    )
    assert tasks.mean_square_limit(alpha, k, 10**9) == pytest.approx(
        tasks.mean_limit(alpha, k), rel=1e-6
    )
    large, small = (tasks.noise_floor(alpha, k, 0.5, n).trace() for n in (10**6, 10**7))
    torch.testing.assert_close(large, 10 * small, rtol=1e-3, atol=1e-12)


@given(tasks=bowls, share=st.floats(0.01, 1), k=steps, epsilon=st.floats(0.01, 1.99))
def test_with_a_cautious_inner_rate_every_epsilon_below_two_settles(
    tasks: Quadratics, share: float, k: int, epsilon: float
) -> None:
    alpha = share / torch.linalg.eigvalsh(tasks.H).max().item()
    assert tasks.mean_rate(alpha, k, epsilon) < 1
    assert tasks.mean_square_rate(alpha, k, epsilon) < 1


@given(
    tasks=bowls,
    share=st.floats(0.01, 1),
    k=st.integers(2, 6),
    epsilon=st.floats(0.01, 1),
)
def test_with_a_cautious_inner_rate_inner_steps_save_meta_steps_and_no_gradients(
    tasks: Quadratics, share: float, k: int, epsilon: float
) -> None:
    alpha = share / torch.linalg.eigvalsh(tasks.H).max().item()
    one, fewer, rate = (tasks.mean_rate(alpha, i, epsilon) for i in (1, k - 1, k))
    assert one**k - 1e-12 <= rate <= fewer + 1e-12


@pytest.mark.parametrize("k", range(1, 7))
def test_past_two_over_h_even_numbers_of_steps_never_converge(k: int) -> None:
    tasks = on_the_line([4], [1])
    assert tasks.mean_square_limit(0.49, k) > 0
    for alpha in (0.51, 0.7, 2):
        assert (tasks.mean_square_limit(alpha, k) > 0) == (k % 2 == 1)
        assert (tasks.mean_limit(alpha, k) > 0) == (k % 2 == 1)


def test_one_steep_task_alone_need_not_diverge() -> None:
    # α = 0.7, k = 2 and h = 1, 3: αh = 0.7, 2.1, so B = 0.91 and −0.21: E[B] > 0.
    tasks = on_the_line([1, 3], [0, 1])
    assert tasks.progress(0.7, 2).flatten().tolist() == pytest.approx([0.91, -0.21])
    assert tasks.mean_limit(0.7, 2) == pytest.approx(2 / 0.35)
    assert tasks.mean_square_limit(0.7, 2) > 0


def test_single_precision_is_computed_in_double() -> None:
    tasks = random_bowls(3)
    single = Quadratics(tasks.H.float(), tasks.w.float())
    assert single.fixed_point(0.5, 3).dtype == torch.float64
    assert single.noise_floor(0.5, 3, 0.5).dtype == torch.float64
    torch.testing.assert_close(
        single.fixed_point(0.5, 3), tasks.fixed_point(0.5, 3), rtol=0, atol=1e-5
    )


def test_bad_input_names_the_value_and_the_remedy() -> None:
    H = torch.eye(2).repeat(2, 1, 1)
    H[1, 0, 1] = 0.25
    with pytest.raises(UserError, match=r"H of task 1 .* by 0\.25; give \(H \+ H\.mT"):
        Quadratics(H, torch.zeros(2, 2))
    tasks = random_bowls(0)
    for alpha in (0, -0.1, inf, nan):
        for call in (tasks.progress, tasks.fixed_point, tasks.mean_limit):
            with pytest.raises(UserError, match=f"alpha = {alpha} .* positive"):
                call(alpha, 1)
    for call in (tasks.progress, tasks.fixed_point, tasks.mean_square_limit):
        with pytest.raises(UserError, match="k = 0, n = 1; give at least 1"):
            call(0.1, 0)
    with pytest.raises(UserError, match="k = -1"):
        tasks.minimiser(0.1, -1)
    for epsilon in (-0.1, inf, nan):
        calls: list[Callable[[float, int, float], object]] = [
            tasks.mean_rate,
            tasks.mean_square_rate,
            tasks.noise_floor,
        ]
        for with_epsilon in calls:
            with pytest.raises(UserError, match=f"epsilon = {epsilon}; .* negative"):
                with_epsilon(0.1, 1, epsilon)
    with pytest.raises(UserError, match="n = 0; give at least 1"):
        tasks.mean_square_rate(0.1, 1, 0.5, n=0)


def test_no_fixed_point_and_no_floor_are_said() -> None:
    valley = Quadratics(torch.diag(torch.tensor([1.0, 0.0]))[None], torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"E\[B\] at alpha = 0\.1, k = 2 is singular"):
        valley.fixed_point(0.1, 2)
    with pytest.raises(UserError, match=r"E\[C\] at alpha = 0\.1, k = 2 is singular"):
        valley.minimiser(0.1, 2)
    assert valley.mean_limit(0.1, 2) == valley.mean_square_limit(0.1, 2) == 0
    tasks = on_the_line([1, 0.5], [0, 19])
    with pytest.raises(UserError, match=r"epsilon = 3\.5 .* between 0 and 3\.15"):
        tasks.noise_floor(0.5, 2, 3.5)
    with pytest.raises(UserError, match="lower alpha"):
        on_the_line([4], [1]).noise_floor(0.7, 2, 0.1)
    with pytest.raises(UserError, match="between 0 and"):
        tasks.noise_floor(0.5, 2, 0)


def test_quadratic_bowls() -> None:
    g = torch.Generator().manual_seed(0)
    H, w = torch.randn(3, 2, 2, generator=g), torch.randn(3, 2, generator=g)
    H = H @ H.mT
    support, query, _ = Quadratics(H, w).sample(many(900))
    assert one(support.x).shape == (900, 1, 2, 2)
    which = [(w == y).all(1).nonzero().item() for y in support.y[:, 0]]
    assert torch.equal(one(support.x)[:, 0], H[which])
    assert torch.equal(one(support.x), one(query.x))
    assert torch.equal(support.y, query.y)
    assert torch.bincount(torch.tensor(which)).min() > 250
    theta = torch.tensor([0.3, -2.0])
    off = theta - w[0]
    expected = 0.5 * off @ H[0] @ off
    torch.testing.assert_close(
        quadratic_loss(theta, type(support)(H[:1], w[:1])), expected
    )


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(UserError, match=r"H has shape \[2, 3, 2\] and w \[2, 3\]"):
        Quadratics(torch.zeros(2, 3, 2), torch.zeros(2, 3))
