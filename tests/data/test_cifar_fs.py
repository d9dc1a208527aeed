"""CIFAR-FS: small archives and sheets, and the real pictures where they are at hand."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reptile_lib import UserError, load
from reptile_lib.data import cifar_fs
from reptile_lib.reading.arrays import arrays_of, fingerprint, read_npz
from tests.data import tiles
from tests.data.ways import complaint, damaged, from_packed, from_site, small
from tests.kit import one

FINE = sorted(name for names in cifar_fs.NAMES.values() for name in names)
IMAGES = tiles.pictures(0, count=300)
LABELS = [7 * i % 100 for i in range(300)]


def archive(labels: list[int], images: tiles.Pixels, cut: int, level: int = 1) -> bytes:
    """Return an archive whose training part has the first `cut` pictures."""
    halves = {"train": slice(cut), "test": slice(cut, None)}
    files = {
        f"cifar-100-binary/{half}.bin": tiles.records(
            [(label // 5, label) for label in labels[rows]], images[rows]
        )
        for half, rows in halves.items()
    }
    names = "\n".join([*FINE, ""]).encode()
    return tiles.tarred(
        {"cifar-100-binary/fine_label_names.txt": names, **files}, level
    )


OFFICIAL = {"cifar-100-binary.tar.gz": archive(LABELS, IMAGES, 250)}


def packed() -> dict[str, bytes]:
    files = {}
    for part, names in cifar_fs.NAMES.items():
        order = [i for i in reversed(range(300)) if FINE[LABELS[i]] in names]
        rows = [(FINE[LABELS[i]], f"{i}.png") for i in order]
        files[f"cifar_fs/cifar_fs_{part}.webp"] = tiles.sheet(IMAGES[order])
        files[f"cifar_fs/cifar_fs_{part}.csv"] = tiles.table("label,file", rows)
    return files


def test_the_split_is_of_a_hundred_classes() -> None:
    assert [len(names) for names in cifar_fs.NAMES.values()] == [64, 16, 20]
    assert len(set(FINE)) == 100
    assert all(names == sorted(names) for names in cifar_fs.NAMES.values())


def test_both_ways_lead_to_the_same(tmp_path: Path) -> None:
    every = replace(cifar_fs.SOURCE_256, read=cifar_fs.read)
    source = small(every, OFFICIAL, tmp_path)
    for found in (
        from_site(source, tmp_path, arrays_of),
        from_packed(source, packed(), tmp_path, arrays_of),
    ):
        assert fingerprint(found) == source.sha256
        for part, names in cifar_fs.NAMES.items():
            for name, own in zip(names, found[part], strict=True):
                shown = [i for i in range(300) if FINE[LABELS[i]] == name]
                assert [x.tobytes() for x in own] == sorted(
                    IMAGES[i].tobytes() for i in shown
                )


def test_chosen_pictures_are_found_by_their_sums() -> None:
    images = tiles.pictures(1, count=10)
    images[4] = images[1]  # of equal pictures, as many as were chosen
    train = images.reshape(2, 5, 3, 32, 32)
    rows = ([3, 1, 4], [5, 9, 6])
    sums = np.array([[zlib.crc32(images[i].tobytes()) for i in own] for own in rows])
    found = cifar_fs.chosen({"train": train, "val": images}, sums)
    assert np.array_equal(found["train"][0], images[[1, 3, 4]])
    assert np.array_equal(found["train"][1], images[[5, 6, 9]])
    assert found["val"] is images
    twice = cifar_fs.chosen({"train": train}, np.array([sums[0, 1:2], sums[1, :1]]))
    assert np.array_equal(twice["train"], images[[1, 5]][:, None])


def test_an_archive_without_the_chosen_pictures_is_refused(tmp_path: Path) -> None:
    source = small(replace(cifar_fs.SOURCE, known=None), OFFICIAL, tmp_path)
    with pytest.raises(UserError, match=r"cifar-100-binary.tar.gz (hold|is damaged)"):
        from_site(replace(source, known=cifar_fs.chosen), tmp_path, arrays_of)


def test_damage_is_named(tmp_path: Path) -> None:
    every = replace(cifar_fs.SOURCE, known=None)
    source = small(every, OFFICIAL, tmp_path)
    name = "cifar_fs/cifar-100-binary.tar.gz"
    nameless = tiles.tarred({"cifar-100-binary/train.bin": b""})
    bad = [*damaged(OFFICIAL["cifar-100-binary.tar.gz"]).values(), nameless]
    for content in bad:
        assert f"{name} is damaged" in complaint(source, {name: content}, tmp_path)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPTILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("data")


@pytest.mark.slow
@pytest.mark.needs_data("cifar-fs-256")
def test_real_cifar_fs_256(real: Path) -> None:
    splits = load("cifar-fs-256")
    sizes = [(len(part), set(part.counts)) for part in splits]
    assert sizes == [(64, {256}), (16, {600}), (20, {600})]
    assert one(splits.val.pool).shape == (9600, 3, 32, 32)
    sums = read_npz(cifar_fs.CHOSEN)["crc32"]
    for own, images in zip(sums.tolist(), splits.train.by_class(), strict=True):
        assert own == sorted(zlib.crc32(x.numpy()) for x in one(images))


@pytest.mark.slow
@pytest.mark.needs_data("cifar-fs-256")
def test_real_pictures_are_found_in_an_official_archive(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training pictures that are not known are stood in for by noise, 44 a class."""
    labels: list[int] = []
    images: list[np.ndarray] = []
    for part in load("cifar-fs-256"):
        for name, own in zip(part.names, part.by_class(), strict=True):
            images.append(one(own).numpy())
            if len(own) == 256:
                images.append(tiles.pictures(FINE.index(name), count=44))
            labels += [FINE.index(name)] * (300 if len(own) == 256 else 600)
    pool = np.concatenate(images)
    order = np.random.default_rng(0).permutation(len(pool))
    path = real / "cifar_fs" / "cifar-100-binary.tar.gz"
    path.parent.mkdir()
    path.write_bytes(archive([labels[i] for i in order], pool[order], 30_000, level=0))
    monkeypatch.setenv("REPTILE_DATA", str(real))
    whole = load("cifar-fs")  # what is known of it is verified
    assert [set(part.counts) for part in whole] == [{300}, {600}, {600}]
