"""MNIST: files in its format, and the published ones where they are at hand."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from reptile_lib import UserError, load
from reptile_lib.data import mnist
from reptile_lib.reading.arrays import arrays_of, fingerprint
from tests.data.ways import complaint, damaged, from_packed, from_site, small
from tests.kit import one

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_x": RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8),
    "train_y": RNG.permutation(np.arange(30, dtype=np.uint8) % 10),
    "test_x": RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8),
    "test_y": np.arange(9, -1, -1, dtype=np.uint8),
}


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


OFFICIAL = dict(zip(mnist.FILES, map(idx, ARRAYS.values()), strict=True))
PACKED = {f"mnist/{name}": content for name, content in OFFICIAL.items()}


def test_both_ways_lead_to_the_same(tmp_path: Path) -> None:
    source = small(mnist.SOURCE, OFFICIAL, tmp_path)
    assert source.sha256 == fingerprint(ARRAYS)
    for found in (
        from_site(source, tmp_path, arrays_of),
        from_packed(source, PACKED, tmp_path, arrays_of),
    ):
        assert fingerprint(found) == fingerprint(ARRAYS)


def test_digits_are_classes_in_each_part() -> None:
    train, val, test = mnist.parts(ARRAYS, 0, 1)
    assert train.names == val.names == test.names == tuple("0123456789")
    assert (train.counts, val.counts, test.counts) == ((2,) * 10, (1,) * 10, (1,) * 10)
    for digit in range(10):
        parts = [one(part.by_class()[digit]) for part in (train, val)]
        expected = ARRAYS["train_x"][ARRAYS["train_y"] == digit]
        assert {x.numpy().tobytes() for x in torch.cat(parts)} == {
            x.tobytes() for x in expected
        }
        shown = one(test.by_class()[digit])
        assert np.array_equal(shown[0, 0], ARRAYS["test_x"][9 - digit])
    whole, none, _ = mnist.parts(ARRAYS, 0, 0)
    assert none.counts == ()
    same = ARRAYS["train_x"][ARRAYS["train_y"] == 7]  # in the published order
    assert np.array_equal(one(whole.by_class()[7])[:, 0], same)


def test_damage_is_named(tmp_path: Path) -> None:
    source = small(mnist.SOURCE, OFFICIAL, tmp_path)
    name = "mnist/t10k-images-idx3-ubyte.gz"
    no_idx = gzip.compress(b"\0\0\x0d\x01\0\0\0\0")
    short = idx(ARRAYS["test_x"][:, :1])[:-9] + b"?" * 9
    for bad in (*damaged(PACKED[name]).values(), gzip.compress(b""), no_idx, short):
        assert f"{name} is damaged" in complaint(
            source, {**PACKED, name: bad}, tmp_path
        )
    other = {**PACKED, name: idx(ARRAYS["test_x"] + 1)}
    assert "hold something else" in complaint(source, other, tmp_path)


def test_torchvision_knows_the_same_files() -> None:
    assert list(mnist.FILES.items()) == MNIST.resources
    assert f"{mnist.URL}/" in MNIST.mirrors


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPTILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.needs_data("mnist")
def test_real_mnist(real: None) -> None:
    train, val, test = load("mnist", val_examples=500)
    sizes = [sum(part.counts) for part in (train, val, test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert train.counts[:2] == (5423, 6242)
    assert test.counts == (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    assert one(train.pool).shape[1:] == (1, 28, 28)
    with pytest.raises(UserError, match="val_examples is 5421: choose from 0 to 5420"):
        load("mnist", val_examples=5421)
