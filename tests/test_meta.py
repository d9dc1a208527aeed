"""Outer rules against closed forms, brute force and the paper's expansion."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import Batch, InnerLoop, adam, conv4, mlp, momentum, sgd
from reptile_lib.fast.choose import Engine, make_kernel
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import of_loss
from reptile_lib.meta import (
    MetaState,
    Rule,
    Target,
    fomaml,
    joint,
    maml,
    outer_step,
    reptile,
    weighted_mean,
)
from reptile_lib.params import interpolate, ravel
from reptile_lib.tasks import Episodes
from reptile_lib.theory.quadratics import quadratic_loss
from tests import textbook

ENGINES: list[Engine] = ["serial", "threads", "stacked"]
RULES = [reptile, fomaml, maml, joint]
each_engine = pytest.mark.parametrize("engine", ENGINES)
CPU = torch.device("cpu")


def on_bowls(inner: InnerOptimizer) -> InnerLoop:
    return InnerLoop(of_loss(quadratic_loss), inner)


def on_model(
    model: nn.Module, inner: InnerOptimizer, engine: Engine = "stacked"
) -> InnerLoop:
    """Return U for the mean squared error; vectors keep the model's order."""
    kernel = make_kernel(model, F.mse_loss, device=CPU, engine=engine)
    return InnerLoop(kernel, inner)


def bowls(h: list[float], w: list[float], steps: int) -> Episodes:
    """Return tasks ½ h (θ − w)² on the line."""
    H, W = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (h, w))
    batch = Batch(H[..., None], W)
    return Episodes(batch, batch, torch.zeros(len(h), steps, 1, dtype=torch.int64))


def regression(tasks: int = 4) -> tuple[nn.Module, Episodes]:
    g = torch.Generator().manual_seed(5)
    model = mlp(1, 6, 1, activation=nn.Tanh, seed=3).double()
    x = torch.randn(tasks, 12, 1, generator=g, dtype=torch.float64)
    y = torch.randn(tasks, 12, 1, generator=g, dtype=torch.float64)
    order = torch.rand(tasks, 3, 8, generator=g).argsort(-1)[..., :4]
    support, query = Batch(x[:, :8], y[:, :8]), Batch(x[:, 8:], y[:, 8:])
    return model, Episodes(support, query, order)


def test_reptile_in_the_head() -> None:
    # φ = 4, w = 0, αh = ½: 4 → 2 → 1, so φ̃ = 1, and ε = ⅔ leads to 4 − ⅔·3 = 2.
    phi = torch.tensor([4.0]).double()
    target = reptile(on_bowls(sgd(0.5)), phi, bowls([1], [0], 2), None)
    assert target.phi.item() == 1
    assert target.loss.item() == (8 + 2) / 2  # ½·4² and ½·2²
    assert interpolate(phi, target.phi, 2 / 3).item() == pytest.approx(2)
    assert interpolate(phi, target.phi, 1.0).item() == 1
    assert interpolate(phi, target.phi, 0.0).item() == 4


def test_relatives_in_the_head() -> None:
    # φ = 4, w = 0, h = 1, αh = ½, k = 2: φ̃ = φ/4 = 1. FOMAML's gradient is h φ̃ = 1,
    # MAML's has the factor dφ̃/dφ = ¼ besides; joint training's is h φ = 4.
    phi = torch.tensor([4.0]).double()
    for rule, gradient in ((fomaml, 1), (maml, 0.25), (joint, 4)):
        target = rule(on_bowls(sgd(0.5)), phi, bowls([1], [0], 2), None)
        assert target.phi.item() == 4 - gradient


numbers = st.floats(-3, 3)


@given(
    tasks=st.lists(st.tuples(st.floats(0.1, 2), numbers), min_size=1, max_size=4),
    phi=numbers,
    alpha=st.floats(0.01, 0.9),
    k=st.integers(1, 6),
)
def test_closed_forms_on_the_line(
    tasks: list[tuple[float, float]], phi: float, alpha: float, k: int
) -> None:
    h, w = map(list, zip(*tasks, strict=True))
    adapted = [b + (1 - alpha * a) ** k * (phi - b) for a, b in tasks]
    n = len(tasks)
    expected = {
        reptile: sum(adapted) / n,
        fomaml: phi
        - sum(a * (t - b) for (a, b), t in zip(tasks, adapted, strict=True)) / n,
        maml: phi
        - sum(a * (1 - alpha * a) ** (2 * k) * (phi - b) for a, b in tasks) / n,
        joint: phi - sum(a * (phi - b) for a, b in tasks) / n,
    }
    start = torch.tensor([phi], dtype=torch.float64)
    for rule, value in expected.items():
        target = rule(on_bowls(sgd(alpha)), start, bowls(h, w, k), None)
        assert target.phi.item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
