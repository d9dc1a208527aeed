"""CIFAR-FS: the hundred classes of CIFAR-100, 600 pictures each, split by class."""

import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reptile_lib.data.pictures import by_class, read_classes
from reptile_lib.examples import Examples, Splits
from reptile_lib.reading.archive import members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, read_npz, site
from reptile_lib.reading.parts import About
from reptile_lib.reading.sheets import read_records, sheet_files

ABOUT = About(
    "100 classes of 600 colour pictures of 32 x 32; 64 classes for training, 16 for"
    " validation, 20 for testing, as published",
    "not stated; the author of CIFAR-100 asks to cite the report",
    "Bertinetto, Henriques, Torr, Vedaldi 2019, ICLR, arXiv:1805.08136; Krizhevsky"
    " 2009, Learning Multiple Layers of Features from Tiny Images",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
PART = ABOUT._replace(
    holds="CIFAR-FS with 256 of the 600 pictures of each training class; validation and"
    " test classes are complete"
)
# torchmeta, datasets/assets/cifar100/cifar-fs
LINES = Path(__file__).with_name("cifar_fs.txt").read_text("utf-8").splitlines()
NAMES = dict(zip(("train", "val", "test"), map(str.split, LINES), strict=True))
CHOSEN = Path(__file__).with_name("cifar_fs_256.npz")


def load() -> Splits:
    """Return CIFAR-FS: images [64, 16 and 20 classes, 600, 3, 32, 32].

    Names are CIFAR-100's ("maple_tree"). Pictures of a class stand in the order of
    their bytes: draw from them at random.

    Raises:
        UserError: as `arrays.arrays_of`.
    """
    return _splits(SOURCE)


def load_256() -> Splits:
    """Return CIFAR-FS with 256 pictures of each training class, as `load` does.

    Its test classes are complete: a number on them is comparable, if one says on what
    was trained.
    """
    return _splits(SOURCE_256)


def _splits(source: Source) -> Splits:
    found = arrays_of(source)
    return Splits(
        *(Examples(torch.from_numpy(found[p]), tuple(n)) for p, n in NAMES.items())
    )


def read(paths: Paths) -> Arrays:
    """Read CIFAR-100's binary version: pictures [classes, 600, 3, 32, 32]."""
    pattern = r"cifar-100-binary/(fine_label_names\.txt|(train|test)\.bin)"
    files = {Path(name).stem: x for name, x in members(paths[0], pattern, 200_000_000)}
    labels, pictures = read_records(files["train"] + files["test"], 2)
    named = np.array(files["fine_label_names"].decode().split())[labels]
    return {key: by_class(named, pictures, names) for key, names in NAMES.items()}


def chosen(arrays: Arrays, sums: NDArray[np.uint32] | None = None) -> Arrays:
    """Keep the training pictures with these CRC-32 sums, [classes, pictures].

    Which ones were chosen, their file names said; the binary version has none.
    """
    if sums is None:
        sums = read_npz(CHOSEN)["crc32"]
    kept = []
    for pictures, wanted in zip(arrays["train"], sums.tolist(), strict=True):
        left, rows = Counter(wanted), []
        for row, picture in enumerate(pictures):
            if left[key := zlib.crc32(picture)]:  # of equal pictures, as many as chosen
                left[key] -= 1
                rows.append(row)
        kept.append(pictures[rows])
    return {**arrays, "train": np.stack(kept)}


FILES = {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}
SOURCE_256 = Source(
    "cifar-fs-256",
    "e809a465bdaf89cede478e8561f5277dd04eb83d60ab0af1b847ba8f3cd76f0b",
    site("https://www.cs.toronto.edu/~kriz", 168_513_733, FILES),
    lambda paths: chosen(read(paths)),
    sheet_files("cifar_fs/cifar_fs", NAMES),
    partial(read_classes, names=NAMES),
)
SOURCE = replace(
    SOURCE_256,
    name="cifar-fs",
    read=read,
    packed=("cifar_fs/cifar-100-binary.tar.gz",),
    read_packed=None,
    known=chosen,
)
