"""Quadratic bowls: tasks on which Reptile can be solved on paper.

One inner gradient step multiplies the distance to a task's minimum by I − αH_τ, so k of
them give φ̃ = φ − B_τ (φ − w_τ) with B_τ = I − (I − αH_τ)^k. A meta-step on n sampled
tasks is then linear in φ with random coefficients,

    φ ← φ − ε (1/n) Σᵢ B_τᵢ (φ − w_τᵢ),

and its mean and covariance obey linear equations, solved here in float64. Reptile is
algorithm 1 or equation 5 of Nichol et al. 2018 with full-batch gradient descent inside.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.rng import Draws
from reptile_lib.tasks import Batch, Episodes, draw_tasks


def quadratic_loss(theta: Tensor, batch: Batch) -> Tensor:
    """Return ½ (θ − w)ᵀ H (θ − w) for θ [d], averaged over H [b, d, d], w [b, d]."""
    assert isinstance(batch.x, Tensor)
    off = theta - batch.y
    return 0.5 * torch.einsum("bi,bij,bj->b", off, batch.x, off).mean()


@dataclass(frozen=True)
class Quadratics:
    """Quadratic bowls L_τ(θ) = ½ (θ − w_τ)ᵀ H_τ (θ − w_τ): tasks with exact solutions.

    A task has one "example", x = H_τ and y = w_τ, for `quadratic_loss` to read.
    All T tasks are equally likely.

    In the methods `alpha` is the inner learning rate, `k` the number of inner steps of
    gradient descent, `epsilon` the outer step size and `n` the number of tasks sampled
    for a meta-step, each from all T. They raise UserError where one is out of range.

    Args:
        H: [T, d, d], symmetric, one a task.
        w: [T, d], the minimisers.
    """

    H: Tensor
    w: Tensor

    draw = draw_tasks

    def __post_init__(self) -> None:
        """Raise UserError if the shapes do not fit or an H is not symmetric."""
        if self.H.shape != (*self.w.shape, self.w.shape[-1]):
            raise UserError(
                f"H has shape {list(self.H.shape)} and w {list(self.w.shape)};"
                " give H [T, d, d] and w [T, d]"
            )
        skew = (self.H - self.H.mT).abs().flatten(1).amax(1)
        bad = skew > 1e-5 * self.H.abs().flatten(1).amax(1)  # float32 has seven digits
        if bad.any():
            task = int(bad.nonzero()[0])
            raise UserError(
                f"H of task {task} differs from its transpose by {skew[task]:.3g};"
                " give (H + H.mT) / 2, which has the same loss"
            )

    def to(self, device: torch.device) -> "Quadratics":
        """Return the bowls on `device`."""
        return Quadratics(self.H.to(device), self.w.to(device))

    def sample(self, draws: Draws) -> Episodes:
        """Return bowls drawn with equal chances: x [m, 1, d, d], y [m, 1, d]."""
        which = (draws.uniform(0, 1) * len(self.w)).long()
        bowls = Batch(self.H[which], self.w[which])
        return Episodes(bowls, bowls)

    def progress(self, alpha: float, k: int) -> Tensor:
        """Return B_τ = I − (I − αH_τ)^k [T, d, d]: φ̃ = φ − B_τ (φ − w_τ)."""
        _check(alpha=alpha, k=k)
        H = self.H.double()
        eye = _eye(H)
        left: Tensor = torch.linalg.matrix_power(eye - alpha * H, k)
        return eye - left

    def fixed_point(self, alpha: float, k: int) -> Tensor:
        """Return φ* = (E[B_τ])⁻¹ E[B_τ w_τ], [d]: where the mean meta-step is zero.

        Raises:
            UserError: E[B_τ] is singular, so there is none or more than one.
        """
        B = self.progress(alpha, k)
        return _solve(B.mean(0), _pull(B, self.w), f"E[B] at alpha = {alpha}, k = {k}")

    def minimiser(self, alpha: float, k: int) -> Tensor:
        """Return argmin E[L_τ(U_τ^k(φ))], [d]: the best φ to take k steps from.

        The loss after k steps is ½ (φ − w)ᵀ C (φ − w) with C = (I − αH)^k H (I − αH)^k.
        k = 0 gives the minimiser of the average loss. It is the objective of MAML
        (Finn et al. 2017), here without a split into support and query set.

        Raises:
            UserError: E[C] is singular.
        """
        H = self.H.double()
        left = _eye(H) - self.progress(alpha, k) if k else _eye(H)
        C = left @ H @ left
        return _solve(C.mean(0), _pull(C, self.w), f"E[C] at alpha = {alpha}, k = {k}")

    def mean_rate(self, alpha: float, k: int, epsilon: float) -> float:
        """Return the spectral radius of I − εE[B_τ].

        The expected φ, and φ itself with all tasks in every meta-step, comes closer to
        φ* by this factor a meta-step in the end; from 1 on it does not converge.
        """
        _check(epsilon=epsilon)
        eigenvalues = torch.linalg.eigvalsh(self.progress(alpha, k).mean(0))
        rate: float = (1 - epsilon * eigenvalues).abs().max().item()
        return rate

    def mean_limit(self, alpha: float, k: int) -> float:
        """Return the ε below which `mean_rate` < 1; 0 if there is none."""
        eigenvalues = torch.linalg.eigvalsh(self.progress(alpha, k).mean(0))
        return 2 / eigenvalues.max().item() if eigenvalues.min() > 0 else 0.0

    def mean_square_rate(
        self, alpha: float, k: int, epsilon: float, n: int = 1
    ) -> float:
        """Return the spectral radius of E[(I − εB̂)⊗(I − εB̂)], B̂ the mean of n B_τ.

        By this factor a meta-step the covariance of φ changes in the end. Below 1 it
        settles at `noise_floor`; above 1 it grows, even if the mean converges.
        """
        _check(epsilon=epsilon)
        moments = _Moments.of(self.progress(alpha, k), n)
        eigenvalues = torch.linalg.eigvalsh(moments.step(epsilon))
        rate: float = eigenvalues.abs().max().item()
        return rate

    def mean_square_limit(self, alpha: float, k: int, n: int = 1) -> float:
        """Return the ε below which `mean_square_rate` < 1; 0 if there is none."""
        first, second = _Moments.of(self.progress(alpha, k), n)
        # E[(I − εB̂)⊗(I − εB̂)] = I − ε first + ε² second. All three are symmetric, and
        # the first exceeds I in no direction while ε second < first.
        factor, failed = torch.linalg.cholesky_ex(first)
        if failed:
            return 0.0
        half = torch.linalg.solve_triangular(factor, second, upper=False)
        whole = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        limit: float = 1 / torch.linalg.eigvalsh(whole).max().item()
        return limit

    def noise_floor(self, alpha: float, k: int, epsilon: float, n: int = 1) -> Tensor:
        """Return the covariance of φ that constant ε settles at, [d, d].

        It solves the Lyapunov equation V = E[(I − εB̂) V (I − εB̂)] + (ε²/n) E[r rᵀ]
        with r = B_τ (w_τ − φ*). Its trace is the mean squared distance to φ*. Memory
        grows with T d⁴.

        Raises:
            UserError: ε is too large for φ to settle, or E[B_τ] is singular.
        """
        rate = self.mean_square_rate(alpha, k, epsilon, n)
        if not rate < 1 or epsilon == 0:
            limit = self.mean_square_limit(alpha, k, n)
            raise UserError(
                f"epsilon = {epsilon} with alpha = {alpha}, k = {k}, n = {n} has no"
                f" noise floor (mean square rate {rate:.4g}); "
                + (
                    f"give one between 0 and {limit:.4g}"
                    if limit
                    else "no epsilon has one there, lower alpha"
                )
            )
        B = self.progress(alpha, k)
        off = self.w.double() - self.fixed_point(alpha, k)
        r = torch.einsum("tij,tj->ti", B, off)
        driving = epsilon**2 / n * (r.mT @ r / len(r)).flatten()
        step = _Moments.of(B, n).step(epsilon)
        floor: Tensor = torch.linalg.solve(_eye(step) - step, driving)
        return floor.view(len(off[0]), -1)


class _Moments(NamedTuple):
    """B̂ = mean of n sampled B_τ, to the second order, as [d², d²]."""

    first: Tensor
    """E[B̂]⊗I + I⊗E[B̂]"""
    second: Tensor
    """E[B̂⊗B̂]"""

    @classmethod
    def of(cls, B: Tensor, n: int) -> "_Moments":
        """Take the moments over the tasks of B [T, d, d]."""
        _check(n=n)
        mean, eye = B.mean(0), _eye(B)
        apart = torch.kron(mean, mean)  # two different tasks of the meta-batch
        same = torch.stack([torch.kron(b, b) for b in B]).mean(0)
        return cls(
            torch.kron(mean, eye) + torch.kron(eye, mean), apart + (same - apart) / n
        )

    def step(self, epsilon: float) -> Tensor:
        """Return E[(I − εB̂)⊗(I − εB̂)]."""
        return _eye(self.first) - epsilon * self.first + epsilon**2 * self.second


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _check(*, alpha: float = 1, k: int = 1, epsilon: float = 0, n: int = 1) -> None:
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha = {alpha} is no learning rate; give a positive one")
    if k < 1 or n < 1:
        raise UserError(f"k = {k}, n = {n}; give at least 1 of each")
    if not 0 <= epsilon < math.inf:
        raise UserError(f"epsilon = {epsilon}; give a number that is not negative")


def _pull(weight: Tensor, w: Tensor) -> Tensor:
    """E[weight_τ w_τ], [d], of weight [T, d, d] and w [T, d]."""
    return torch.einsum("tij,tj->ti", weight, w.double()).mean(0)


def _solve(matrix: Tensor, right: Tensor, name: str) -> Tensor:
    eigenvalues = torch.linalg.eigvalsh(matrix).abs()
    if eigenvalues.min() <= 1e-12 * eigenvalues.max():
        raise UserError(
            f"{name} is singular (its eigenvalues reach {eigenvalues.min():.3g}), so no"
            " one point is the answer; give tasks that together curve in every"
            " direction, or another alpha"
        )
    solution: Tensor = torch.linalg.solve(matrix, right)
    return solution