@each_engine
def test_one_inner_step_is_joint_training(engine: Engine, epsilon: float) -> None:
    # with SGD at rate α on the whole support set: joint training at rate εα
    model, episodes = regression()
    episodes = episodes._replace(order=torch.arange(8).expand(4, 1, 8))
    phi, alpha = ravel(model), 0.07
    U = on_model(model, sgd(alpha), engine)
    by_reptile, by_joint = (rule(U, phi, episodes, None) for rule in (reptile, joint))
    torch.testing.assert_close(
        interpolate(phi, by_reptile.phi, epsilon),
        interpolate(phi, by_joint.phi, epsilon * alpha),
        rtol=0,
        atol=1e-14,
    )
    assert by_reptile.loss.item() == pytest.approx(by_joint.loss.item(), rel=1e-12)


@each_engine
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "inner", [sgd(0.1), adam(0.01, (0.9, 0.99))], ids=["sgd", "adam"]
)
def test_the_order_of_tasks_does_not_matter(
    inner: InnerOptimizer, rule: Rule, engine: Engine
) -> None:
    model, episodes = regression()
    U, p = on_model(model, inner, engine), torch.tensor([2, 0, 3, 1])
    one = rule(U, ravel(model), episodes, None)
    two = rule(U, ravel(model), episodes.map(lambda t: t[p]), None)
    torch.testing.assert_close(one.phi, two.phi, rtol=0, atol=1e-14)
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-13, atol=0)
    for name, value in (one.state or {}).items():
        torch.testing.assert_close(value, (two.state or {})[name], rtol=0, atol=1e-14)


@each_engine
def test_fomaml_is_the_query_gradient_at_the_adapted_weights(engine: Engine) -> None:
    model, episodes = regression()
    (support, query, order), phi = episodes, ravel(model)
    gradients, losses = [], []
    for i in range(len(order)):
        one = textbook.model_at(model, phi)
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        x, y = textbook.rows(support.x, i)[0], support.y[i]
        textbook.descend(one, optimizer, F.mse_loss, x, y, order[i])
        x, y = textbook.rows(query.x, i)[0], query.y[i]
        g, value = textbook.gradient(one, F.mse_loss, x, y)
        gradients.append(g)
        losses.append(value)
    target = fomaml(on_model(model, sgd(0.1), engine), phi, episodes, None)
    expected = phi - torch.stack(gradients).mean(0)
    torch.testing.assert_close(target.phi, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(target.loss, torch.stack(losses).mean())


def unrolled_tanh_net(phi: Tensor, x: Tensor) -> Tensor:
    """Return the output of mlp(1, 6, 1, activation=nn.Tanh), written out."""
    w1, b1, w2, b2 = phi[:6, None], phi[6:12], phi[None, 12:18], phi[18:]
    return torch.tanh(x @ w1.T + b1) @ w2.T + b2


def unrolled(phi: Tensor, episodes: Episodes, optimizer: str) -> Tensor:
    """Return the mean query loss after the inner loop, as a function of φ."""
    (x, y), (query_x, query_y), order = episodes
    assert isinstance(x, Tensor)
    assert isinstance(query_x, Tensor)
    total = torch.zeros((), dtype=phi.dtype)
    for i in range(len(order)):
        theta = phi
        m = v = torch.zeros_like(phi)
        for t, batch in enumerate(order[i], 1):
            residual = unrolled_tanh_net(theta, x[i, batch]) - y[i, batch]
            (g,) = torch.autograd.grad((residual**2).mean(), theta, create_graph=True)
            if optimizer == "sgd":
                theta = theta - 0.1 * g
            elif optimizer == "momentum":
                m = 0.8 * m + g
                theta = theta - 0.1 * m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
                step = (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
                theta = theta - 0.01 * step
        total = (
            total + ((unrolled_tanh_net(theta, query_x[i]) - query_y[i]) ** 2).mean()
        )
    return total / len(order)


@each_engine
@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("sgd", sgd(0.1)),
        ("momentum", momentum(0.1, 0.8)),
        ("adam", adam(0.01, (0.9, 0.99))),
    ],
)
def test_maml_is_the_gradient_of_the_unrolled_loop(
    name: str, inner: InnerOptimizer, engine: Engine
) -> None:
    model, episodes = regression(tasks=2)
    U, phi = on_model(model, inner, engine), ravel(model).requires_grad_()
    value = unrolled(phi, episodes, name)
    (expected,) = torch.autograd.grad(value, phi)
    target = maml(U, phi.detach(), episodes, None)
    gradient = phi.detach() - target.phi
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(target.loss, value.detach())
    assert not target.phi.requires_grad
    assert not any(s.requires_grad for s in (target.state or {}).values())

    # ... and of finite differences, which know no autograd
    h = 1e-6
    differences = torch.stack(
        [
            (
                unrolled(phi + h * e, episodes, name)
                - unrolled(phi - h * e, episodes, name)
            )
            / (2 * h)
            for e in torch.eye(len(phi), dtype=phi.dtype)
        ]
    ).detach()
    torch.testing.assert_close(gradient, differences, rtol=0, atol=1e-7)
    first_order = phi.detach() - fomaml(U, phi.detach(), episodes, None).phi
    assert (first_order - gradient).abs().max() > 1e-3


