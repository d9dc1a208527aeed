"""The expansion of the paper's section 5.1 against loops, Hessians and its table."""

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import hessian

from reptile_lib import Batch, InnerLoop, UserError
from reptile_lib.meta import Target, fomaml, joint, maml, reptile
from reptile_lib.theory.expansion import coefficients, expected_gradient, terms
from reptile_lib.theory.quadratics import quadratic_loss

T, M, D = 3, 3, 2  # T and M share a factor: pairs of task and sequence show mix-ups
float64: Any = {"dtype": torch.float64}


def bowls(seed: int = 0) -> tuple[Batch, Tensor]:
    """Return minibatches H [T, m, d, d], w [T, m, d] and points [2, d]."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(T, M, D, D, generator=g, **float64)
    w = torch.randn(T, M, D, generator=g, **float64)
    points = torch.randn(2, D, generator=g, **float64)
    return Batch(root @ root.mT / D, w), points


def curved_loss(theta: Tensor, batch: Batch) -> Tensor:
    """A loss whose Hessian changes with theta: a tanh unit on inputs x [b, d]."""
    assert isinstance(batch.x, Tensor)
    return (torch.tanh(batch.x @ theta) - batch.y).square().mean()


def curved() -> tuple[Batch, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(T, M, D, generator=g, **float64)
    y = torch.rand(T, M, generator=g, **float64)
    return Batch(x, y), torch.randn(3, D, generator=g, **float64)


PROBLEMS = {
    "bowls": (quadratic_loss, *bowls()),
    "curved": (curved_loss, *curved()),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)

# Nichol et al. 2018, section 5.1.
TABLE = {
    maml: lambda k: (1, -2 * (k - 1)),
    fomaml: lambda k: (1, -(k - 1)),
    reptile: lambda k: (k, -k * (k - 1) / 2),
}


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.__name__)
def test_the_papers_table(rule: Any, k: int) -> None:
    minibatches, points = bowls()
    found = coefficients(rule, quadratic_loss, points, minibatches, k, 0.05)
    assert found[:2] == pytest.approx(TABLE[rule](k), abs=1e-6)
    assert found.misfit < 1e-6


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.__name__)
def test_the_table_holds_for_losses_that_are_no_quadratics(rule: Any, k: int) -> None:
    minibatches, points = curved()
    found = coefficients(rule, curved_loss, points, minibatches, k, 0.02)
    assert found[:2] == pytest.approx(TABLE[rule](k), abs=2e-3)
    assert found.misfit < 1e-3


def test_another_rule_has_other_coefficients() -> None:
    minibatches, points = bowls()
    found = coefficients(joint, quadratic_loss, points, minibatches, 3, 0.05)
    assert found[:2] == pytest.approx((1, 0), abs=1e-6)


@pytest.mark.parametrize("strange", ["avg_grad_inner", "constant"])
def test_what_the_expansion_does_not_hold_is_a_misfit(strange: str) -> None:
    minibatches, points = bowls()

    def rule(U: InnerLoop, phi: Tensor, *rest: Any) -> Target:
        at = terms(quadratic_loss, phi, minibatches)
        more = {"avg_grad_inner": at.avg_grad_inner, "constant": torch.ones(D)}
        return Target(phi - at.avg_grad - more[strange], None, phi.sum())

    found = coefficients(rule, quadratic_loss, points, minibatches, 2, 0.05)
    assert found.misfit > 0.1


@each_problem
def test_terms_are_what_they_are_defined_as(problem: Any) -> None:
    loss, (x, y), points = problem
    for phi in points:
        gradients, inner = [], []
        for t in range(T):
            batches = [Batch(x[t, i : i + 1], y[t, i : i + 1]) for i in range(M)]
            g = [torch.func.grad(loss)(phi, batch) for batch in batches]
            H = [hessian(partial(loss, batch=batch), phi) for batch in batches]
            gradients += g
            inner += [H[j] @ g[i] for i, j in product(range(M), repeat=2)]
        found = terms(loss, phi, Batch(x, y))
        torch.testing.assert_close(found.avg_grad, torch.stack(gradients).mean(0))
        torch.testing.assert_close(found.avg_grad_inner, torch.stack(inner).mean(0))


@each_problem
def test_avg_grad_inner_is_half_the_gradient_of_the_squared_gradient(
    problem: Any,
) -> None:
    loss, (x, y), points = problem

    def squared(theta: Tensor) -> Tensor:  # E‖∇L_τ‖², L_τ the mean over minibatches
        g = torch.func.grad(lambda v, t: loss(v, Batch(x[t], y[t])))
        return torch.stack([g(theta, t).square().sum() for t in range(T)]).mean()

    for phi in points:
        expected = 0.5 * torch.func.grad(squared)(phi)
        found = terms(loss, phi, Batch(x, y)).avg_grad_inner
        torch.testing.assert_close(found, expected)


@given(seed=st.integers(0, 99), k=st.integers(1, 4), alpha=st.floats(0.01, 0.5))
def test_expected_gradients_by_loops(seed: int, k: int, alpha: float) -> None:
    minibatches, (phi, _) = bowls(seed)
    expected: dict[Any, Tensor] = dict.fromkeys(TABLE, torch.zeros(D, **float64))
    for t in range(T):
        H, w = minibatches.x[t], minibatches.y[t]
        for drawn in product(range(M), repeat=k):
            theta, back, path = phi, torch.eye(D, **float64), []
            for i in drawn:
                path.append(H[i] @ (theta - w[i]))
                theta = theta - alpha * path[-1]
            for i in drawn[:-1]:
                back = back @ (torch.eye(D, **float64) - alpha * H[i])
            share = 1 / (T * M**k)
            expected[reptile] = expected[reptile] + share * sum(path)
            expected[fomaml] = expected[fomaml] + share * path[-1]
            expected[maml] = expected[maml] + share * (back @ path[-1])
    for rule, value in expected.items():
        found = expected_gradient(rule, quadratic_loss, phi, minibatches, k, alpha)
        torch.testing.assert_close(found, value)


def test_bad_input_names_the_value_and_the_remedy() -> None:
    minibatches, points = bowls()
    with pytest.raises(UserError, match="k = 0 with 3 minibatches of 3 tasks; give k"):
        expected_gradient(reptile, quadratic_loss, points[0], minibatches, 0, 0.1)
    with pytest.raises(UserError, match=r"k = 12 with .* at most 100000 sequences"):
        expected_gradient(reptile, quadratic_loss, points[0], minibatches, 12, 0.1)
    with pytest.raises(UserError, match=r"lr = 0\.0 is no learning rate"):
        expected_gradient(reptile, quadratic_loss, points[0], minibatches, 2, 0.0)
    single = points.float()
    with pytest.raises(
        UserError, match=r"points are torch\.float32, .* torch\.float64"
    ):
        coefficients(reptile, quadratic_loss, single, minibatches, 2, 0.1)
