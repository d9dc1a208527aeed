"""GTSRB: 51,839 photographs of German traffic signs, 43 classes."""

import io
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from reptile_lib.examples import Examples, Splits
from reptile_lib.reading.archive import csv_rows, damage_told, members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, site
from reptile_lib.reading.parts import About, Parts, Rows, check_range
from reptile_lib.reading.sheets import SIDE, Pixels, read_sheet, sheet_files
from reptile_lib.reading.split import split_names

ABOUT = About(
    "photographs of German traffic signs, resized to 32 x 32: 39,209 of 1,307 signs, 30"
    " of each while a car drives up, and 12,630 for testing; 43 classes",
    "not stated; its authors ask to cite the paper",
    "Stallkamp, Schlipsing, Salmen, Igel 2012, Neural Networks 32:323-332",
    "https://benchmark.ini.rub.de/gtsrb_dataset.html",
)
PART = ABOUT._replace(
    holds="a part of GTSRB: six of the 30 photographs of each of its 1,307 signs, 7,841"
    " in all, and every second one for testing, 6,315; 43 classes"
)
NAMES = tuple(Path(__file__).with_name("gtsrb.txt").read_text("utf-8").splitlines())
FRAMES = 30  # photographs of a sign, from far to near
MOST = 1_000_000_000  # bytes in an archive


def load(seed: int = 0, per_sign: int = 0) -> Splits:
    """Return few-shot classes: images [n, 3, 32, 32] of each, names "Stop"...

    The 43 classes are split by `seed`: 25 for training, 9 for validation, 9 for
    testing. They hold the published *training* half, of which it is known what shows
    the same sign: `per_sign` keeps the last, nearest photographs of each sign. With 1,
    support and query set never show the same sign, so give 1 for what is measured;
    7 signs are in the smallest classes. 0 keeps all.

    Raises:
        UserError: `per_sign` is not in 0..30; or as `arrays.arrays_of`.
    """
    return split(SOURCE, seed, per_sign)


def load_part(seed: int = 0, per_sign: int = 0) -> Splits:
    """Return classes of the part, six photographs of each sign, as `load` does."""
    return split(SOURCE_PART, seed, per_sign)


def split(source: Source, seed: int, per_sign: int) -> Splits:
    """Read photographs and split their classes as `load` does."""
    check_range("per_sign", per_sign, 0, FRAMES)
    arrays = arrays_of(source)
    _, counts = np.unique(_signs(arrays["train_of"]), return_counts=True)
    left = counts.cumsum().repeat(counts) - np.arange(counts.sum())  # the last has 1
    keep = left <= (per_sign or FRAMES)
    images = torch.from_numpy(arrays["train"][keep])
    label = torch.from_numpy(arrays["train_of"][keep, 0])

    def part(names: tuple[str, ...]) -> Examples:
        return Examples([images[label == NAMES.index(name)] for name in names], names)

    return Splits(*map(part, split_names(NAMES, seed=seed)))