def test_maml_through_adam_survives_a_dead_unit() -> None:
    # a parameter without gradient has v = 0, and the root of zero an infinite slope
    model, episodes = mlp(1, 4, 1).double(), regression()[1]
    with torch.no_grad():
        next(model.parameters())[0], list(model.parameters())[1][0] = 0, -1
    target = maml(on_model(model, adam(0.01)), ravel(model), episodes, None)
    assert target.phi.isfinite().all()
    assert target.phi[0] == 0


def test_maml_works_on_pictures() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 6, 1, 8, 8, generator=g), torch.arange(6).expand(2, -1) % 3
    model = conv4(ways=3, size=8)
    kernel = make_kernel(model, F.cross_entropy, device=CPU, engine="threads")
    order, phi = torch.arange(6).expand(2, 2, -1), kernel.pack(ravel(model))
    episodes = Episodes(Batch(x, y), Batch(x, y), order)
    target = maml(InnerLoop(kernel, sgd(0.1)), phi, episodes, None)
    assert target.phi.isfinite().all()
    assert (target.phi - phi).norm() > 0.01


def minibatch_bowls() -> tuple[Tensor, Tensor, Tensor]:
    """Return two tasks of three minibatches ½ (θ − w)ᵀ H (θ − w), and a φ."""
    g = torch.Generator().manual_seed(7)
    root = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)
    w = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    return root @ root.mT / 4, w, torch.randn(4, generator=g, dtype=torch.float64)


