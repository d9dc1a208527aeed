"""Pictures of one's own: real files of many formats, and what is wrong with some."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from reptile_lib import Examples, FewShotTasks, UserError
from reptile_lib.reading.folder import picture
from reptile_lib.reading.split import only
from tests.kit import one

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
T = Image.Transpose


def quarters(side: int = 56) -> Image.Image:
    """Draw a square of four colours: red and green above blue and white."""
    image = Image.new("RGB", (side, side))
    half = side // 2
    for i, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        image.paste(colour, (i % 2 * half, i // 2 * half, side, (i // 2 + 1) * half))
    return image


def centres(x: Tensor) -> list[list[int]]:
    """Return the colours in the middle of the four quarters."""
    low, high = x.shape[-1] // 4, 3 * x.shape[-1] // 4
    return [x[:, r, c].tolist() for r in (low, high) for c in (low, high)]


def near(x: Tensor, colours: object, by: float = 6) -> bool:
    return bool(np.abs(np.array(centres(x)) - np.array(colours)).max() <= by)


COLOURS = [RED, GREEN, BLUE, WHITE]
GREYS = [[76], [75], [29], [255]]  # ITU-R 601 luma
FILES: dict[str, Callable[[Path], None]] = {
    "a.png": lambda p: quarters().save(p),
    "palette.png": lambda p: quarters().quantize(8).save(p),
    "alpha.png": lambda p: quarters().convert("RGBA").save(p),
    "a.jpg": lambda p: quarters().save(p, quality=95),
    "cmyk.jpg": lambda p: quarters().convert("CMYK").save(p, quality=95),
    "large.jpg": lambda p: quarters(1600).save(p, quality=95),
    "a.gif": lambda p: quarters().save(p),
    "a.bmp": lambda p: quarters().save(p),
    "a.tiff": lambda p: quarters().save(p),
    "cmyk.tiff": lambda p: quarters().convert("CMYK").save(p),
    "a.webp": lambda p: quarters().save(p, lossless=True),
    "a.ppm": lambda p: quarters().save(p),
    "no ending": lambda p: quarters().save(p, "png"),
    "moving.gif": lambda p: quarters().save(
        p, save_all=True, append_images=[Image.new("RGB", (56, 56), "black")]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_picture(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    colours = picture(tmp_path / name, channels=3)
    assert colours.shape == (3, 28, 28)
    assert colours.dtype == torch.uint8
    assert near(colours, COLOURS)
    greys = picture(tmp_path / name, size=20)
    assert greys.shape == (1, 20, 20)
    assert near(greys, GREYS)


@pytest.mark.parametrize("size", [28, 500])
def test_pictures_are_turned_as_their_exif_says(tmp_path: Path, size: int) -> None:
    flips = T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM
    stored = (None, *flips, T.TRANSPOSE, T.ROTATE_90, T.TRANSVERSE, T.ROTATE_270)
    for orientation, turn in enumerate(stored, 1):
        image = quarters() if turn is None else quarters().transpose(turn)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif, quality=95)
        assert near(picture(tmp_path / "a.jpg", size, channels=3), COLOURS)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.repeat(np.array([[0, 0x80FF, 0xFFFF, 300]], np.uint16), 4, 0)
    for name in ("a.png", "a.tiff", "a.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        row = picture(tmp_path / name, size=4)[0, 0]
        assert row.tolist() == [0, 0x80, 0xFF, 1]
    clear = Image.fromarray(values)
    clear.save(tmp_path / "b.png", transparency=300)
    assert picture(tmp_path / "b.png", size=4)[0, 0].tolist() == [0, 0x80, 0xFF, 0xFF]
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UserError, match=r"float\.tiff' .* \(pixels of 32 bits"):
        picture(tmp_path / "float.tiff")


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    alpha = np.array([[0, 128, 255]] * 3, np.uint8)
    black = np.zeros((3, 3, 4), np.uint8)
    black[..., 3] = alpha
    Image.fromarray(black).save(tmp_path / "a.png")
    assert picture(tmp_path / "a.png", size=3)[0, 0].tolist() == [255, 127, 0]
    grey = Image.merge("LA", (Image.new("L", (3, 3), 0), Image.fromarray(alpha)))
    grey.save(tmp_path / "b.png")
    assert picture(tmp_path / "b.png", size=3)[0, 0].tolist() == [255, 127, 0]
    for name in ("c.png", "c.gif"):
        table = Image.fromarray(np.array([[0, 1, 2]] * 3, np.uint8), "L").convert("P")
        table.putpalette([0, 0, 0, 0, 0, 0, 90, 90, 90])
        table.save(tmp_path / name, transparency=1)
        assert picture(tmp_path / name, size=3)[0, 0].tolist() == [0, 255, 90]


def test_all_of_a_picture_is_kept_undistorted(tmp_path: Path) -> None:
    for size, part in (
        ((80, 40), (slice(5, 15), slice(None))),
        ((10, 40), (slice(None), slice(7, 12))),
        ((2000, 1), (slice(9, 10), slice(None))),
        ((1, 1), (slice(None), slice(None))),
    ):
        Image.new("L", size, 0).save(tmp_path / "a.png")
        expected = torch.full((20, 20), 255, dtype=torch.uint8)
        expected[part] = 0
        assert torch.equal(picture(tmp_path / "a.png", size=20)[0], expected), size


def test_pictures_are_averaged_not_picked_from(tmp_path: Path) -> None:
    stripes = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (280, 280))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert (picture(tmp_path / "a.png").float() - 127.5).abs().max() < 3
    # a large JPEG, read at a fraction of its size, is as good
    g = np.random.default_rng(0)
    small = Image.fromarray(g.integers(0, 256, (30, 40, 3), np.uint8))
    for size in ((1600, 1200), (160, 120)):
        large = small.resize(size, Image.Resampling.BICUBIC)
        large.save(tmp_path / "b.png")
        large.save(tmp_path / "b.jpg", quality=95, subsampling=0)
        both = [picture(tmp_path / n, channels=3).float() for n in ("b.png", "b.jpg")]
        assert (both[0] - both[1]).abs().max() < 8


# --- folders


def folder(path: Path, classes: dict[str, int]) -> Path:
    """Write pictures of one shade, 10 c + e for example e of class c."""
    for c, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True)
        for e in reversed(range(count)):
            Image.new("L", (9, 9), 10 * c + e).save(path / name / f"{e}.png")
    return path


NAMES = {"zebra": 3, "Ünïcode 猫": 2, "a": 1, "two\nlines": 2, "🐍": 4}


def test_classes_are_subfolders_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = folder(tmp_path, NAMES)
    (root / ".hidden").mkdir()
    (root / "__MACOSX" / "a").mkdir(parents=True)
    (root / "README.md").write_text("about these pictures")
    for junk in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / "a" / junk).write_bytes(b"\0\1")
    found = Examples.from_folder(root, size=5)
    assert found.names == tuple(sorted(NAMES))
    assert found.counts == tuple(NAMES[name] for name in found.names)
    for name, values in zip(found.names, found.by_class(), strict=True):
        assert one(values).shape == (NAMES[name], 1, 5, 5)
        shades = [10 * list(NAMES).index(name) + e for e in range(NAMES[name])]
        assert one(values)[:, 0, 2, 2].tolist() == shades
    support, *_ = FewShotTasks(only(found, at_least=3), ways=2, shots=2).draw()
    assert one(support.x).max() <= 1


def test_a_link_to_a_folder_is_a_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "linked", {"a": 1})
    elsewhere = folder(tmp_path / "elsewhere", {"b": 2})
    (root / "b").symlink_to(elsewhere / "b")
    assert Examples.from_folder(str(root)).counts == (1, 2)


@pytest.mark.parametrize(
    ("transform", "shape", "highest"),
    [
        (
            transforms.Compose(
                [transforms.Resize(12), transforms.CenterCrop(8), transforms.ToTensor()]
            ),
            (3, 8, 8),
            1.0,
        ),
        (v2.Compose([v2.ToImage(), v2.Resize((6, 7))]), (3, 6, 7), 255),
    ],
    ids=["v1", "v2"],
)
def test_transforms_of_torchvision_are_taken(
    tmp_path: Path,
    transform: Callable[[Image.Image], Tensor],
    shape: object,
    highest: float,
) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (30, 20), "white").save(tmp_path / "a" / "0.jpg")
    quarters().save(tmp_path / "a" / "1.png")
    found = Examples.from_folder(tmp_path, channels=3, transform=transform)
    assert type(found.pool) is Tensor
    assert found.pool.shape == (2, *shape)  # type: ignore[misc]
    assert found.pool[0].max() == highest
    assert one(found.to_input(found.pool)).max() == 1


def test_transforms_without_tensors_of_one_shape_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, width in (("0.png", 30), ("1.png", 40)):
        Image.new("RGB", (width, 20)).save(tmp_path / "a" / name)
    for transform, message in (
        (transforms.Resize(12), r"makes a Image of .*0\.png'; let it end in a tensor"),
        (
            transforms.ToTensor(),
            r"\[1, 20, 40\] of .*1\.png', but torch.float32 \[1, 20, 30\] of .*0\.png'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            Examples.from_folder(tmp_path, transform=transform)


def header(width: int, height: int) -> bytes:
    """Return the start of a PNG file that claims to be this large."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checked = ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + checked + b"\0\0\1\0IDAT"


