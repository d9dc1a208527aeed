"""Omniglot: the published data where it is at hand, made-up zip files elsewhere."""

import hashlib
import io
import os
import random
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import Omniglot

from reptile_lib import Examples, Splits, UserError, load
from reptile_lib.data import omniglot, packed
from reptile_lib.reading.arrays import Source, fingerprint
from reptile_lib.reading.fetch import Remote
from tests.kit import one
from tests.reading.site import served

NAMES = ("A/character01", "A/character02", "B/character01")
CHARACTERS = {  # the alphabets of the two files are mixed when sorted
    "images_background": ("B/character01",),
    "images_evaluation": ("A/character01", "A/character02"),
}


def large(character: str, drawing: int) -> np.ndarray:
    """Return a drawing as published, 105 x 105, unlike any other."""
    seed = [*map(ord, character), drawing]
    return np.random.default_rng(seed).random((105, 105)) < 0.9


def small(character: str, drawing: int) -> np.ndarray:
    """Resize by hand: the pixel under the centre of each of 28 x 28 cells."""
    at = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    pixels: np.ndarray = large(character, drawing)[at][:, at]
    return pixels


def write_zip(path: Path, extra: tuple[str, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for character in CHARACTERS[path.stem]:
            for drawing in (2, 1):
                png = io.BytesIO()
                Image.fromarray(large(character, drawing)).save(png, "PNG")
                name = f"{path.stem}/{character}/0001_{drawing:02d}.png"
                file.writestr(name, png.getvalue())
        for name in extra:
            file.writestr(name, b"no picture")


SMALL = replace(
    omniglot.SOURCE,
    sha256=fingerprint(
        {
            "names": np.array(NAMES),
            "bits": packed.pack(
                np.array([[small(name, i) for i in (1, 2)] for name in NAMES])
            ),
        }
    ),
)
"""An Omniglot of three characters."""


def load_small(seed: int = 0, val_classes: int = 0) -> Splits:
    return omniglot.split(SMALL, 2, seed, val_classes)


def images(part: Examples) -> Tensor:
    """Return the drawings [classes, examples, 1, 28, 28]."""
    return torch.stack([one(values) for values in part.by_class()])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the zip files of a small Omniglot into home/data."""
    for stem in CHARACTERS:
        write_zip(tmp_path / "data" / "omniglot" / f"{stem}.zip")
    monkeypatch.setenv("REPTILE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def complaint(source: Source = SMALL) -> str:
    """Return the one line that loading ends in."""
    with pytest.raises(UserError) as caught:
        omniglot.split(source, 2, 0, 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_drawings_come_from_the_zip_files(home: Path) -> None:
    splits = load_small(seed=3, val_classes=1)
    order = [0, 1, 2]
    random.Random(3).shuffle(order)
    assert [part.names for part in splits] == [(NAMES[i],) for i in order]
    for part in splits:
        expected = np.array([small(part.names[0], drawing) for drawing in (1, 2)])
        assert torch.equal(
            images(part)[0, :, 0], torch.from_numpy(expected * np.uint8(255))
        )


def test_the_cache_is_enough_afterwards(home: Path) -> None:
    first = load_small()
    assert [path.name for path in (home / "cache").iterdir()] == ["omniglot.npz"]
    for path in (home / "data" / "omniglot").iterdir():
        path.unlink()
    again = load_small()
    assert again.train.names == first.train.names
    assert torch.equal(images(again.train), images(first.train))


def test_a_cut_zip_file_is_named(home: Path) -> None:
    path = home / "data" / "omniglot" / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is damaged" in complaint()


def test_a_flipped_byte_in_a_zip_file_is_noticed(home: Path) -> None:
    path = home / "data" / "omniglot" / "images_evaluation.zip"
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    assert f"{path} is damaged" in complaint()


def test_a_zip_file_that_would_escape_is_refused(home: Path) -> None:
    path = home / "data" / "omniglot" / "images_background.zip"
    write_zip(path, extra=("../evil.png",))
    assert f"{path} holds a path that leaves its folder" in complaint()


def test_a_missing_drawing_is_noticed(home: Path) -> None:
    path = home / "data" / "omniglot" / "images_evaluation.zip"
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()[1:]}
    with zipfile.ZipFile(path, "w") as file:
        for name, png in content.items():
            file.writestr(name, png)
    assert "hold 3 characters with [1, 2] drawings, not as many of" in complaint()


def test_other_pictures_are_noticed(home: Path) -> None:
    found = complaint(replace(SMALL, sha256="0" * 64))
    assert "hold something else than was published" in found


@pytest.mark.parametrize("val_classes", [-1, 3])
def test_validation_classes_are_some_of_the_training_classes(
    home: Path, val_classes: int
) -> None:
    with pytest.raises(UserError, match=f"is {val_classes}: choose from 0 to 2"):
        load_small(val_classes=val_classes)


def test_without_them_they_are_downloaded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "data" / "omniglot"
    monkeypatch.delenv("REPTILE_DATA")
    with served(folder) as base:
        remotes = tuple(
            Remote(
                f"{base}/{path.name}",
                f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}",
                10_000_000,
            )
            for path in sorted(folder.iterdir())
        )
        found = omniglot.split(replace(SMALL, remotes=remotes), 2, 0, 0)
    assert found.train.names == load_small().train.names


def test_torchvision_knows_the_same_files() -> None:
    for remote in omniglot.SOURCE.remotes:
        stem = remote.name.removesuffix(".zip")
        assert remote.url == f"{Omniglot.download_url_prefix}/{stem}.zip"
        assert remote.digest == f"md5:{Omniglot.zips_md5[stem]}"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let the cache be a new folder, so that the published files are read."""
    data = os.environ.get("REPTILE_DATA")
    if not data or not Path(data, "omniglot").is_dir():
        pytest.skip(
            "no Omniglot: put images_background.zip and images_evaluation.zip of "
            "github.com/brendenlake/omniglot (python/) in $REPTILE_DATA/omniglot"
        )
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("REPTILE_CACHE", str(folder))
        yield folder


def test_real_omniglot(real: Path) -> None:
    fresh = load("omniglot")
    train, val, test = load("omniglot")
    for part, before in zip((train, val, test), fresh, strict=True):
        assert part.names == before.names
        assert torch.equal(one(part.pool), one(before.pool))

    assert images(train).shape == (1200, 20, 1, 28, 28)
    assert val.counts == ()
    assert images(test).shape == (423, 20, 1, 28, 28)
    assert len({*train.names, *test.names}) == 1623
    assert torch.unique(images(train)).tolist() == [0, 255]
    assert 0.05 < (images(train) == 0).float().mean() < 0.15  # ink is black


def test_real_omniglot_is_split_as_the_authors_do(real: Path) -> None:
    train, _, test = load("omniglot", seed=0)
    stored = sorted(
        {*train.names, *test.names}, key=lambda name: name.split("/")
    )  # alphabets in order, characters in order, as listing folders gives them
    random.seed(0)
    random.shuffle(stored)
    assert train.names == tuple(stored[:1200])
    assert test.names == tuple(stored[1200:])
    assert load("omniglot", seed=1).train.names != train.names
    smaller, val, same = load("omniglot", val_classes=100)
    assert smaller.names + val.names == train.names
    assert len(val) == 100
    assert same.names == test.names