def expected_gradient(rule: Rule, k: int, alpha: float) -> Tensor:
    """Return the meta-gradient of k minibatches, averaged over every way to draw them.

    MAML and its first-order form keep the last minibatch as their query.
    """
    H, w, phi = minibatch_bowls()
    ways = torch.tensor(list(product(range(3), repeat=k)))
    steps = k if rule is reptile else k - 1
    task = torch.arange(2).repeat_interleave(len(ways))
    order = ways.repeat(2, 1)
    support, last = Batch(H[task], w[task]), order[:, -1]
    query = Batch(H[task, last][:, None], w[task, last][:, None])
    episodes = Episodes(support, query, order[:, :steps, None])
    moved = rule(on_bowls(sgd(alpha)), phi, episodes, None).phi
    return (phi - moved) / alpha if rule is reptile else phi - moved


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("rule", "average", "inner"),
    [
        (maml, lambda k: 1, lambda k: -2 * (k - 1)),
        (fomaml, lambda k: 1, lambda k: -(k - 1)),
        (reptile, lambda k: k, lambda k: -k * (k - 1) / 2),
    ],
    ids=["maml", "fomaml", "reptile"],
)
def test_leading_coefficients_of_the_expected_meta_gradient(
    rule: Rule, average: Callable[[int], int], inner: Callable[[int], float], k: int
) -> None:
    # Nichol et al. 2018, section 5.1: AvgGrad = E[ḡ₁], AvgGradInner = E[H̄₂ ḡ₁]. On
    # quadratics the meta-gradient is a polynomial in α of degree at most 2(k − 1), so
    # its first two coefficients follow from 2k − 1 rates, exactly.
    H, w, phi = minibatch_bowls()
    g = torch.einsum("tbij,tbj->tbi", H, phi - w)
    avg_grad = g.mean((0, 1))
    avg_grad_inner = torch.einsum("tij,tj->ti", H.mean(1), g.mean(1)).mean(0)

    rates = torch.arange(1, 2 * k + 1, dtype=torch.float64) / 20
    values = torch.stack([expected_gradient(rule, k, a) for a in rates.tolist()])
    coefficients = torch.linalg.solve(torch.linalg.vander(rates, N=len(rates)), values)
    torch.testing.assert_close(
        coefficients[0], average(k) * avg_grad, rtol=1e-7, atol=1e-8
    )
    torch.testing.assert_close(
        coefficients[1], inner(k) * avg_grad_inner, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("rule", [reptile, fomaml, maml])
def test_rules_hand_on_the_mean_state(rule: Rule) -> None:
    # h φ = 2 and 4 at φ = 2, one step of β₂ = ½: v = ½·4 and ½·16
    phi, inner = torch.tensor([2.0]).double(), adam(0.1, (0.0, 0.5))
    state: State | None = None
    for step, v in ((1, 5.0), (2, 7.5)):  # again from the same φ: ½·5 + ½·10
        target = rule(on_bowls(inner), phi, bowls([1, 2], [0, 0], 1), state)
        state = target.state
        assert state is not None
        assert state["step"].item() == step
        assert state["v"].tolist() == [pytest.approx(v)]


def test_joint_training_leaves_the_state_alone() -> None:
    phi, state = torch.tensor([2.0]).double(), {"v": torch.ones(1)}
    target = joint(on_bowls(adam(0.1)), phi, bowls([1], [0], 1), state)
    assert target.state is state


def test_rules_serve_several_runs_side_by_side() -> None:
    # runs as rows of φ: each moves as it would alone, at a rate of its own
    rates = torch.tensor([[0.5], [0.25]], dtype=torch.float64)
    phi = torch.tensor([[4.0], [2.0]], dtype=torch.float64)
    alone = bowls([1, 0.5], [0, 1], 2)
    both = alone.map(lambda t: torch.stack([t, t], 1))
    for rule in RULES:
        found = rule(on_bowls(sgd(rates)), phi, both, None).phi
        for run, lr in enumerate((0.5, 0.25)):
            expected = rule(on_bowls(sgd(lr)), phi[run], alone, None).phi
            torch.testing.assert_close(found[run], expected)


def test_a_mean_of_parts_is_the_mean_of_all() -> None:
    U, phi = on_bowls(adam(0.1, (0.5, 0.9))), torch.tensor([2.0]).double()
    tasks = bowls([1, 2, 3, 4, 5], [0, 1, 2, 3, 4], 3)
    parts = [tasks.map(lambda t, r=r: t[r]) for r in (slice(2), slice(2, 5))]  # type: ignore[misc]
    for rule in RULES:
        whole = rule(U, phi, tasks, None)
        found = weighted_mean([(len(p.order), rule(U, phi, p, None)) for p in parts], 5)
        torch.testing.assert_close(found.phi, whole.phi)
        torch.testing.assert_close(found.watched(), whole.watched(), equal_nan=True)
        torch.testing.assert_close(found.state, whole.state)
        assert weighted_mean([(5, whole)], 5) is whole


def test_what_is_watched() -> None:
    target = Target(torch.zeros(2), None, torch.tensor(3.0), torch.tensor(4.0))
    assert target.watched().tolist() == [3, 4]
    assert target._replace(steps=None).watched()[1].isnan()


def test_a_meta_state_is_mapped_as_a_whole() -> None:
    one = torch.ones(1)
    state = MetaState(one, {"v": one}, None, 7).map(lambda t: t + 1)
    assert (state.phi, state.inner_state) == (2 * one, {"v": 2 * one})
    assert (state.outer_state, state.meta_step) == (None, 7)


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_no_outer_optimiser_is_descent_at_rate_one(
    epsilon: float, start: float, end: float
) -> None:
    phi, target = torch.tensor([[start], [end]], dtype=torch.float64)
    plain, _ = outer_step(phi, target, epsilon)
    through, state = outer_step(phi, target, epsilon, sgd(1.0))
    torch.testing.assert_close(through, plain, rtol=0, atol=1e-12)
    assert state == {}


@pytest.mark.parametrize("epsilon", [1.0, 0.25])
@pytest.mark.parametrize(
    ("outer", "make"),
    [
        (momentum(0.5, 0.8), lambda p: torch.optim.SGD(p, 0.5, 0.8)),
        (adam(0.1, (0.9, 0.99)), lambda p: torch.optim.Adam(p, 0.1, (0.9, 0.99))),
    ],
)
def test_outer_optimisers_are_torchs_on_phi_minus_target(
    outer: InnerOptimizer, make: Callable[..., torch.optim.Optimizer], epsilon: float
) -> None:
    g = torch.Generator().manual_seed(8)
    targets = torch.randn(6, 4, generator=g, dtype=torch.float64)
    phi, state = torch.zeros(4).double(), None
    theirs = nn.Parameter(phi.clone())
    optimizer = make([theirs])
    for target in targets:
        phi, state = outer_step(phi, target, epsilon, outer, state)
        before = theirs.detach().clone()
        theirs.grad = before - target
        optimizer.step()
        theirs.data = before + epsilon * (theirs.data - before)
        torch.testing.assert_close(phi, theirs.data, rtol=0, atol=1e-12)


def test_momentum_in_the_head() -> None:
    # Targets always 1 away, rate 1, β = ½: moves of 1, 1 + ½, 1 + ½ + ¼.
    phi, state = torch.tensor([0.0]), None
    for expected in (1, 2.5, 4.25):
        phi, state = outer_step(phi, phi + 1, 1.0, momentum(1.0, 0.5), state)
        assert phi.item() == expected
