"""The transform model: a linear map x ↦ θᵀx + b, fitted by least squares.

It is ordinary linear regression and no part of Reptile. The article that the book
follows puts it in front of the algorithm; section 2.1 says what it is good for. In
meta-learning the idea has one true place: a network's last layer, solved for in closed
form on the few examples of a task (`ridge_head`).

Letters of shapes: S examples, d inputs, m outputs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib.errors import UserError


@dataclass(frozen=True)
class TransformModel:
    """x ↦ θᵀx + b, for single examples, batches, and stacks of tasks."""

    theta: Tensor
    """[..., d, m]"""
    b: Tensor
    """[..., m]"""

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [..., S, d] to [..., S, m]; both keep the leading axes of a stack.

        Raises:
            UserError: x does not have d columns.
        """
        if x.shape[-1] != self.theta.shape[-2]:
            raise UserError(
                f"x has {x.shape[-1]} columns, the model was fitted to"
                f" {self.theta.shape[-2]}; give it the same inputs"
            )
        return x @ self.theta + self.b.unsqueeze(-2)


def least_squares(
    x: Tensor, y: Tensor, ridge: float = 0.0, rtol: float | None = None
) -> TransformModel:
    """Minimise Σ ‖θᵀxᵢ + b − yᵢ‖² + ridge ‖θ‖² in closed form; b is not penalised.

    With X_c and y_c less their column means (Hastie, Tibshirani & Friedman 2009,
    section 3.4.1)::

        θ* = (X_cᵀX_c + ridge I)⁻¹ X_cᵀ y_c        b* = ȳ − θ*ᵀ x̄

    Where X_cᵀX_c has no inverse, θ* is the shortest of all minimisers. It is computed
    from the singular values of X_c: the formula as it stands would square the condition
    number, and `torch.linalg.lstsq` asks for full rank on CUDA.

    Args:
        x: [..., S, d], floating point; leading axes are a stack of problems.
        y: [..., S, m].
        ridge: ρ ≥ 0.
        rtol: singular values up to this part of the largest count as 0. If None, what
            rounding can make of a 0: max(S, d) times the machine precision, as in NumPy
            and LAPACK, of the largest singular value or of the largest entry of x,
            whose rounding centring leaves behind.

    Raises:
        UserError: shapes or dtypes do not fit, a value is not finite, or ridge < 0.
    """
    _check(x, y, ridge)
    x_mean, y_mean = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    u, s, vh = torch.linalg.svd(x - x_mean, full_matrices=False)
    keep = _is_positive(s, x, rtol)
    inverse = torch.where(keep, s / (s * s + ridge).where(keep, 1.0), 0.0)
    theta = vh.mT @ (inverse.unsqueeze(-1) * (u.mT @ (y - y_mean)))
    return _with_intercept(theta, x_mean, y_mean)


def gradient_descent(
    x: Tensor,
    y: Tensor,
    lr: float,
    steps: int,
    ridge: float = 0.0,
    start: TransformModel | None = None,
) -> TransformModel:
    """Minimise the same loss, divided by 2S, by full-batch gradient descent.

    The inputs are centred first. Then b settles at once, and a start at θ = 0 stays in
    the span of the examples, so that the limit is the minimiser `least_squares` gives,
    also where there are many. An error along an eigenvector of X_cᵀX_c/S with
    eigenvalue h shrinks by 1 − lr (h + ridge/S) a step; rates below 2/(h + ridge/S) for
    the largest h converge.

    Args:
        x: [S, d].
        y: [S, m].
        lr: learning rate α.
        steps: number of steps.
        ridge: ρ ≥ 0.
        start: where to start; θ = 0 if None.

    Raises:
        UserError: as `least_squares`; or lr is not positive, steps is negative, the
            start is another problem's, or the steps diverge.
    """
    _check(x, y, ridge)
    if not (0 < lr < math.inf and steps >= 0):
        raise UserError(
            f"lr = {lr}, steps = {steps}; give a positive rate and no negative number"
            " of steps"
        )
    size = x.shape[-2]
    x_mean, y_mean = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    x_c, y_c = x - x_mean, y - y_mean
    theta = x.new_zeros(x.shape[-1], y.shape[-1])
    if start is not None:
        if start.theta.shape != theta.shape:
            raise UserError(
                f"start has θ {list(start.theta.shape)}, the examples need"
                f" {list(theta.shape)}; start from a model of the same problem"
            )
        theta = start.theta
    for _ in range(steps):
        g = (x_c.mT @ (x_c @ theta - y_c) + ridge * theta) / size
        theta = theta - lr * g
    if not theta.isfinite().all():
        raise UserError(
            f"gradient descent diverged at lr = {lr}; take a rate below 2 over the"
            " largest eigenvalue of the inputs' covariance, or standardise the inputs"
        )
    return _with_intercept(theta, x_mean, y_mean)


