"""The sine problem's meta-step as twenty plain calls of torch per inner step.

For a stack of n networks of two hidden layers: the least that eager torch can do
without buffers of its own. It shares no code with the library, and is a reference for
what the library's loop adds around its arithmetic.
"""

import torch
from torch import Tensor

from reptile_lib.tasks import Episodes

SHAPES = ((64, 1), (1, 64), (64, 64), (1, 64), (1, 64), (1, 1))
"""Weights [out, in] and biases [1, out] of the layers, in φ's order."""


def views(vectors: Tensor) -> list[Tensor]:
    """View vectors [n, P] as weights [n, out, in] and biases [n, 1, out]."""
    parts = vectors.split([a * b for a, b in SHAPES], 1)
    return [p.view(-1, *shape) for p, shape in zip(parts, SHAPES, strict=True)]


def meta_step(phi: Tensor, tasks: Episodes, alpha: float, epsilon: float) -> Tensor:
    """Return φ + ε · mean of (φ̃ᵢ − φ), with SGD at rate α.

    Args:
        phi: [P].
        tasks: support x and y [n, S, 1], order [n, k, b].
        alpha: inner learning rate.
        epsilon: outer step size.
    """
    x, y = tasks.support
    assert isinstance(x, Tensor)
    rows = torch.arange(len(y))[:, None]
    theta = phi.repeat(len(y), 1)
    g = torch.empty_like(theta)
    (w1, b1, w2, b2, w3, b3), grads = views(theta), views(g)
    for batch in tasks.order.unbind(1):
        a, target = x[rows, batch], y[rows, batch]
        h = torch.baddbmm(b1, a, w1.mT).tanh_()
        z = torch.baddbmm(b2, h, w2.mT).tanh_()
        d = torch.baddbmm(b3, z, w3.mT).sub_(target).mul_(2 / batch.shape[1])
        e = torch.bmm(d, w3).mul_(1 - z * z)
        f = torch.bmm(e, w2).mul_(1 - h * h)
        for i, (by, into) in enumerate(((f, a), (e, h), (d, z))):
            torch.bmm(by.mT, into, out=grads[2 * i])
            torch.sum(by, 1, keepdim=True, out=grads[2 * i + 1])
        theta.sub_(g, alpha=alpha)
    return torch.lerp(phi, theta.mean(0), epsilon)
