"""Buffers for a stack of dense networks, and the gradient that is computed in them.

A small network's operations cost more than their arithmetic, so there are few of them,
twenty a step for three layers, and each is bound once to the memory that it reads and
writes: a step only calls them. A single task has buffers without the axis of tasks,
whose operations are cheaper still.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from reptile_lib.fast.cross_entropy import with_gradient
from reptile_lib.params import Layout

Operation = Callable[[], object]
tanh_back = torch.ops.aten.tanh_backward.grad_input
relu_back = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Workspace:
    """Where n tasks are adapted with minibatches of B examples; reused step by step.

    The first axis of `x`, `out` and `d` is missing where n = 1.
    """

    theta: Tensor  # [n, P]: the parameters
    g: Tensor  # [n, P]: their gradient
    x: Tensor  # [n, B, in]: what goes in
    out: Tensor  # [n, B, out]: what comes out
    d: Tensor  # [n, B, out]: the loss's gradient by it
    forward: list[Operation]  # from x to out
    square: Callable[[], Tensor]  # returns the mean of the squares of d
    backward: list[Operation]  # from d to g


def workspace(
    where: Layout, n: int, batch: int, like: Tensor, *, tanh: bool
) -> Workspace:
    """Make the buffers for `n` tasks and minibatches of `batch` examples.

    Args:
        where: names and shapes of weights [out, in] and biases [out].
        n: tasks.
        batch: B.
        like: has the type and the device.
        tanh: whether the activation is tanh, else ReLU.
    """
    single, lead = n == 1, () if n == 1 else (n,)
    affine, product = (torch.addmm, torch.mm) if single else (torch.baddbmm, torch.bmm)
    theta, g = (like.new_empty(n, sum(where.sizes)) for _ in range(2))
    (weights, biases), (weights_g, biases_g) = (
        _views(t, where, lead) for t in (theta, g)
    )
    widths = [weights[0].shape[-1], *(w.shape[-2] for w in weights)]
    # what goes into each layer and, last, comes out; the loss's gradient by it
    h, d = ([like.new_empty(*lead, batch, w) for w in widths] for _ in range(2))

    forward: list[Operation] = []
    for i, (before, after) in enumerate(pairwise(h)):
        forward.append(partial(affine, biases[i], before, weights[i].mT, out=after))
        if i + 1 < len(weights):
            forward.append(partial(torch.tanh_ if tanh else torch.relu_, after))

    backward: list[Operation] = []
    for i in reversed(range(len(weights))):
        by = d[i + 1]
        backward.append(partial(product, by.mT, h[i], out=weights_g[i]))
        backward.append(partial(torch.sum, by, -2, keepdim=True, out=biases_g[i]))
        if i > 0:
            backward.append(partial(product, by, weights[i], out=d[i]))
            back = partial(tanh_back if tanh else relu_back, grad_input=d[i])
            backward.append(partial(back, d[i], h[i], *(() if tanh else (0,))))

    # The sum of squares as a product: fewer operations.
    off, nothing = d[-1].view(*lead, 1, -1), like.new_zeros(*lead, 1, 1)
    share = 1 / off.shape[-1]
    square = partial(affine, nothing, off, off.mT, beta=0, alpha=share)
    return Workspace(theta, g, h[0], h[-1], d[-1], forward, square, backward)


def _views(
    vectors: Tensor, where: Layout, lead: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """View vectors [n, P] as weights [*lead, out, in] and biases [*lead, 1, out]."""
    parts = torch.split(vectors, where.sizes, 1)
    shapes = [shape if len(shape) == 2 else (1, *shape) for shape in where.shapes]
    views = [p.view(*lead, *shape) for p, shape in zip(parts, shapes, strict=True)]
    return views[::2], views[1::2]


def gradient(space: Workspace, x: Tensor, y: Tensor, labels: str | None) -> Tensor:
    """Leave the gradient of the loss at `space.theta` in `space.g`.

    Args:
        space: made for these shapes.
        x: [n, B, in].
        y: [n, B, out], or labels [n, B].
        labels: of the cross-entropy, "mean" or "sum"; None is the mean squared error.

    Returns:
        [n]: the loss of each task.
    """
    n, d = len(y), space.d
    space.x.copy_(x.view_as(space.x))
    for operation in space.forward:
        operation()
    if labels is not None:
        logits = space.out.view(n, *space.out.shape[-2:])
        losses, by_logits = with_gradient(logits, y, labels == "sum")
        d.copy_(by_logits.view_as(d))
    else:
        torch.sub(space.out, y.view_as(d), out=d)
        losses = space.square()
        d.mul_(2 / d.shape[-1] / d.shape[-2])
    for operation in space.backward:
        operation()
    return losses.view(n)
