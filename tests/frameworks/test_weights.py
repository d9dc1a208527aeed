"""Weights on their way: layouts that keep what a network answers, files, both ways."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reptile_lib import UserError, conv4
from reptile_lib.frameworks.weights import channels_first, channels_last, read, write


def named(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def test_dense_rows_follow_the_pictures_they_look_at() -> None:
    """A dense layer behind a convolution answers alike, whatever stands last."""
    weights = named(conv4(3, size=28, filters=6))
    turned = channels_last(weights)
    features = np.random.default_rng(0).normal(size=(4, 6, 2, 2))  # channels first
    first = features.reshape(4, -1) @ weights["out.weight"].T
    last = features.transpose(0, 2, 3, 1).reshape(4, -1) @ turned["out.weight"]
    np.testing.assert_allclose(last, first)
    kernel = weights["convolutions.1.weight"]  # [out, in, 3, 3]
    assert turned["convolutions.1.weight"][0, 2, 4, 5] == kernel[5, 4, 0, 2]


def test_only_the_first_dense_layer_behind_a_convolution_is_reordered() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3)
    )
    turned = channels_last(named(net))
    np.testing.assert_array_equal(turned["3.weight"], named(net)["3.weight"].T)
    assert not np.array_equal(turned["2.weight"], named(net)["2.weight"].T)
    for name, value in channels_first(turned).items():
        np.testing.assert_array_equal(value, named(net)[name])


def test_files_are_those_of_torch(tmp_path: Path) -> None:
    model = conv4(3, size=10, filters=4)
    write(tmp_path / "a.safetensors", named(model))
    own = read(tmp_path / "a.safetensors")
    model.load_state_dict({n: torch.from_numpy(v) for n, v in own.items()})
    save_file(dict(model.named_parameters()), tmp_path / "b.safetensors")
    theirs = read(tmp_path / "b.safetensors")
    assert set(own) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, own[name])
    (tmp_path / "c.safetensors").write_bytes(b"no")
    for name in ("c", "missing"):
        with pytest.raises(UserError, match=f"{name}.safetensors cannot be read"):
            read(tmp_path / f"{name}.safetensors")
