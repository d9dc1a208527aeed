"""The paper's network for Mini-ImageNet, against its description."""

import pytest
import torch
from torch.nn import functional as F

from reptile_lib import UserError, conv4_pool
from reptile_lib.params import ravel


@pytest.mark.parametrize(
    ("ways", "size", "parameters"), [(5, 84, 34_661), (5, 32, 29_541), (20, 84, 51_956)]
)
def test_it_has_the_papers_size(ways: int, size: int, parameters: int) -> None:
    # 896 + 3 * 9,248 for the convolutions, 4 * 64 for the norms, 1,153 a way at 84
    model = conv4_pool(ways, size=size)
    assert len(ravel(model)) == parameters
    assert model(torch.rand(3, 3, size, size)).shape == (3, ways)


def test_it_is_four_blocks_and_a_linear_layer() -> None:
    # once more from the description, pooled cell by cell; sides 7, 4, 2, 1
    model = conv4_pool(ways=3, channels=2, size=13, seed=1).double()
    named = dict(model.named_parameters())
    x = torch.rand(4, 2, 13, 13, dtype=torch.float64)
    with torch.no_grad():
        for parameter in named.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = x
        for i in range(4):
            z = F.conv2d(
                F.pad(expected, (1, 1, 1, 1)),
                named[f"convolutions.{i}.weight"],
                named[f"convolutions.{i}.bias"],
            )
            side = -(-z.shape[-1] // 2)
            cells = [
                z[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].amax((2, 3))
                for r in range(side)
                for c in range(side)
            ]
            z = torch.stack(cells, -1).view(4, 32, side, side)
            mean = z.mean((0, 2, 3), keepdim=True)
            variance = (z - mean).square().mean((0, 2, 3), keepdim=True)
            scale = named[f"norms.{i}.weight"].view(1, 32, 1, 1)
            shift = named[f"norms.{i}.bias"].view(1, 32, 1, 1)
            z = scale * (z - mean) / (variance + 1e-3).sqrt() + shift
            expected = z.clamp(min=0)
        logits = expected.flatten(1) @ named["out.weight"].T + named["out.bias"]
        torch.testing.assert_close(model(x), logits)


def test_a_seed_draws_the_weights_and_leaves_torchs_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (ravel(conv4_pool(5, size=32, seed=s)) for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_wrong_number_is_named() -> None:
    with pytest.raises(UserError, match="conv4_pool: size = 0; give at least 1"):
        conv4_pool(5, size=0)
    with pytest.raises(UserError, match="batch norm has a single value"):
        conv4_pool(5, size=16)(torch.zeros(1, 3, 16, 16))