def _signs(of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for class and sign, in the order of both."""
    return of[:, 0] * 100_000 + of[:, 1]


def published(whole: bool = False, seed: int = 0, val_signs: int = 1) -> Parts[Rows]:
    """Return the published halves, to train one network: all parts have all 43 classes.

    x is uint8 [n, 3, 32, 32] (see `examples.scaled`), y the class, an index of `NAMES`;
    a group is one physical sign, "Stop/00003". `val` has `val_signs` signs of each
    class, chosen by `seed`; no part shows a sign of another. In the test half it is not
    known what shows the same sign: each photograph is a group.

    Args:
        whole: all of GTSRB; else the part.
        seed: which signs are for validation.
        val_signs: how many of each class, 0..6.

    Raises:
        UserError: `val_signs` is out of range; or as `arrays.arrays_of`.
    """
    return halves(arrays_of(SOURCE if whole else SOURCE_PART), seed, val_signs)


def halves(arrays: Arrays, seed: int, val_signs: int) -> Parts[Rows]:
    """Cut a validation part from the training half as `published` does."""
    signs, chance = _signs(arrays["train_of"]), random.Random(seed)
    known = np.unique(signs)
    by_class = [known[known // 100_000 == k].tolist() for k in range(len(NAMES))]
    check_range("val_signs", val_signs, 0, min(map(len, by_class)) - 1)
    aside = np.isin(signs, [chance.sample(own, val_signs) for own in by_class])

    def rows(images: Pixels, signs: NDArray[np.int64]) -> Rows:
        known, group = np.unique(signs, return_inverse=True)
        names = (f"{NAMES[k // 100_000]}/{k % 100_000:05d}" for k in known.tolist())
        x, y, of = map(torch.from_numpy, (images, signs // 100_000, group))
        return Rows(x, y, of, tuple(names))

    return Parts(
        rows(arrays["train"][~aside], signs[~aside]),
        rows(arrays["train"][aside], signs[aside]),
        rows(arrays["test"], _signs(arrays["test_of"])),
    )


def read(paths: Paths, frames: str = "..", numbers: str = ".") -> Arrays:
    """Read the published archives: pictures [n, 3, 32, 32] of both halves.

    "train_of" [n, 3] is class, sign (of this class) and frame, "test_of" [n, 2] class
    and number; both in this order. The others are left out of both: frames whose two
    last digits, numbers whose last one do not match.
    """
    training, testing, truth = paths
    with damage_told(truth):
        ((_, table),) = members(truth, r"GT-final_test\.csv", MOST)
        rows = csv_rows(table, delimiter=";")
        label = {int(row["Filename"][:5]): int(row["ClassId"]) for row in rows}

    def half(path: Path, name: str) -> dict[tuple[int, ...], Pixels]:
        found = members(path, rf"GTSRB/Final_{name}\.ppm", MOST)
        keys = ((map(int, re.findall(r"\d{5}", name)), ppm) for name, ppm in found)
        return {tuple(key): _small(ppm) for key, ppm in keys}

    with damage_told(training):
        train = half(training, rf"Training/Images/\d{{5}}/\d{{5}}_\d{{3}}{frames}")
        arrays = _in_order("train", train)
    with damage_told(testing):
        tests = half(testing, rf"Test/Images/\d{{4}}{numbers}")
        labelled = {(label[n], n): picture for (n,), picture in tests.items()}
        return arrays | _in_order("test", labelled)


def read_packed(paths: Paths) -> Arrays:
    """Read sheets and tables of both halves of the part into the same arrays."""
    found: dict[str, Any] = {}
    for half, at in (("train", 0), ("test", 2)):
        columns = ("label", "track", "file")[:: 1 + at // 2]
        of, pictures = read_sheet(paths[at], paths[at + 1], *columns)
        with damage_told(paths[at + 1]):
            keys = [(*map(int, row[:-1]), int(row[-1][-9:-4])) for row in of.tolist()]
            found |= _in_order(half, dict(zip(keys, pictures, strict=True)))
    return found


def _in_order(half: str, pictures: Mapping[Any, Pixels]) -> dict[str, Any]:
    keys = sorted(pictures)
    stacked = np.stack([pictures[key] for key in keys])
    return {half: stacked, f"{half}_of": np.array(keys, np.int64)}


def chosen(arrays: Arrays) -> Arrays:
    """Return the arrays of the part: frames 4, 9, ..., 29 and even numbers."""
    rows = {
        "train": arrays["train_of"][:, 2] % 5 == 4,
        "test": arrays["test_of"][:, 1] % 2 == 0,
    }
    return {key: array[rows[key.removesuffix("_of")]] for key, array in arrays.items()}


def _small(ppm: bytes) -> Pixels:
    with Image.open(io.BytesIO(ppm)) as image:
        return resized(np.asarray(image.convert("RGB"))).transpose(2, 0, 1)


def resized(picture: Pixels) -> Pixels:
    """Return a picture [height, width, 3] as [32, 32, 3], as OpenCV resizes it.

    Bilinear, without smoothing first, and to the last bit what `cv2.resize` of OpenCV 4
    and 5 gives: weights have 11 bits, sums of a row are cut by 4 bits, and half the
    size is the mean of four pixels.
    """
    height, width, _ = picture.shape
    pixels = picture.astype(np.int32)
    if height == width == 2 * SIDE:
        fours = pixels.reshape(SIDE, 2, SIDE, 2, 3).sum((1, 3))
        return np.asarray((fours + 2) >> 2, np.uint8)
    left, right, near = _between(width)
    rows = (pixels[:, left] * near[0] + pixels[:, right] * near[1]) >> 4
    above, below, near = _between(height)
    near = near[..., None]
    sums = (rows[above] * near[0] >> 16) + (rows[below] * near[1] >> 16)
    return np.asarray((sums + 2) >> 2, np.uint8)


@cache
def _between(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32]]:
    """Return between which of `size` pixels each of 32 lies; weights [2, 32, 1]."""
    at = ((np.arange(SIDE) + 0.5) * (size / SIDE) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.intp)
    near = np.stack([1 - (at - first), at - first])[..., None]
    weights = np.rint(near * 2048).astype(np.int32)
    return first.clip(0, size - 1), (first + 1).clip(0, size - 1), weights


URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
FILES = {
    "GTSRB_Final_Training_Images.zip": "f33fd80ac59bff73c82d25ab499e03a3",
    "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
    "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}
SOURCE_PART = Source(
    "gtsrb-part",
    "bdffd87383f17070c0dfaa59fb26552755bbd70d4d0801c8642938bd8f49a7ed",
    site(URL, 276_294_756, FILES),
    partial(read, frames="[0-2][49]", numbers="[02468]"),
    sheet_files("gtsrb/gtsrb", ("train", "test")),
    read_packed,
)
SOURCE = replace(
    SOURCE_PART,
    name="gtsrb",
    read=read,
    packed=tuple(f"gtsrb/{name}" for name in FILES),
    read_packed=None,
    known=chosen,
)
