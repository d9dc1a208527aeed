"""What a meta-gradient is made of, to first order in the inner learning rate α.

Nichol et al. 2018, section 5.1, expand the expected meta-gradients of MAML, FOMAML and
Reptile in α. Two vectors appear: AvgGrad, which points towards joint training, and
AvgGradInner, which raises the inner product of the gradients of two minibatches of one
task. Here the two are computed as they are defined, the meta-gradients by running the
library's own rules, and the coefficients by fitting one to the other.

Expectations are exact: tasks have a few minibatches, drawn independently with
replacement, and every sequence of k of them is run.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.kernel import Loss, of_loss
from reptile_lib.meta import Rule, reptile
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.tasks import Batch, Episodes

SEQUENCES = 100_000  # sequences of minibatches that are run at a time


class Terms(NamedTuple):
    """The two vectors of the expansion, means over the tasks."""

    avg_grad: Tensor
    """[P]: E[ḡ₁]."""
    avg_grad_inner: Tensor
    """[P]: E[H̄₂ ḡ₁] = ½ E[∂(ḡ₁·ḡ₂)/∂φ]."""


def terms(loss: Loss, phi: Tensor, minibatches: Batch) -> Terms:
    """Return AvgGrad and AvgGradInner at φ (Nichol et al. 2018, section 5.1).

    Args:
        loss: loss(theta [P], batch) -> scalar, twice differentiable.
        phi: [P].
        minibatches: x [T, m, ...], y [T, m, ...]: m minibatches of each of T tasks,
            each a single "example" for `loss`.
    """
    x_of_all = _tensor(minibatches)
    with torch.enable_grad():
        phi = phi.detach().requires_grad_()
        rows = [
            torch.autograd.grad(loss(phi, Batch(x, y)), phi, create_graph=True)[0]
            for x, y in _singly(minibatches)
        ]
        g = torch.stack(rows).view(*x_of_all.shape[:2], -1)  # [T, m, P]
        products = torch.einsum("tip,tjp->tij", g, g)  # all pairs of a task
        (inner,) = torch.autograd.grad(0.5 * products.mean(), phi)
    return Terms(g.detach().mean((0, 1)), inner)


def _tensor(minibatches: Batch) -> Tensor:
    if not isinstance(minibatches.x, Tensor):
        raise UserError("minibatches have a tuple for x; give one tensor")
    return minibatches.x


def _singly(minibatches: Batch) -> list[Batch]:
    flat = minibatches.map(lambda part: part.flatten(0, 1).unsqueeze(1))
    x, y = _tensor(flat), flat.y
    return [Batch(*pair) for pair in zip(x, y, strict=True)]


def expected_gradient(
    rule: Rule, loss: Loss, phi: Tensor, minibatches: Batch, k: int, alpha: float
) -> Tensor:
    """Return the exact expected meta-gradient of `rule` at φ, [P].

    k minibatches are drawn. Reptile takes an SGD step on each, and its meta-gradient is
    (φ − φ̃)/α. The other rules take k − 1 steps and use the k-th as their query set.

    Args:
        rule: `meta.reptile`, `meta.fomaml` or `meta.maml`.
        loss: as in `terms`.
        phi: [P].
        minibatches: as in `terms`.
        k: minibatches an inner loop, at least 1.
        alpha: the inner learning rate.

    Raises:
        UserError: k < 1, α ≤ 0, or there are too many sequences to run.
    """
    tasks, m = _tensor(minibatches).shape[:2]
    if k < 1 or tasks * m**k > SEQUENCES:
        raise UserError(
            f"k = {k} with {m} minibatches of {tasks} tasks; give k of at least 1 and"
            f" at most {SEQUENCES} sequences (tasks times minibatches to the power k)"
        )
    numbers = torch.arange(m, device=phi.device)
    sequences = torch.cartesian_prod(*[numbers] * k).view(-1, k)
    task = torch.arange(tasks, device=phi.device).repeat_interleave(len(sequences))
    order = sequences.repeat(tasks, 1)
    given = minibatches.map(lambda part: part[task])
    last = torch.arange(len(task), device=phi.device)[:, None], order[:, -1:]
    held_out = given.map(lambda part: part[last])
    steps = order if rule is reptile else order[:, :-1]
    episodes = Episodes(given, held_out, steps[..., None])
    target = rule(InnerLoop(of_loss(loss), sgd(alpha)), phi, episodes, None)
    return (phi - target.phi) / (alpha if rule is reptile else 1)


class Coefficients(NamedTuple):
    """A meta-gradient as a·AvgGrad + b·α·AvgGradInner + O(α²)."""

    avg_grad: float
    """a"""
    avg_grad_inner: float
    """b"""
    misfit: float
    """Share of the meta-gradient's first two orders in α that the two miss."""


def coefficients(
    rule: Rule,
    loss: Loss,
    points: Tensor,
    minibatches: Batch,
    k: int,
    largest_alpha: float,
) -> Coefficients:
    """Measure the coefficients of Nichol et al. 2018, section 5.1, for one rule.

    The expected meta-gradient is computed at 2k values of α and fitted by a polynomial
    of degree 2k − 1 in α; on quadratic losses it is one. Its first two coefficients are
    then explained, by least squares over all points, by AvgGrad and AvgGradInner, each
    by both.

    Args:
        rule: as in `expected_gradient`.
        loss: as in `terms`.
        points: [p, P], where to measure; float64.
        minibatches: as in `terms`; float64.
        k: minibatches an inner loop.
        largest_alpha: the largest α of the fit; small against 1/curvature.

    Raises:
        UserError: as in `expected_gradient`, or the points are not float64.
    """
    if points.dtype != torch.float64:
        raise UserError(
            f"points are {points.dtype}, too coarse for a limit; give torch.float64"
        )
    share = torch.linspace(0.5 / k, 1, 2 * k, dtype=torch.float64)
    measured = torch.stack(
        [
            torch.cat(
                [
                    expected_gradient(rule, loss, phi, minibatches, k, alpha)
                    for phi in points
                ]
            )
            for alpha in (largest_alpha * share).tolist()
        ]
    )  # [2k, p·P]
    powers = share[:, None] ** torch.arange(2 * k)
    orders = torch.linalg.solve(powers.to(measured), measured)[:2].mT  # [p·P, 2]
    orders = orders / orders.new_tensor([1, largest_alpha])
    found = [terms(loss, phi, minibatches) for phi in points]
    basis = torch.stack([torch.cat(part) for part in zip(*found, strict=True)], 1)
    fit = torch.linalg.lstsq(basis, orders).solution  # [term, order]
    wanted = torch.diag(fit.diagonal())
    misfit = (orders - basis @ wanted).norm() / orders.norm()
    a, b = fit.diagonal().tolist()
    return Coefficients(a, b, misfit.item())
