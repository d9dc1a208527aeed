"""Conv4's gradient written out, for a stack of tasks with weights of their own.

A convolution is a product of matrices once the image is cut into patches::

    patches A [n, N, 9C] @ weights W [n, 9C, F] -> Z [n, N, F],   N = B·o·o

so n networks are one batched product, which libraries run near the arithmetic limit,
where n convolutions are not. What is left of the backward pass is batch norm's (Ioffe &
Szegedy 2015, section 3) and the way back from patches to pixels.

The biases of the convolutions are left out: batch norm takes them away again, and
their gradient is exactly zero.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from reptile_lib.fast import conv4_compiled
from reptile_lib.fast.conv4_buffers import Workspace, image_patches, workspace
from reptile_lib.fast.cross_entropy import reduction, with_gradient
from reptile_lib.fast.written import Net, Space, Written
from reptile_lib.kernel import Autograd, Criterion
from reptile_lib.models.conv4 import Conv4
from reptile_lib.params import Layout, layout
from reptile_lib.tasks import Batch

GROUP = 16  # tasks that a CPU stacks at a time; bounds memory


def conv4_kernel(
    model: nn.Module,
    criterion: Criterion,
    reference: Autograd,
    *,
    bf16: bool = False,
    compiled: bool = False,
) -> Written | None:
    """Return the kernel of this model and criterion, or None if it is not theirs."""
    if type(model) is not Conv4 or reduction(criterion) not in ("mean", "sum"):
        return None
    where, summed = layout(model), reduction(criterion) == "sum"
    pixels = model.out.in_features // where.shapes[0][0]
    if round(pixels**0.5) ** 2 != pixels:  # somebody has changed it
        return None
    (eps,) = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    step = partial(conv4_compiled.step, where=where, eps=eps, summed=summed, bf16=bf16)

    def space(n: int, b: int, shape: torch.Size, like: Tensor) -> Space:
        own = workspace(where, n, b, shape, like, bf16)

        def walk(xs: Tensor, ys: Tensor, move: Callable[[], object]) -> Tensor:
            losses = []
            for x, y in zip(xs, ys, strict=True):
                losses.append(gradient(own, x, y, eps, summed))
                move()
            return torch.stack(losses)

        return Space(own.theta, own.g, walk)

    net = Net(
        partial(_fits, where),
        image_patches,  # each image is cut once
        space,
        partial(to_matrices, where=where),
        partial(to_vector, where=where),
        step if compiled else None,
    )
    return Written(net, reference)


def _fits(where: Layout, batch: Batch) -> bool:
    """Say whether these are labelled square images that the weights are for."""
    x, y = batch
    if not isinstance(x, Tensor) or x.dim() != 5 or y.dim() != 2:
        return False
    *_, channels, height, width = x.shape
    side = -(-width // 16)
    fits = where.shapes[-2][1] == where.shapes[0][0] * side * side
    return height == width and fits and channels == where.shapes[0][1]


def to_matrices(vector: Tensor, where: Layout) -> Tensor:
    """Reorder vectors [..., P] in Conv4's layout for the products below."""
    return _reorder(vector, where, back=False)


def to_vector(matrices: Tensor, where: Layout) -> Tensor:
    """Undo `to_matrices`."""
    return _reorder(matrices, where, back=True)


def _reorder(vector: Tensor, where: Layout, back: bool) -> Tensor:
    parts, lead = [], vector.shape[:-1]
    named = zip(
        where.names, where.shapes, torch.split(vector, where.sizes, -1), strict=True
    )
    for name, shape, part in named:
        shape, axes = _as_matrix(name, shape, where.shapes[0][0])
        if back:
            shape = torch.Size([shape[axis] for axis in axes])
            axes = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        order = (*range(len(lead)), *(len(lead) + axis for axis in axes))
        parts.append(part.reshape(*lead, *shape).permute(order).flatten(len(lead)))
    return torch.cat(parts, -1)


