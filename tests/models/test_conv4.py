"""The book's networks."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import UserError, conv4, mlp
from reptile_lib.models import pad_same
from reptile_lib.params import layout, ravel


@pytest.mark.parametrize(("ways", "parameters"), [(5, 113_221), (20, 117_076)])
def test_conv4_has_the_papers_size(ways: int, parameters: int) -> None:
    # 640 + 3·36,928 for the convolutions, 4·128 for the norms, 257 a way
    model = conv4(ways)
    assert len(ravel(model)) == parameters
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, ways)


def same(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve as TensorFlow's documentation defines "SAME", dot product by product."""
    size, kernel = x.shape[-1], weight.shape[-1]
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2
    result = torch.zeros(len(x), len(weight), out, out, dtype=x.dtype)
    for row in range(out):
        for column in range(out):
            for i in range(kernel):
                for j in range(kernel):
                    r = row * stride + i - before
                    c = column * stride + j - before
                    if 0 <= r < size and 0 <= c < size:
                        result[:, :, row, column] += (
                            x[:, :, r, c] @ weight[:, :, i, j].T
                        )
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_pad_same_is_tensorflows(size: int) -> None:
    g = torch.Generator().manual_seed(size)
    x = torch.randn(2, 3, size, size, generator=g, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(
        F.conv2d(pad_same(x), weight, stride=2), same(x, weight, stride=2)
    )


def test_conv4_is_four_blocks_and_a_linear_layer() -> None:
    # once more from the paper's description, with the parameters taken by name
    model = conv4(ways=3, channels=2, size=14, seed=1).double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales matter, too
            parameter += torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter)
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


def make_conv4(seed: int) -> nn.Module:
    return conv4(ways=5, size=8, seed=seed)


def make_mlp(seed: int) -> nn.Module:
    return mlp(1, 8, 8, 1, seed=seed)


@pytest.mark.parametrize("make", [make_conv4, make_mlp])
def test_a_seed_fixes_the_start_and_nothing_else_is_touched(
    make: Callable[[int], nn.Module],
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = ravel(make(7))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, ravel(make(7)))
    assert not torch.equal(first, ravel(make(8)))


def test_mlp() -> None:
    model = mlp(1, 64, 64, 1)
    assert len(ravel(model)) == 128 + 64 * 65 + 65
    assert isinstance(model, nn.Sequential)
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert layout(model).shapes[0] == (64, 1)
    for m in model:
        if isinstance(m, nn.Linear):
            assert m.weight.abs().max() <= m.in_features**-0.5
    smooth = mlp(2, 3, 1, activation=nn.Tanh)
    assert [m for m in smooth.modules() if isinstance(m, nn.Tanh)]
    with pytest.raises(UserError, match="at least an input and an output size"):
        mlp(3)