def cut(path: Path, format: str) -> None:
    g = np.random.default_rng(0)
    Image.fromarray(g.integers(0, 256, (50, 50, 3), np.uint8)).save(path, format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "words": (lambda p: p.write_text("no picture"), r"\(unknown format\); replace it"),
    "empty": (lambda p: p.touch(), r"\(unknown format\)"),
    "cut png": (lambda p: cut(p, "png"), "cannot be read as a picture"),
    "cut jpeg": (lambda p: cut(p, "jpeg"), "cannot be read as a picture"),
    "cut gif": (lambda p: cut(p, "gif"), "cannot be read as a picture"),
    "cut tiff": (lambda p: cut(p, "tiff"), "cannot be read as a picture"),
    "bomb": (lambda p: p.write_bytes(header(30_000, 30_000)), "decompression bomb"),
    "large": (lambda p: p.write_bytes(header(10_000, 10_000)), "decompression bomb"),
    "loop": (lambda p: p.symlink_to(p), r"is no file \(a broken link\?\); delete it"),
    "broken link": (lambda p: p.symlink_to("nowhere"), "is no file"),
    "pipe": (lambda p: os.mkfifo(p), "is no file"),
    "folder": (lambda p: p.mkdir(), r"is a folder within a class; .* give the folder"),
    "circle": (lambda p: p.symlink_to(p.parent), "is a folder within a class"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_sound_picture_is_named(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path, {"a": 2, "b\nc": 2})
    make, message = BROKEN[kind]
    make(root / "b\nc" / "1b.png")
    with pytest.raises(UserError, match=message) as caught:
        Examples.from_folder(root)
    assert repr(str(root / "b\nc" / "1b.png")) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_classes_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "none").mkdir()
    quarters().save(tmp_path / "none" / "a.png")
    folder(tmp_path / "beside", {"a": 1})
    quarters().save(tmp_path / "beside" / "b.JPG", "jpeg")
    folder(tmp_path / "hollow", {"a": 1, "b": 0})
    (tmp_path / "hollow" / "b" / ".DS_Store").touch()
    for name, message in (
        ("absent", r"absent' does not exist; give a folder with a subfolder per class"),
        ("file", "file' is a file; give a folder"),
        ("none", "none' has no subfolders; put the pictures of each class"),
        ("beside", r"b\.JPG' lies beside the classes; move it into one"),
        ("hollow", "class .*hollow/b' has no pictures; add some or delete it"),
        ("long" * 100, r"cannot be read \(File name too long\)"),
    ):
        with pytest.raises(UserError, match=message):
            Examples.from_folder(tmp_path / name)
    root = folder(tmp_path / "sound", {"a": 1})
    for size, channels in ((0, 1), (28, 4)):
        with pytest.raises(UserError, match="give a size of at least 1, and 1 channel"):
            Examples.from_folder(root, size=size, channels=channels)
