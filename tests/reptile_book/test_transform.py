"""The transform model against NumPy, hand computations and its own definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_book.transform import (
    TransformModel,
    gradient_descent,
    least_squares,
    random_features,
    ridge_head,
    whitening,
)
from reptile_lib import UserError

pytestmark = pytest.mark.usefixtures("float64")


def problem(
    n: int = 12, d: int = 3, m: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = 5 + torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, torch.randn(n, m, generator=g, dtype=torch.float64)


def deficient() -> tuple[Tensor, Tensor]:
    """Three columns, the third the sum of the others: centred, rank 2."""
    x, y = problem(n=8, d=2)
    return torch.cat([x, x.sum(1, keepdim=True)], 1), y


def assert_same(actual: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_in_the_head() -> None:
    # The line y = 2x + 1 through three points, and its mirror image in column two.
    x = torch.tensor([[0.0], [1.0], [5.0]])
    model = least_squares(x, torch.cat([2 * x + 1, -2 * x], 1))
    assert_same(model.theta, torch.tensor([[2.0, -2.0]]))
    assert_same(model.b, torch.tensor([1.0, 0.0]))
    assert_same(model(torch.tensor([[10.0]])), torch.tensor([[21.0, -20.0]]))


def test_ridge_in_the_head() -> None:
    # x_c = (-1, 1), y_c = (-3, 3): θ = 6 / (2 + λ), through the means (1, 4).
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [7.0]])
    model = least_squares(x, y, ridge=4.0)
    assert (model.theta.item(), model.b.item()) == pytest.approx((1.0, 3.0))


@given(
    n=st.integers(1, 9),
    d=st.integers(1, 6),
    ridge=st.sampled_from([0.0, 0.1, 3.0]),
    seed=st.integers(0, 99),
)
def test_is_numpys_least_squares(n: int, d: int, ridge: float, seed: int) -> None:
    x, y = problem(n, d, 2, seed)
    model = least_squares(x, y, ridge)
    # An independent form: ridge as d further examples, centred by hand.
    x_c, y_c = x.numpy() - x.numpy().mean(0), y.numpy() - y.numpy().mean(0)
    rows = np.vstack([x_c, math.sqrt(ridge) * np.eye(d)])
    targets = np.vstack([y_c, np.zeros((d, 2))])
    expected = torch.from_numpy(np.linalg.lstsq(rows, targets, rcond=1e-12)[0])
    assert_same(model.theta, expected, 1e-8)
    assert_same(model.b, y.mean(0) - x.mean(0) @ expected, 1e-8)


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e6])
def test_rounding_is_no_direction(offset: float) -> None:
    # Fewer examples than inputs: centred, their rank is n - 1. An offset leaves its
    # rounding in the last singular value, whose inverse must not enter.
    for n in (2, 3, 5):
        x, y = problem(n, 8)
        x = x + offset
        model = least_squares(x, y)
        x_c = x - x.mean(0)
        expected = torch.linalg.pinv(x_c, rtol=1e-7) @ (y - y.mean(0))
        assert_same(model.theta, expected, 1e-7)


@given(seed=st.integers(0, 99), ridge=st.sampled_from([0.0, 0.5]))
def test_residuals_are_orthogonal(seed: int, ridge: float) -> None:
    x, y = problem(seed=seed)
    model = least_squares(x, y, ridge)
    residual = y - model(x)
    assert_same(residual.sum(0), torch.zeros(2))
    assert_same((x - x.mean(0)).T @ residual, ridge * model.theta)


def test_the_usual_solvers_agree() -> None:
    x, y = problem()
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    Q, R = torch.linalg.qr(design)
    model = least_squares(x, y)
    fitted = torch.cat([model.theta, model.b[None]])
    assert_same(fitted, torch.linalg.solve_triangular(R, Q.T @ y, upper=True))
    assert_same(fitted, torch.linalg.lstsq(design, y).solution)


def test_of_many_solutions_the_shortest() -> None:
    x, y = deficient()
    model = least_squares(x, y)
    assert_same(x[:, :2].sum(1, keepdim=True), x[:, 2:])
    # Moving along the null direction leaves the fit and makes θ longer.
    null = torch.tensor([[1.0], [1.0], [-1.0]])
    for step in (-0.1, 0.1):
        other = TransformModel(model.theta + step * null, model.b)
        assert_same(other(x), model(x))
        assert (other.theta.norm(dim=0) > model.theta.norm(dim=0)).all()
    full = least_squares(x[:, :2], y)
    assert_same(model(x), full(x[:, :2]))


def test_constant_column_and_fewer_examples_than_inputs() -> None:
    x, y = problem(n=2, d=4)
    x = torch.cat([x, torch.full((2, 1), 7.0)], 1)
    model = least_squares(x, y)
    assert_same(model(x), y)
    assert_same(model.theta[-1], torch.zeros(2))
    assert least_squares(torch.ones(3, 1), torch.arange(3.0)[:, None]).b == 1


def test_rtol_is_where_a_direction_ends() -> None:
    x, y = problem(d=2)
    x[:, 1] = 1e-4 * x[:, 1]
    assert least_squares(x, y).theta[1].abs().min() > 1
    assert least_squares(x, y, rtol=1e-2).theta[1].abs().max() < 1


def test_a_stack_of_problems() -> None:
    one, two = problem(seed=1), problem(seed=2)
    x, y = (torch.stack(pair) for pair in zip(one, two, strict=True))
    stacked = least_squares(x, y, ridge=0.3)
    for i, (xi, yi) in enumerate((one, two)):
        single = least_squares(xi, yi, ridge=0.3)
        assert_same(stacked.theta[i], single.theta)
        assert_same(stacked(x)[i], single(xi))


@pytest.mark.parametrize("make", [problem, deficient])
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_gradient_descent_ends_there(make: object, ridge: float) -> None:
    x, y = problem() if make is problem else deficient()
    exact = least_squares(x, y, ridge)
    h = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    lr = 1 / (h.max().item() + ridge / len(x))
    found = gradient_descent(x, y, lr, 3000, ridge)
    assert_same(found.theta, exact.theta, 1e-9)
    assert_same(found.b, exact.b, 1e-9)


def test_gradient_descent_is_autograds() -> None:
    x, y = problem()
    ridge, lr = 0.7, 0.05
    theta = torch.zeros(3, 2, requires_grad=True)
    b = y.mean(0).clone().requires_grad_()
    optimizer = torch.optim.SGD([theta, b], lr)
    x_c = x - x.mean(0)
    for _ in range(5):
        optimizer.zero_grad()
        fit = (x_c @ theta + b - y).square().sum() + ridge * theta.square().sum()
        (fit / (2 * len(x))).backward()
        optimizer.step()
    once = gradient_descent(x, y, lr, 2, ridge)
    model = gradient_descent(x, y, lr, 3, ridge, start=once)
    assert_same(model.theta, theta.detach())
    assert_same(model.b, (b - x.mean(0) @ theta).detach())


def test_gradient_descent_contracts_as_it_says() -> None:
    x = torch.tensor([[-2.0], [2.0]])  # h = 4
    y = 3 * x
    for lr in (0.1, 0.25, 0.4):
        error = 3 - gradient_descent(x, y, lr, 2).theta.item()
        assert error == pytest.approx(3 * (1 - 4 * lr) ** 2)
    with pytest.raises(UserError, match=r"diverged at lr = 0\.6"):
        gradient_descent(x, y, 0.6, 9000)


@pytest.mark.parametrize("d", [2, 30])
def test_head_is_ridge_on_one_hot(d: int) -> None:
    features, _ = problem(n=6, d=d)
    y = torch.tensor([0, 2, 1, 0, 2, 1])
    head = ridge_head(features, y, ways=3, ridge=0.5)
    expected = least_squares(features, torch.eye(3)[y], ridge=0.5)
    assert_same(head.theta, expected.theta)
    assert_same(head.b, expected.b)
    assert_same(head(features).sum(1), torch.ones(6))  # scores of a one-hot sum to 1


def test_head_of_a_stack() -> None:
    x = torch.stack([problem(n=4, seed=i)[0] for i in range(2)])
    y = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]])
    stacked = ridge_head(x, y, 2)
    for i in range(2):
        assert_same(stacked(x)[i], ridge_head(x[i], y[i], 2)(x[i]))


def test_head_can_be_trained_through() -> None:
    features, _ = problem(n=4, d=5)
    features.requires_grad_()
    ridge = torch.tensor(0.5, requires_grad=True)
    y = torch.tensor([0, 1, 0, 1])

    def scores(features: Tensor, ridge: Tensor) -> Tensor:
        return ridge_head(features, y, 2, ridge)(features)

    assert torch.autograd.gradcheck(scores, (features, ridge))


def test_whitening_whitens() -> None:
    x, _ = problem(n=50)
    x = x @ torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 2, 0.1]])
    z = whitening(x)(x)
    assert_same(z.mean(0), torch.zeros(3))
    assert_same(z.T @ z / len(x), torch.eye(3))


def test_whitening_keeps_the_directions_that_vary_most() -> None:
    x = torch.tensor([[1.0, 10], [1, -10], [-1, 10], [-1, -10]])
    model = whitening(x, 1)
    assert_same(model.theta, torch.tensor([[0.0], [0.1]]))
    assert_same(whitening(-x, 1).theta, model.theta)
    values, vectors = np.linalg.eigh(np.cov(problem(40)[0].T.numpy(), bias=True))
    theta = whitening(problem(40)[0]).theta.flip(1)
    expected = torch.from_numpy(vectors / np.sqrt(values)).abs()
    assert_same(theta.abs(), expected, 1e-9)


def test_whitening_counts_the_directions() -> None:
    x, _ = deficient()
    assert whitening(x).theta.shape == (3, 2)
    with pytest.raises(UserError, match=r"components = 3, but .* in 2 directions"):
        whitening(x, 3)
    with pytest.raises(UserError, match="inputs are all the same"):
        whitening(torch.ones(4, 2))


def test_random_features_approach_the_gaussian_kernel() -> None:
    x, _ = problem(n=5, d=2)
    z = random_features(x, 40_000, scale=0.8)
    kernel = torch.exp(-(0.8**2) * torch.cdist(x, x) ** 2 / 2)
    assert_same(z @ z.T, kernel, 0.03)


def test_random_features_follow_the_seed() -> None:
    x, _ = problem()
    one, two, other = (random_features(x, 7, seed=s) for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    assert one.shape == (12, 7)
    with pytest.raises(UserError, match="count = 0"):
        random_features(x, 0)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.ones(3, 1), torch.ones(4, 1), r"\[3, 1\] and y \[4, 1\]"),
        (torch.ones(3, 1), torch.ones(3), r"column of targets is \[S, 1\]"),
        (torch.ones(0, 1), torch.ones(0, 1), "S > 0"),
        (torch.ones(3, 1).int(), torch.ones(3, 1), "x is torch.int32"),
        (torch.ones(3, 1), torch.ones(3, 1).half(), "convert both to float32"),
        (torch.full((3, 1), math.inf), torch.ones(3, 1), "x holds values"),
        (torch.ones(3, 1), torch.full((3, 1), math.nan), "y holds values"),
    ],
)
def test_bad_examples_are_named(x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        least_squares(x, y)
    with pytest.raises(UserError, match=words):
        gradient_descent(x, y, 0.1, 1)


def test_bad_settings_are_named() -> None:
    x, y = problem()
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(UserError, match="ridge = -1"):
        least_squares(x, y, ridge=-1)
    with pytest.raises(UserError, match="lr = 0"):
        gradient_descent(x, y, 0, 1)
    with pytest.raises(UserError, match="steps = -1"):
        gradient_descent(x, y, 1.0, -1)
    with pytest.raises(UserError, match=r"θ \[2, 2\], the examples need \[3, 2\]"):
        gradient_descent(x, y, 0.1, 1, start=least_squares(x[:, :2], y))
    with pytest.raises(UserError, match="x has 2 columns, the model was fitted to 3"):
        least_squares(x, y)(x[:, :2])
    with pytest.raises(UserError, match="ridge = 0"):
        ridge_head(x, labels, 2, ridge=0)
    with pytest.raises(UserError, match="labels from 0 to 0 for ways = 0"):
        ridge_head(x, labels, 0)
    with pytest.raises(UserError, match=r"labels torch.float64 \[12\]"):
        ridge_head(x, labels.double(), 2)
    with pytest.raises(UserError, match=r"labels torch.int64 \[11\]"):
        ridge_head(x, labels[1:], 2)