def ridge_head(
    features: Tensor, y: Tensor, ways: int, ridge: float | Tensor = 1.0
) -> TransformModel:
    """Fit a classifier's last layer to a task in closed form: ridge on one-hot labels.

    The base learner of R2-D2 (Bertinetto et al. 2019, section 3), here with a free
    intercept. By the Woodbury identity only an S × S system has to be solved, however
    many features there are::

        θ* = X_cᵀ (X_c X_cᵀ + ridge I)⁻¹ Y_c

    Differentiable by `features` and `ridge`, so that a network below can be trained
    through it. The model's outputs are scores: the largest is the answer.

    Args:
        features: [..., S, d]; leading axes are a stack of tasks.
        y: integer labels [..., S] in [0, ways).
        ways: m, number of classes.
        ridge: ρ > 0; a number, or a tensor [] to learn it.

    Raises:
        UserError: shapes do not fit, a label is out of range, or ridge is not positive.
    """
    if y.is_floating_point() or y.shape != features.shape[:-1]:
        raise UserError(
            f"labels {y.dtype} {list(y.shape)} for features {list(features.shape)};"
            f" give an integer label an example, {list(features.shape[:-1])}"
        )
    if y.numel() and not 0 <= y.min() <= y.max() < ways:
        raise UserError(
            f"labels from {y.min()} to {y.max()} for ways = {ways}; number the classes"
            f" of a task from 0 to {ways - 1}"
        )
    if not ridge > 0:
        raise UserError(f"ridge = {ridge}; give a positive one")
    targets = F.one_hot(y.long(), ways).to(features)
    _check(features, targets, 0.0)
    x_mean, y_mean = features.mean(-2, keepdim=True), targets.mean(-2, keepdim=True)
    x_c = features - x_mean
    gram = x_c @ x_c.mT + ridge * torch.eye(x_c.shape[-2]).to(x_c)
    theta = x_c.mT @ torch.linalg.solve(gram, targets - y_mean)
    return _with_intercept(theta, x_mean, y_mean)


def whitening(x: Tensor, components: int | None = None) -> TransformModel:
    """Map inputs to their principal components, each scaled to variance 1.

    PCA with whitening as a transform model: fitted to the inputs alone, without any y.

    Args:
        x: [S, d].
        components: how many to keep, the largest first; all that vary if None.

    Returns:
        a model from d to `components` columns, uncorrelated over x and of mean 0. Signs
        are such that the largest entry of each column of θ is positive.

    Raises:
        UserError: x does not vary in so many directions.
    """
    _check(x, x, 0.0)
    size = x.shape[-2]
    mean = x.mean(-2, keepdim=True)
    _, s, vh = torch.linalg.svd(x - mean, full_matrices=False)
    rank = int(_is_positive(s, x, None).sum())
    count = rank if components is None else components
    if rank == 0:
        raise UserError("the inputs are all the same; whitening needs some that vary")
    if not 1 <= count <= rank:
        raise UserError(
            f"components = {components}, but the inputs vary in {rank} directions; ask"
            f" for 1 to {rank}"
        )
    directions = vh[:count]
    largest = directions.abs().argmax(-1, keepdim=True)
    signs = directions.gather(-1, largest).sign()
    theta = (signs * directions / (s[:count, None] / math.sqrt(size))).mT
    return _with_intercept(theta, mean, mean.new_zeros(1, count))


def random_features(x: Tensor, count: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Return √(2/D) cos(Wᵀx + c) for D random directions (Rahimi & Recht 2007).

    Products of two examples' features approach the Gaussian kernel
    exp(−scale² ‖x − x′‖² / 2) as D grows. Nothing is fitted; the same seed gives the
    same features.

    Args:
        x: [..., d].
        count: D, number of features.
        scale: standard deviation of W; larger values wiggle faster.
        seed: draws W ~ N(0, scale²) and c ~ U[0, 2π], on the CPU.

    Returns:
        [..., D]

    Raises:
        UserError: fewer than one feature.
    """
    if count < 1:
        raise UserError(f"count = {count}; ask for at least 1 feature")
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(x.shape[-1], count, generator=generator, dtype=torch.float64)
    c = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return math.sqrt(2 / count) * torch.cos(x @ (scale * W).to(x) + c.to(x))


def _is_positive(s: Tensor, x: Tensor, rtol: float | None) -> Tensor:
    """Tell singular values of centred x [..., S, d] from rounded zeros."""
    top = s.amax(-1, keepdim=True)
    if rtol is None:
        rtol = max(x.shape[-2:]) * torch.finfo(x.dtype).eps
        top = top.maximum(x.abs().amax((-2, -1)).unsqueeze(-1))
    return s > rtol * top


def _with_intercept(theta: Tensor, x_mean: Tensor, y_mean: Tensor) -> TransformModel:
    """Add b* = ȳ − θᵀx̄, which makes the residuals of centred data sum to 0."""
    return TransformModel(theta, (y_mean - x_mean @ theta).squeeze(-2))


def _check(x: Tensor, y: Tensor, ridge: float) -> None:
    if x.dim() < 2 or y.dim() < 2 or x.shape[:-1] != y.shape[:-1] or not x.numel():
        raise UserError(
            f"x has shape {list(x.shape)} and y {list(y.shape)}; give x [S, d] and"
            " y [S, m] with the same S > 0 (a column of targets is [S, 1])"
        )
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"x is {x.dtype} and y {y.dtype}; convert both to float32, or to float64"
        )
    if not ridge >= 0:
        raise UserError(f"ridge = {ridge}; it must not be negative")
    for name, values in (("x", x), ("y", y)):
        if not values.isfinite().all():
            raise UserError(f"{name} holds values that are not finite; take them out")
