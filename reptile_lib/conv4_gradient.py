"""Conv4's gradient written out, for a stack of tasks with weights of their own.

A convolution is a product of matrices once the image is cut into patches::

    patches A [n, N, 9C] @ weights W [n, 9C, 64] -> Z [n, N, 64],   N = B·o·o

so n networks are one batched product, which libraries run near the arithmetic limit,
where n convolutions are not. Channels come last, so that a patch is three runs of
memory. What is left of the backward pass is batch norm's (Ioffe & Szegedy 2015,
section 3) and the way back from patches to pixels. Buffers are kept from step to step:
fresh ones would cost as much time in page faults as the arithmetic between them.

The biases of the convolutions are left out: batch norm takes them away again, and
their gradient is exactly zero.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.cross_entropy import reduction, with_gradient
from reptile_lib.inner import Batch, State
from reptile_lib.models import WIDTH, Conv4
from reptile_lib.params import Layout


def applies(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Say whether the gradient below is the one of this model and criterion."""
    return type(model) is Conv4 and reduction(criterion) in ("mean", "sum")


def norm_eps(model: Conv4) -> float:
    """Return the eps of batch norm, which all layers share."""
    (eps,) = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    return eps


@dataclass(frozen=True)
class Conv4Loss:
    """The loss of `engine.make_loss`, and inner loops with its gradient written out."""

    plain: Callable[[Tensor, Batch], Tensor]
    where: Layout
    eps: float
    """Batch norm's."""
    summed: bool = False
    """Whether the loss is summed over the examples; else it is their mean."""
    bf16: bool = False
    """Whether the large products round their factors to bfloat16."""
    compiled: bool = False
    """Whether inner steps are those of `conv4_compiled`."""
    inside: bool = False
    """Whether parameters come in matrix order, see `enter`."""
    spaces: threading.local = field(default_factory=threading.local)
    """Each thread keeps the workspaces that it used, by shape."""
    group = 16
    """Tasks that a CPU stacks at a time; bounds memory."""

    def __call__(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the loss at theta [P]; differentiable."""
        return self.plain(to_vector(theta, self.where) if self.inside else theta, batch)

    def takes(self, support: Batch) -> bool:
        """Say whether these are images and labels of a stack of tasks."""
        return support.x.dim() == 5 and support.y.dim() == 2

    def enter(
        self, phi: Tensor, states: list[State | None]
    ) -> tuple["Conv4Loss", Tensor, list[State | None]]:
        """Turn parameters and states to matrix order, with a loss that takes them so.

        The outer step, means and inner optimisers are the same in either order, so
        that many meta-steps can pass between `enter` and `leave`.
        """
        inside = replace(self, inside=True)
        turned = [self._state(state, to_matrices) for state in states]
        return inside, to_matrices(phi, self.where), turned

    def leave(
        self, theta: Tensor, states: list[State | None]
    ) -> tuple[Tensor, list[State | None]]:
        """Undo `enter`."""
        turned = [self._state(state, to_vector) for state in states]
        return to_vector(theta, self.where), turned

    def _state(
        self, state: State | None, reorder: Callable[[Tensor, Layout], Tensor]
    ) -> State | None:
        if state is None:
            return None
        total = sum(self.where.sizes)
        return {
            name: reorder(v, self.where) if v.shape[-1:] == (total,) else v
            for name, v in state.items()
        }

    def minibatches(
        self, support: Batch, order: Tensor
    ) -> tuple[Callable[[Tensor, Batch], tuple[Tensor, Tensor]], Iterator[Batch]]:
        """Return the gradient in matrix order, and the minibatches it takes.

        Args:
            support: x [n, S, C, H, H], y [n, S].
            order: [n, k, b].

        Returns:
            gradient(theta [n, P], batch) -> g [n, P], losses [n], where g is memory
            that the next call writes to; and k minibatches.
        """
        n, _, b = order.shape
        patches = image_patches(support.x)
        size = patches.shape[1]
        patches, y = patches.flatten(0, 1), support.y.flatten()
        order = order + size * torch.arange(n, device=order.device)[:, None, None]

        def found(theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            space = self._space(n, b, support.x.shape[-1], theta)
            space.theta.copy_(theta)
            return space.g, gradient(space, *batch, self.eps, self.summed)

        return found, (Batch(patches[o], y[o]) for o in order.unbind(1))

    def _space(self, n: int, batch: int, size: int, like: Tensor) -> "Workspace":
        key = (n, batch, size, like.dtype, like.device)
        kept = self.spaces.__dict__.setdefault("by_shape", {})
        if key not in kept:
            kept[key] = workspace(self.where, n, batch, size, like, self.bf16)
        found: Workspace = kept[key]
        return found


def _as_matrix(name: str, shape: torch.Size) -> tuple[torch.Size, tuple[int, ...]]:
    """Return the shape to view a parameter in and the order to put its axes into."""
    if len(shape) == 4:  # a filter [64, C, 3, 3] becomes [3, 3, C, 64]
        return shape, (2, 3, 1, 0)
    if name == "out.weight":  # [ways, 64·h·h] becomes [ways, h, h, 64]
        side = round((shape[1] / WIDTH) ** 0.5)
        return torch.Size((shape[0], WIDTH, side, side)), (0, 2, 3, 1)
    return shape, tuple(range(len(shape)))


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
        shape, axes = _as_matrix(name, shape)
        if back:
            shape = torch.Size([shape[axis] for axis in axes])
            axes = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        order = (*range(len(lead)), *(len(lead) + axis for axis in axes))
        parts.append(part.reshape(*lead, *shape).permute(order).flatten(len(lead)))
    return torch.cat(parts, -1)


def padding(size: int) -> tuple[int, int]:
    """Pixels that `models.pad_same` adds before and behind."""
    return (0, 1) if size % 2 == 0 else (1, 1)


def windows(padded: Tensor) -> Tensor:
    """View padded images [..., H, H, C] as patches [..., o, o, 3, 3, C], stride 2."""
    *lead, height, _, channels = padded.shape
    o = (height - 3) // 2 + 1
    *strides, row, column, channel = padded.stride()
    return padded.as_strided(
        (*lead, o, o, 3, 3, channels),
        (*strides, 2 * row, 2 * column, row, column, channel),
    )


def image_patches(x: Tensor) -> Tensor:
    """Cut images [..., C, H, H] into patches [..., o·o, 9C] of the first layer."""
    padded = F.pad(x, padding(x.shape[-1]) * 2)
    o = (padded.shape[-1] - 1) // 2
    reach = 2 * o - 1
    shifts = [
        padded[..., r : r + reach : 2, c : c + reach : 2].flatten(-2)
        for r in range(3)
        for c in range(3)
    ]
    return torch.stack(shifts, -3).flatten(-3, -2).mT.contiguous()


@dataclass(frozen=True)
class Block:
    """Buffers and views of one block [convolution, batch norm, ReLU]."""

    weight: Tensor  # [n, 9C, 64], like the next five a view of θ or of its gradient
    scale: Tensor  # [n, 1, 64]
    shift: Tensor  # [n, 1, 64]
    weight_g: Tensor
    scale_g: Tensor
    shift_g: Tensor
    z: Tensor  # [n, N, 64]: the convolution's output, centred in place
    y: Tensor  # [n, B, o, o, 64]: the block's output, inside the next one's padding
    g: Tensor  # [n, N, 64]: gradient of y, then in place of z
    spare: Tensor  # [n, N, 64]


@dataclass(frozen=True)
class Link:
    """Buffers and views between a block and the next: padding, cutting, and back."""

    windows: Tensor  # [n, B, o, o, 3, 3, 64]: overlapping views of the padded input
    patches: Tensor  # [n, N, 9·64]; on the way back, their gradient
    y_g: Tensor  # [n, B, h, h, 64]: gradient of y
    overlaps: tuple[tuple[Tensor, Tensor], ...]  # pixels, and the patches they are in


@dataclass(frozen=True)
class Workspace:
    """Where n tasks are adapted with minibatches of B images; reused step by step."""

    bf16: bool  # round the factors of the large products
    theta: Tensor  # [n, P]: the parameters in matrix order
    g: Tensor  # [n, P]: their gradient; the biases of convolutions stay 0
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]
    out: Tensor  # [n, ways, F], like the next three a view of θ or of its gradient
    out_bias: Tensor  # [n, 1, ways]
    out_g: Tensor
    out_bias_g: Tensor


def workspace(
    where: Layout, n: int, batch: int, size: int, like: Tensor, bf16: bool = False
) -> Workspace:
    """Make the buffers for `n` tasks and `batch` images of `size` pixels a side."""
    theta, g = (like.new_zeros(n, sum(where.sizes)) for _ in range(2))
    views, grads = (
        dict(zip(where.names, torch.split(t, where.sizes, 1), strict=True))
        for t in (theta, g)
    )
    blocks, links = [], []
    h = size
    for i in range(4):
        h = -(-h // 2)
        if i < 3:
            y, link = _link(n, batch, h, like)
            links.append(link)
        else:
            y = like.new_empty(n, batch, h, h, WIDTH)
        names = (f"convolutions.{i}.weight", f"norms.{i}.weight", f"norms.{i}.bias")
        weights = [v[name].view(n, -1, WIDTH) for v in (views, grads) for name in names]
        z, y_g, spare = (like.new_empty(n, batch * h * h, WIDTH) for _ in range(3))
        buffers = [*weights, z, y, y_g, spare]
        blocks.append(Block(*buffers))
    ways = where.shapes[-1].numel()
    out = [v["out.weight"].view(n, ways, -1) for v in (views, grads)]
    bias = [v["out.bias"].view(n, 1, ways) for v in (views, grads)]
    return Workspace(
        bf16, theta, g, tuple(blocks), tuple(links), out[0], bias[0], out[1], bias[1]
    )


def _link(n: int, batch: int, h: int, like: Tensor) -> tuple[Tensor, Link]:
    """Return where a block with output side h writes it, and the way on."""
    before, behind = padding(h)
    total, inner = before + h + behind, slice(before, before + h)
    padded, padded_g = (like.new_zeros(n, batch, total, total, WIDTH) for _ in range(2))
    o = -(-h // 2)
    patches = like.new_empty(n, batch * o * o, 9 * WIDTH)
    # Row 2i + r, column 2j + c of a padded image stands in the patch (i, j) and, where
    # r or c is 0, in those before it. The last row and column are padding.
    pixels = padded_g[:, :, :-1, :-1].view(n, batch, o, 2, o, 2, WIDTH)
    parts = patches.view(n, batch, o, o, 3, 3, WIDTH).transpose(3, 4)
    overlaps = (
        (pixels, parts[:, :, :, :2, :, :2]),
        (pixels[:, :, 1:, 0], parts[:, :, :-1, 2, :, :2]),
        (pixels[..., 1:, 0, :], parts[:, :, :, :2, :-1, 2]),
        (pixels[:, :, 1:, 0, 1:, 0], parts[:, :, :-1, 2, :-1, 2]),
    )
    y, y_g = padded[:, :, inner, inner], padded_g[:, :, inner, inner]
    return y, Link(windows(padded), patches, y_g, overlaps)


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
