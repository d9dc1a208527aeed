"""Conv4's inner step as one pure function that torch compiles.

`conv4` says what is computed, and computes it with one library call after the
other. Here the same formulas go without buffers, so that `torch.compile` may run all
that lies between two matrix products, and the optimiser's update, in one pass over
memory. On a CPU that saves a fifth of the time of a step; the compiler takes about 20
seconds for each set of shapes.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib.fast.conv4_buffers import cut
from reptile_lib.fast.written import Step
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.models.conv4 import padding
from reptile_lib.params import Layout


@cache
def works() -> bool:
    """Say whether torch can compile here: it needs a C++ compiler, Python's headers."""
    try:
        return bool(torch.compile(lambda x: 2 * x)(torch.ones(1)) == 2)
    except Exception:  # of many kinds: what is missing shows in a different place each
        return False


@cache
def step(
    inner: InnerOptimizer, where: Layout, eps: float, summed: bool, bf16: bool
) -> Step:
    """Return a compiled inner step; the same one for the same arguments.

    Args:
        inner: the inner optimiser, without a rule that stops.
        where: Conv4's layout; theta and state come in matrix order.
        eps: batch norm's.
        summed: whether the loss is summed over the examples; else it is their mean.
        bf16: whether the large products round their factors.
    """

    def take(
        theta: Tensor, state: State, patches: Tensor, y: Tensor
    ) -> tuple[Tensor, State, Tensor]:
        g, losses = gradient(theta, patches, y, where, eps, summed, bf16)
        theta, state = inner.update(g, state, theta)
        return theta, state, losses

    from torch import _dynamo as dynamo  # takes seconds to import

    # A variant for each size of a stack; beyond the limit, 8, there is an error.
    for name in ("recompile_limit", "cache_size_limit"):  # its name in torch 2.6
        if hasattr(dynamo.config, name):
            setattr(dynamo.config, name, max(64, getattr(dynamo.config, name)))
    compiled: Step = torch.compile(take, fullgraph=True, dynamic=False)
    return compiled


def gradient(
    theta: Tensor,
    patches: Tensor,
    y: Tensor,
    where: Layout,
    eps: float = 1e-3,
    summed: bool = False,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return gradient [n, P] and loss [n] of the cross-entropy at theta [n, P].

    The arguments are those of `conv4.gradient` and of `step`.
    """
    (n, batch), width = y.shape, where.shapes[0][0]
    divisor = 1 if summed else batch
    parts = dict(zip(where.names, torch.split(theta, where.sizes, 1), strict=True))
    g = {name: torch.zeros_like(part) for name, part in parts.items()}
    weights = [parts[f"convolutions.{i}.weight"].view(n, -1, width) for i in range(4)]
    scales = [parts[f"norms.{i}.weight"].view(n, 1, width) for i in range(4)]
    shifts = [parts[f"norms.{i}.bias"].view(n, 1, width) for i in range(4)]
    out = parts["out.weight"].view(n, where.shapes[-1].numel(), -1)

    a, passed = patches.flatten(1, 2), []
    for i in range(4):
        z = _product(a, weights[i], bf16)
        share = 1 / z.shape[1]
        (mean,) = _stored(z.sum(1, keepdim=True) * share)
        z = z - mean
        root = (z.square().sum(1, keepdim=True) * share + eps).rsqrt()
        root, slope = _stored(root, root * scales[i])
        outputs = torch.addcmul(shifts[i], z, slope).relu()
        passed.append((a, z, root, slope))
        if i < 3:
            side = round((outputs.shape[1] // batch) ** 0.5)
            a = cut(outputs.view(n, batch, side, side, width)).flatten(1, 3)

    features = outputs.view(n, batch, -1)
    scores = torch.baddbmm(parts["out.bias"][:, None], features, out.mT).log_softmax(2)
    losses = -scores.gather(2, y[:, :, None]).sum((1, 2)) / divisor

    d = (scores.exp() - F.one_hot(y, scores.shape[2])) / divisor
    g["out.weight"] = torch.bmm(d.mT, features).flatten(1)
    g["out.bias"] = d.sum(1)
    y_g = torch.bmm(d, out).view(n, -1, width)
    for i in reversed(range(4)):
        a, z, root, slope = passed[i]
        share = 1 / z.shape[1]
        x_g = torch.where(torch.addcmul(shifts[i], z, slope) > 0, y_g, 0.0)
        shift_g = x_g.sum(1, keepdim=True)
        scale_g = (x_g * z).sum(1, keepdim=True) * root
        mean_g, slope_g = _stored(shift_g * share, scale_g * root * share)
        z_g = slope * (x_g - z * slope_g - mean_g)
        g[f"norms.{i}.weight"], g[f"norms.{i}.bias"] = scale_g[:, 0], shift_g[:, 0]
        g[f"convolutions.{i}.weight"] = _product(a.mT, z_g, bf16).flatten(1)
        if i > 0:
            patches_g = _product(z_g, weights[i].mT, bf16)
            y_g = _put_back(patches_g, batch, passed[i - 1][1].shape[1])
    return torch.cat([g[name] for name in where.names], 1), losses


def _stored(*channels: Tensor) -> tuple[Tensor, ...]:
    """Have these values [n, 1, C] computed once, where a pass over pixels takes them.

    The compiler would compute them again for each pixel; it stores what it stacks.
    """
    return torch.stack(channels).unbind()


def _product(a: Tensor, b: Tensor, bf16: bool) -> Tensor:
    if bf16:
        return torch.bmm(a.bfloat16(), b.bfloat16()).to(a.dtype)
    return torch.bmm(a, b)


def _put_back(patches: Tensor, batch: int, rows: int) -> Tensor:
    """Add up patches [n, B·o·o, 9C] at the pixels they were cut from: `cut`, back."""
    n, width = patches.shape[0], patches.shape[2] // 9
    h = round((rows // batch) ** 0.5)
    o = -(-h // 2)
    parts = patches.view(n, batch, o, o, 3, 3, width)
    parts = _lines(parts, 2, 4)  # [n, B, o, 2, o, 3, C]
    parts = _lines(parts, 4, 5)  # [n, B, o, 2, o, 2, C]
    before, _ = padding(h)
    inner = slice(before, before + h)
    pixels = parts.reshape(n, batch, 2 * o, 2 * o, width)[:, :, inner, inner]
    return pixels.reshape(n, rows, width)


def _lines(parts: Tensor, patch: int, line: int) -> Tensor:
    """Turn o patches of 3 lines, 2 apart, into the o pairs of lines they cover.

    Line 2i is the first of patch i and the third of the one before; 2i + 1 is the
    second of patch i. The last line of all is padding.
    """
    first, second, third = parts.unbind(line)
    third = third.narrow(patch, 0, third.shape[patch] - 1)
    one_on = F.pad(third, [0, 0] * (third.dim() - 1 - patch) + [1, 0])
    return torch.stack([first + one_on, second], patch + 1)
