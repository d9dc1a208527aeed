"""Conv4's buffers: patches of images, and where n tasks keep what a step computes.

Channels come last, so that a patch is three runs of memory. Buffers are kept from step
to step: fresh ones would cost as much time in page faults as the arithmetic between
them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib.models.conv4 import check_norm, padding
from reptile_lib.params import Layout


def windows(padded: Tensor) -> Tensor:
    """View padded images [..., H, H, C] as patches [..., o, o, 3, 3, C], stride 2."""
    *lead, height, _, channels = padded.shape
    o = (height - 3) // 2 + 1
    *strides, row, column, channel = padded.stride()
    return padded.as_strided(
        (*lead, o, o, 3, 3, channels),
        (*strides, 2 * row, 2 * column, row, column, channel),
    )


def cut(pixels: Tensor) -> Tensor:
    """Cut pixels [..., h, h, C] into patches [..., o, o, 9C], stride 2."""
    padded = F.pad(pixels, (0, 0) + padding(pixels.shape[-2]) * 2)
    reach = padded.shape[-2] - 2
    shifts = [
        padded[..., r : r + reach : 2, c : c + reach : 2, :]
        for r in range(3)
        for c in range(3)
    ]
    return torch.cat(shifts, -1)


def image_patches(x: Tensor) -> Tensor:
    """Cut images [..., C, H, H] into patches [..., o·o, 9C] of the first layer."""
    return cut(x.movedim(-3, -1)).flatten(-3, -2)


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
    where: Layout,
    n: int,
    b: int,
    shape: torch.Size,
    like: Tensor,
    bf16: bool = False,
) -> Workspace:
    """Make the buffers for `n` tasks and `b` images of this shape, [C, H, H]."""
    theta, g = (like.new_zeros(n, sum(where.sizes)) for _ in range(2))
    views, grads = (
        dict(zip(where.names, torch.split(t, where.sizes, 1), strict=True))
        for t in (theta, g)
    )
    blocks, links = [], []
    h, width = shape[-1], where.shapes[0][0]
    for i in range(4):
        h = -(-h // 2)
        check_norm(b * h * h)
        if i < 3:
            y, link = _link(n, b, h, width, like)
            links.append(link)
        else:
            y = like.new_empty(n, b, h, h, width)
        names = (f"convolutions.{i}.weight", f"norms.{i}.weight", f"norms.{i}.bias")
        weights = [v[name].view(n, -1, width) for v in (views, grads) for name in names]
        z, y_g, spare = (like.new_empty(n, b * h * h, width) for _ in range(3))
        buffers = [*weights, z, y, y_g, spare]
        blocks.append(Block(*buffers))
    ways = where.shapes[-1].numel()
    out = [v["out.weight"].view(n, ways, -1) for v in (views, grads)]
    bias = [v["out.bias"].view(n, 1, ways) for v in (views, grads)]
    return Workspace(
        bf16, theta, g, tuple(blocks), tuple(links), out[0], bias[0], out[1], bias[1]
    )


def _link(n: int, batch: int, h: int, width: int, like: Tensor) -> tuple[Tensor, Link]:
    """Return where a block with output side h writes it, and the way on."""
    before, behind = padding(h)
    total, inner = before + h + behind, slice(before, before + h)
    padded, padded_g = (like.new_zeros(n, batch, total, total, width) for _ in range(2))
    o = -(-h // 2)
    patches = like.new_empty(n, batch * o * o, 9 * width)
    # Row 2i + r, column 2j + c of a padded image stands in the patch (i, j) and, where
    # r or c is 0, in those before it. The last row and column are padding.
    pixels = padded_g[:, :, :-1, :-1].view(n, batch, o, 2, o, 2, width)
    parts = patches.view(n, batch, o, o, 3, 3, width).transpose(3, 4)
    overlaps = (
        (pixels, parts[:, :, :, :2, :, :2]),
        (pixels[:, :, 1:, 0], parts[:, :, :-1, 2, :, :2]),
        (pixels[..., 1:, 0, :], parts[:, :, :, :2, :-1, 2]),
        (pixels[:, :, 1:, 0, 1:, 0], parts[:, :, :-1, 2, :-1, 2]),
    )
    y, y_g = padded[:, :, inner, inner], padded_g[:, :, inner, inner]
    return y, Link(windows(padded), patches, y_g, overlaps)
