"""MNIST: 70,000 handwritten digits of 28 x 28 pixels."""

from pathlib import Path

import numpy as np
import torch

from reptile_lib.data.pictures import with_validation
from reptile_lib.examples import Examples
from reptile_lib.reading.archive import damage_told, unpacked
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, site
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.sheets import Pixels

ABOUT = About(
    "70,000 handwritten digits of 28 x 28; 60,000 for training, 10,000 for testing; the"
    " parts share the ten classes",
    "CC BY-SA 3.0, as Keras states it",
    "LeCun, Bottou, Bengio, Haffner 1998, Proceedings of the IEEE 86(11):2278-2324",
    "http://yann.lecun.com/exdb/mnist/",
)
NAMES = tuple("0123456789")


def load(seed: int = 0, val_examples: int = 0) -> Parts[Examples]:
    """Return MNIST as one data set: images [.., 1, 28, 28], names "0" to "9".

    The parts do *not* differ in classes: all three have the ten digits, as is usual for
    training one network. They are the published ones, in the published order;
    `val_examples` of each digit are taken from `train`, by `seed`. Without any, `val`
    has no classes.

    Raises:
        UserError: `val_examples` leaves a digit nothing to train on; or as
            `arrays.arrays_of`.
    """
    return parts(arrays_of(SOURCE), seed, val_examples)


def parts(arrays: Arrays, seed: int, val_examples: int) -> Parts[Examples]:
    """Share out pictures as `load` does."""

    def digits(part: str) -> list[torch.Tensor]:
        images, labels = (torch.from_numpy(arrays[f"{part}_{k}"]) for k in "xy")
        return [images[labels == digit, None] for digit in range(10)]

    train, val = with_validation(digits("train"), NAMES, val_examples, seed)
    return Parts(train, val, Examples(digits("test"), NAMES))


def read(paths: Paths) -> Arrays:
    """Read the four published files: pictures [n, 28, 28] and labels [n] of the parts.

    Raises:
        UserError: a file is missing, damaged or none of bytes in the IDX format.
    """
    keys = ("train_x", "train_y", "test_x", "test_y")
    return {key: read_idx(path) for key, path in zip(keys, paths, strict=True)}


def read_idx(path: Path) -> Pixels:
    """Read bytes of any shape: 0, 0, 8, dimensions; four bytes for each; contents."""
    with damage_told(path):
        content = unpacked(path, 50_000_000)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it holds no bytes in the IDX format")
        shape = np.frombuffer(content, ">u4", content[3], 4)
        values = np.frombuffer(bytearray(content[4 + 4 * len(shape) :]), "u1")
        return values.reshape([int(n) for n in shape])


URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
SOURCE = Source(
    "mnist",
    "7fee734672dea6608aa7747335ba52c59dd5c68222678cd3ddeeeb776a49ea0d",
    site(URL, 10_000_000, FILES),
    read,
    tuple(f"mnist/{name}" for name in FILES),
)
