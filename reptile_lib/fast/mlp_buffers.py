"""Buffers for a stack of dense networks, and the gradient that is computed in them.

A small network's operations cost more than their arithmetic, so there are few of them,
twenty a step for three layers, all into memory and views that are made once. A single
task has buffers without the axis of tasks, whose operations are cheaper still.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reptile_lib.fast.cross_entropy import with_gradient
from reptile_lib.params import Layout

tanh_back = torch.ops.aten.tanh_backward.grad_input
relu_back = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Layer:
    """Buffers and views of one layer; the first axis is missing where n = 1."""

    weight: Tensor  # [n, out, in], like the next two a view of θ
    turned: Tensor  # [n, in, out]
    bias: Tensor  # [n, 1, out]
    weight_g: Tensor  # [n, out, in], like the next one a view of the gradient
    bias_g: Tensor  # [n, 1, out]
    h: Tensor  # [n, B, out]: what the layer puts out
    d: Tensor  # [n, B, out]: the loss's gradient by it, before the activation
    d_turned: Tensor  # [n, out, B]


@dataclass(frozen=True)
class Workspace:
    """Where n tasks are adapted with minibatches of B examples; reused step by step."""

    theta: Tensor  # [n, P]: the parameters
    g: Tensor  # [n, P]: their gradient
    layers: tuple[Layer, ...]


def workspace(where: Layout, n: int, batch: int, like: Tensor) -> Workspace:
    """Make the buffers for `n` tasks and minibatches of `batch` examples."""
    theta, g = (like.new_empty(n, sum(where.sizes)) for _ in range(2))
    lead = () if n == 1 else (n,)
    views, grads = (
        [
            part.view(*lead, *(shape if len(shape) == 2 else (1, *shape)))
            for part, shape in zip(
                torch.split(t, where.sizes, 1), where.shapes, strict=True
            )
        ]
        for t in (theta, g)
    )
    layers = []
    for i in range(0, len(views), 2):
        h, d = (like.new_empty(*lead, batch, where.shapes[i][0]) for _ in range(2))
        (weight, bias), (weight_g, bias_g) = views[i : i + 2], grads[i : i + 2]
        made = Layer(weight, weight.mT, bias, weight_g, bias_g, h, d, d.mT)
        layers.append(made)
    return Workspace(theta, g, tuple(layers))


def gradient(
    space: Workspace, x: Tensor, y: Tensor, *, tanh: bool, labels: str | None
) -> Tensor:
    """Leave the gradient of the loss at `space.theta` in `space.g`.

    Args:
        space: made for these shapes.
        x: [n, B, in].
        y: [n, B, out], or labels [n, B].
        tanh: whether the activation is tanh, else ReLU.
        labels: of the cross-entropy, "mean" or "sum"; None is the mean squared error.

    Returns:
        [n]: the loss of each task.
    """
    single = len(space.theta) == 1
    affine, product = (torch.addmm, torch.mm) if single else (torch.baddbmm, torch.bmm)
    *hidden, last = space.layers
    inputs = [x[0] if single else x]
    for layer in hidden:
        h = affine(layer.bias, inputs[-1], layer.turned, out=layer.h)
        inputs.append(h.tanh_() if tanh else h.relu_())
    affine(last.bias, inputs[-1], last.turned, out=last.h)
    losses = _loss(last, y, labels)
    for i in reversed(range(len(space.layers))):
        layer = space.layers[i]
        product(layer.d_turned, inputs[i], out=layer.weight_g)
        torch.sum(layer.d, -2, keepdim=True, out=layer.bias_g)
        if i > 0:
            d, h = hidden[i - 1].d, inputs[i]
            product(layer.d, layer.weight, out=d)
            if tanh:
                tanh_back(d, h, grad_input=d)
            else:
                relu_back(d, h, 0, grad_input=d)
    return losses


def _loss(last: Layer, y: Tensor, labels: str | None) -> Tensor:
    """Return the losses [n] and leave their gradient by `last.h` in `last.d`."""
    if labels is not None:
        logits = last.h if last.h.dim() == 3 else last.h[None]
        losses, d = with_gradient(logits, y, labels == "sum")
        last.d.copy_(d.view_as(last.d))
        return losses
    share = 1 / (last.d.shape[-1] * last.d.shape[-2])
    off = torch.sub(last.h, y.view_as(last.h), out=last.d)
    losses = torch.mul(off, off, out=last.h).sum((-2, -1)).mul_(share)
    off.mul_(2 * share)
    return losses.view(len(y))
