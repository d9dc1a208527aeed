"""CIFAR-10: small archives and sheets, and the real pictures where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

from reptile_lib import load
from reptile_lib.data import cifar10
from reptile_lib.reading.arrays import Source, arrays_of, fingerprint
from tests.data import tiles
from tests.data.ways import complaint, damaged, from_packed, from_site, small
from tests.kit import one

TRAIN, TEST = tiles.pictures(0, count=50), tiles.pictures(1, count=20)
FOLDER = "cifar-10-batches-bin"


def label(i: int) -> int:
    return 3 * i % 10


def archive() -> bytes:
    """Return five batches, the last one first, and what else is in the archive."""
    batches = {
        f"{FOLDER}/data_batch_{n}.bin": tiles.records(
            [(label(i),) for i in range(n, 50, 5)], TRAIN[n::5]
        )
        for n in range(5)
    }
    batches[f"{FOLDER}/data_batch_5.bin"] = batches.pop(f"{FOLDER}/data_batch_0.bin")
    names = "\n".join(cifar10.NAMES).encode()
    test = tiles.records([(label(i),) for i in range(20)], TEST)
    more = {f"{FOLDER}/test_batch.bin": test, f"{FOLDER}/batches.meta.txt": names}
    return tiles.tarred({**dict(reversed(batches.items())), **more})


OFFICIAL = {"cifar-10-binary.tar.gz": archive()}


def packed() -> dict[str, bytes]:
    """Return the sheets, in another order of the pictures."""
    files = {}
    for part, images in {"train": TRAIN, "test": TEST}.items():
        order = sorted(range(len(images)), key=label)
        rows = [(cifar10.NAMES[label(i)], f"{i}.png") for i in order]
        files[f"cifar10/cifar10_{part}.webp"] = tiles.sheet(images[order])
        files[f"cifar10/cifar10_{part}.csv"] = tiles.table("label,file", rows)
    return files


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small(cifar10.SOURCE, OFFICIAL, tmp_path)


def test_both_ways_lead_to_the_same(source: Source, tmp_path: Path) -> None:
    for found in (
        from_site(source, tmp_path, arrays_of),
        from_packed(source, packed(), tmp_path, arrays_of),
    ):
        assert fingerprint(found) == source.sha256
        for part, images in {"train": TRAIN, "test": TEST}.items():
            assert found[part].shape == (10, len(images) // 10, 3, 32, 32)
            for kind, own in enumerate(found[part]):
                shown = [i for i in range(len(images)) if label(i) == kind]
                assert [x.tobytes() for x in own] == sorted(
                    images[i].tobytes() for i in shown
                )


def test_damage_is_named(source: Source, tmp_path: Path) -> None:
    name = "cifar10/cifar10_test.webp"
    for how, bad in damaged(packed()[name]).items():
        if how == "flipped":  # one flipped bit may give other pixels
            continue
        assert f"{name} is damaged" in complaint(
            source, {**packed(), name: bad}, tmp_path
        )
    for bad in damaged(OFFICIAL["cifar-10-binary.tar.gz"]).values():
        path = tmp_path / "bad.tar.gz"
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad.tar.gz is damaged"):
            cifar10.read([path])


@pytest.mark.slow
@pytest.mark.needs_data("cifar10")
def test_real_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path))
    train, val, test = load("cifar10", val_examples=500)
    counts = [set(part.counts) for part in (train, val, test)]
    assert counts == [{4500}, {500}, {1000}]
    assert one(test.pool).shape == (10_000, 3, 32, 32)
    brightness = np.array([one(x).float().mean().item() for x in train.by_class()])
    assert train.names[int(brightness.argmax())] == "airplane"  # much sky
