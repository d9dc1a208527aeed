"""The gradient of a small network of dense layers, for a stack of tasks.

With weights W [n, out, in] for n tasks, a layer is one batched product, forward and
back. Written out, a step is some twenty operations; autograd through a vmapped model
needs several times as many, and for small layers the operations cost more than their
arithmetic. Each is bound once to the memory that it reads and writes: a step only calls
them. A single task has buffers without the axis of tasks, whose operations are cheaper
still.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.fast.cross_entropy import reduction, with_gradient
from reptile_lib.fast.written import Net, Space, Written
from reptile_lib.kernel import Autograd, Criterion
from reptile_lib.params import Layout, layout
from reptile_lib.tasks import Batch

GROUP = 256  # tasks that a CPU stacks at a time; bounds memory

Operation = Callable[[], object]
tanh_back = torch.ops.aten.tanh_backward.grad_input
relu_back = torch.ops.aten.threshold_backward.grad_input


Steps = tuple[Tensor, Tensor, list[list[Operation]], Callable[[], Tensor]]
"""x and y of s steps, what leaves the gradient of each in g, and what returns losses.

x is [s, n, B, in] and y [s, n, B, out] or, for labels, [s, n, B], without the axis of
tasks where n = 1; losses are [s, n].
"""


def mlp_kernel(
    model: nn.Module, criterion: Criterion, reference: Autograd
) -> Written | None:
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
        lambda n, b, _, like: space(where, n, b, like, tanh=tanh, labels=labels),
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


def space(
    where: Layout, n: int, batch: int, like: Tensor, *, tanh: bool, labels: str | None
) -> Space:
    """Make the memory for `n` tasks and minibatches of `batch` examples.

    It has the type and the device of `like`. `where` lists weights [out, in] and biases
    [out] in turn; the activation is tanh, or ReLU; `labels` are the cross-entropy's,
    "mean" or "sum", and None stands for the mean squared error.
    """
    lead = () if n == 1 else (n,)
    affine, product = (torch.addmm, torch.mm) if n == 1 else (torch.baddbmm, torch.bmm)
    theta, g = (like.new_empty(n, sum(where.sizes)) for _ in range(2))
    (weights, biases), (weights_g, biases_g) = (
        _views(t, where, lead) for t in (theta, g)
    )
    widths = [weights[0].shape[-1], *(w.shape[-2] for w in weights)]
    # what each layer makes, but the last, and the loss's gradient by it
    hidden = [like.new_empty(*lead, batch, w) for w in widths[1:-1]]
    d = [like.new_empty(*lead, batch, w) for w in widths[1:]]
    slope = like.new_tensor(2 / batch / widths[-1])

    def cross(out: Tensor, y: Tensor, loss: Tensor) -> None:
        logits = out.view(n, batch, -1)
        losses, by = with_gradient(logits, y.view(n, batch), labels == "sum")
        d[-1].copy_(by.view_as(out))
        loss.copy_(losses)

    def gradient(x: Tensor, y: Tensor, out: Tensor, loss: Tensor) -> list[Operation]:
        act: list[Operation] = []
        for i, (before, after) in enumerate(pairwise([x, *hidden, out])):
            act.append(partial(affine, biases[i], before, weights[i].mT, out=after))
            if after is not out:
                act.append(partial(torch.tanh_ if tanh else torch.relu_, after))
        if labels:
            act.append(partial(cross, out, y, loss))
        else:
            act += partial(out.sub_, y), partial(torch.mul, out, slope, out=d[-1])
        for i, h in reversed([*enumerate([x, *hidden])]):
            act.append(partial(product, d[i].mT, h, out=weights_g[i]))
            act.append(partial(torch.sum, d[i], -2, keepdim=True, out=biases_g[i]))
            if i > 0:
                into = d[i - 1]
                act.append(partial(product, d[i], weights[i], out=into))
                back = partial(tanh_back if tanh else relu_back, grad_input=into)
                act.append(partial(back, into, h, *(() if tanh else (0,))))
        return act

    @cache
    def steps(s: int) -> Steps:
        x, out = (like.new_empty(s, *lead, batch, w) for w in widths[:: len(weights)])
        y = out.new_empty(out.shape[:-1], dtype=torch.int64) if labels else out + 0
        losses = like.new_empty(s, n)

        def found() -> Tensor:
            if labels:
                return losses.clone()
            # The sums of squares as products: fewer operations.
            off = out.view(s * n, 1, -1)
            return torch.bmm(off, off.mT).mul_(1 / off.shape[-1]).view(s, n)

        each = zip(x, y, out, losses, strict=True)
        return x, y, [gradient(*one) for one in each], found

    def walk(x: Tensor, y: Tensor, move: Operation) -> Tensor:
        inputs, answers, gradients, losses = steps(len(x))
        inputs.copy_(x.view_as(inputs))
        answers.copy_(y.view_as(answers))
        for gradient in gradients:
            for operation in gradient:
                operation()
            move()
        return losses()

    return Space(theta, g, walk)


def _views(
    vectors: Tensor, where: Layout, lead: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """View vectors [n, P] as weights [*lead, out, in] and biases [*lead, 1, out]."""
    parts = torch.split(vectors, where.sizes, 1)
    shapes = [shape if len(shape) == 2 else (1, *shape) for shape in where.shapes]
    views = [p.view(*lead, *shape) for p, shape in zip(parts, shapes, strict=True)]
    return views[::2], views[1::2]
