"""The paper's network for Omniglot, against its description."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib import UserError, conv4
from reptile_lib.models.conv4 import pad_same
from reptile_lib.params import ravel


@pytest.mark.parametrize(("ways", "parameters"), [(5, 113_221), (20, 117_076)])
def test_conv4_has_the_papers_size(ways: int, parameters: int) -> None:
    # 640 + 3·36,928 for the convolutions, 4·128 for the norms, 257 a way
    model = conv4(ways)
    assert len(ravel(model)) == parameters
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, ways)


def same(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve as TensorFlow's documentation defines "SAME", dot product by product."""
    sizes, kernel = x.shape[-2:], weight.shape[-1]
    outs = [math.ceil(size / stride) for size in sizes]
    totals = [
        max((out - 1) * stride + kernel - size, 0)
        for out, size in zip(outs, sizes, strict=True)
    ]
    result = torch.zeros(len(x), len(weight), *outs, dtype=x.dtype)
    for row in range(outs[0]):
        for column in range(outs[1]):
            for i in range(kernel):
                for j in range(kernel):
                    r = row * stride + i - totals[0] // 2
                    c = column * stride + j - totals[1] // 2
                    if 0 <= r < sizes[0] and 0 <= c < sizes[1]:
                        result[:, :, row, column] += (
                            x[:, :, r, c] @ weight[:, :, i, j].T
                        )
    return result


@pytest.mark.parametrize(
    "sizes", [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (8, 7), (3, 8)]
)
def test_pad_same_is_tensorflows(sizes: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(2, 3, *sizes, generator=g, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(
        F.conv2d(pad_same(x), weight, stride=2), same(x, weight, stride=2)
    )


def test_conv4_is_four_blocks_and_a_linear_layer() -> None:
    # once more from the paper's description, with the parameters taken by name
    model = conv4(ways=3, channels=2, size=14, seed=1).double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales matter, too
            more = torch.linspace(-0.1, 0.1, parameter.numel())
            parameter.add_(more.view_as(parameter))
    p = dict(model.named_parameters())
    x = torch.rand(5, 2, 14, 14, dtype=torch.float64)
    h = x
    for i in range(4):
        h = same(h, p[f"convolutions.{i}.weight"], stride=2)
        h = h + p[f"convolutions.{i}.bias"][:, None, None]
        mean = h.mean((0, 2, 3), keepdim=True)
        variance = h.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (p[f"norms.{i}.{n}"][:, None, None] for n in ("weight", "bias"))
        h = (h - mean) / (variance + 1e-3).sqrt() * scale + shift
        h = h.clamp_min(0)
    logits = h.flatten(1) @ p["out.weight"].T + p["out.bias"]
    torch.testing.assert_close(model(x), logits)


def test_batch_norm_uses_the_batch_at_hand_in_every_mode() -> None:
    model, x = conv4(ways=3, size=8), torch.rand(6, 1, 8, 8)
    together = model(x)
    assert torch.equal(model.eval()(x), together)
    assert not dict(model.named_buffers())
    assert (model(x[:3]) - together[:3]).abs().max() > 1e-3


def test_conv4_starts_as_the_authors_layers_do() -> None:
    model = conv4(ways=5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif name.startswith("norms"):
            assert parameter.eq(1).all()
        else:
            field = parameter[0, 0].numel() if parameter.dim() == 4 else 1
            fan_in, fan_out = parameter.shape[1] * field, parameter.shape[0] * field
            bound = (6 / (fan_in + fan_out)) ** 0.5  # Glorot & Bengio 2010
            assert 0.98 * bound < parameter.abs().max() <= bound
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_seed_fixes_the_start_and_nothing_else_is_touched() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = ravel(conv4(ways=5, size=8, seed=7))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, ravel(conv4(ways=5, size=8, seed=7)))
    assert not torch.equal(first, ravel(conv4(ways=5, size=8, seed=8)))


def test_bad_sizes_and_batches_are_named() -> None:
    for name in ("ways", "channels", "size"):
        with pytest.raises(UserError, match=f"conv4: {name} = 0; give at least 1"):
            conv4(**{"ways": 2, name: 0})
    with pytest.raises(UserError, match="single value to normalise, one image of one"):
        conv4(2, size=9)(torch.rand(1, 1, 9, 9))
