"""The gradient of a small network of dense layers, for a stack of tasks.

With weights W [n, out, in] for n tasks, a layer is one batched product, forward and
back. Written out, a step is some twenty operations; autograd through a vmapped model
needs several times as many, and for small layers the operations cost more than their
arithmetic. Each is bound once to the memory that it reads and writes: a step only calls
them. A single task has buffers without the axis of tasks, whose operations are cheaper
still.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.fast.cross_entropy import reduction, with_gradient
from reptile_lib.fast.written import Net, Written
from reptile_lib.kernel import Autograd, Criterion
from reptile_lib.params import Layout, layout
from reptile_lib.tasks import Batch

GROUP = 256  # tasks that a CPU stacks at a time; bounds memory

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


def mlp_kernel(
    model: nn.Module, criterion: Criterion, reference: Autograd
) -> Written[Workspace] | None:
    """Return the kernel of this model and criterion, or None if it is not theirs.

    It is for linear layers with biases, one kind of activation between them (Tanh or
    ReLU), perhaps a Flatten before them; and for the mean squared error or the
    cross-entropy, as mean or sum, of labels in [0, ways). A parameter that two layers
    share, or one that is computed from others, is not of this kind.
    """
    if not _applies(model, criterion):
        return None
    tanh = any(type(m) is nn.Tanh for m in _modules(model))
    where, labels = layout(model), reduction(criterion)
    net = Net(
        partial(_fits, where, _flattens(model), labels),
        lambda x: x.flatten(2),
        partial(workspace, where, tanh=tanh),
        partial(gradient, labels=labels),
    )
    return Written(net, reference)


def _applies(model: nn.Module, criterion: Criterion) -> bool:
    if type(model) is not nn.Sequential:
        return False
    if criterion is not F.mse_loss and reduction(criterion) not in ("mean", "sum"):
        return False
    found = _modules(model)
    found = found[1:] if _flattens(model) else found
    layers, between = found[::2], found[1::2]
    theirs = [m._parameters.get(n) for m in layers for n in ("weight", "bias")]
    return (
        len(layers) == len(between) + 1
        and all(type(m) is nn.Linear for m in layers)
        and list(map(id, theirs)) == list(map(id, model.parameters()))
        and len({type(m) for m in between}) <= 1
        and all(type(m) in (nn.Tanh, nn.ReLU) for m in between)
    )


def _flattens(model: nn.Module) -> bool:
    """Say whether the model begins by making a vector of each example."""
    first = next(iter(_modules(model)), None)
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a Sequential, also of those inside it, in their order."""
    if type(model) is not nn.Sequential:
        return [model]
    return [layer for part in model for layer in _modules(part)]


def _fits(where: Layout, flat: bool, labels: str | None, batch: Batch) -> bool:
    """Say whether these are the examples and answers that the weights are for."""
    x, y = batch
    if not isinstance(x, Tensor) or x.dim() < 3 or (x.dim() > 3 and not flat):
        return False
    if x.shape[2:].numel() != where.shapes[0][1]:
        return False
    return y.shape == (*x.shape[:2], *(() if labels else where.shapes[-1]))


def workspace(
    where: Layout, n: int, batch: int, shape: torch.Size, like: Tensor, *, tanh: bool
) -> Workspace:
    """Make the buffers for `n` tasks and minibatches of `batch` examples.

    Args:
        where: names and shapes of weights [out, in] and biases [out].
        n: tasks.
        batch: B.
        shape: of an example, [in].
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