def _as_matrix(
    name: str, shape: torch.Size, filters: int
) -> tuple[torch.Size, tuple[int, ...]]:
    """Return the shape to view a parameter in and the order to put its axes into."""
    if len(shape) == 4:  # filters [F, C, 3, 3] become [3, 3, C, F]
        return shape, (2, 3, 1, 0)
    if name == "out.weight":  # [ways, F·h·h] becomes [ways, h, h, F]
        side = round((shape[1] / filters) ** 0.5)
        return torch.Size((shape[0], filters, side, side)), (0, 2, 3, 1)
    return shape, tuple(range(len(shape)))


def products(a: Tensor, b: Tensor, out: Tensor, bf16: bool = False) -> Tensor:
    """Multiply n pairs of matrices into `out`; on a CPU, keep all cores at work.

    The library gives each core whole products. Those that are left over after the last
    full round are better shared among the cores one at a time.
    """
    if bf16:
        return out.copy_(torch.bmm(a.bfloat16(), b.bfloat16()))
    n = a.shape[0]
    rest = n % torch.get_num_threads() if a.device.type == "cpu" else 0
    if rest == 0:
        return torch.bmm(a, b, out=out)
    if n > rest:
        torch.bmm(a[: n - rest], b[: n - rest], out=out[: n - rest])
    for i in range(n - rest, n):
        torch.mm(a[i], b[i], out=out[i])
    return out


def gradient(
    space: Workspace,
    patches: Tensor,
    y: Tensor,
    eps: float = 1e-3,
    summed: bool = False,
) -> Tensor:
    """Leave the gradient of the cross-entropy at `space.theta` in `space.g`.

    Args:
        space: made for these shapes.
        patches: [n, B, o·o, 9C], as `image_patches` cuts them.
        y: [n, B], labels.
        eps: batch norm's.
        summed: whether the loss is summed over the B examples; else it is their mean.

    Returns:
        [n]: the loss of each task.
    """
    blocks, links = space.blocks, space.links

    a = patches.flatten(1, 2)
    inputs, roots = [], []
    for i, block in enumerate(blocks):
        inputs.append(a)
        z = products(a, block.weight, block.z, space.bf16)
        share = 1 / z.shape[1]  # a float: dividing by an int costs a conversion
        z.sub_(z.sum(1, keepdim=True).mul_(share))
        square = torch.mul(z, z, out=block.spare)
        root = square.sum(1, keepdim=True).mul_(share).add_(eps).rsqrt_()
        roots.append(root)
        shift, slope = _pixelwise(block.shift), _pixelwise(root * block.scale)
        torch.addcmul(shift, z.view_as(block.y), slope, out=block.y).relu_()
        if i < len(links):
            a = links[i].patches
            a.view_as(links[i].windows).copy_(links[i].windows)

    features = blocks[-1].y.flatten(2)
    logits = torch.baddbmm(space.out_bias, features, space.out.mT)
    losses, d = with_gradient(logits, y, summed)
    torch.bmm(d.mT, features, out=space.out_g)
    torch.sum(d, 1, keepdim=True, out=space.out_bias_g)
    y_g = torch.bmm(d, space.out).view_as(blocks[-1].y)
    for i in reversed(range(4)):
        block, root = blocks[i], roots[i]
        g, z, share = block.g, block.z, 1 / block.z.shape[1]
        torch.ops.aten.threshold_backward.grad_input(
            y_g, block.y, 0, grad_input=g.view_as(block.y)
        )
        torch.sum(g, 1, keepdim=True, out=block.shift_g)
        product = torch.mul(g, z, out=block.spare)
        torch.sum(product, 1, keepdim=True, out=block.scale_g).mul_(root)
        # dL/dz = γ·root (g − mean g − x mean gx), x = z·root, the normalised output
        g.addcmul_(z, (block.scale_g * root).mul_(-share))
        slope = root.mul_(block.scale)
        torch.addcmul((block.shift_g * slope).mul_(-share), g, slope, out=g)
        products(inputs[i].mT, g, block.weight_g, space.bf16)
        if i > 0:
            link = links[i - 1]
            products(g, block.weight.mT, link.patches, space.bf16)
            (pixels, part), *overlaps = link.overlaps
            pixels.copy_(part)
            for pixels, part in overlaps:
                pixels.add_(part)
            y_g = link.y_g
    return losses


def _pixelwise(values: Tensor) -> Tensor:
    """View values [n, 1, 64] so that they match pixels [n, B, h, h, 64]."""
    return values[:, :, None, None]
