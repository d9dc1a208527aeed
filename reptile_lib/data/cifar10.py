"""CIFAR-10: 60,000 colour pictures of ten kinds of things, 32 x 32 pixels."""

from functools import partial

import torch

from reptile_lib.data.pictures import by_class, read_classes, with_validation
from reptile_lib.examples import Examples
from reptile_lib.reading.archive import members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, site
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.sheets import read_records, sheet_files

ABOUT = About(
    "60,000 colour pictures of 32 x 32, 6,000 of each of ten classes; 50,000 for"
    " training, 10,000 for testing; the parts share the classes",
    "not stated; its author asks to cite the report",
    "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images, technical"
    " report, University of Toronto",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
KINDS = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES = tuple(KINDS.split())


def load(seed: int = 0, val_examples: int = 0) -> Parts[Examples]:
    """Return CIFAR-10 as one data set: images [10, n, 3, 32, 32], names "airplane"...

    The parts do *not* differ in classes: all three have the ten, as is usual for
    training one network. They are the published ones; `val_examples` of each class are
    taken from `train`, by `seed`. Without any, `val` has no classes. Pictures of a
    class stand in the order of their bytes: draw from them at random.

    Raises:
        UserError: `val_examples` is not in 0..4999; or as `arrays.arrays_of`.
    """
    arrays = arrays_of(SOURCE)
    classes = list(torch.from_numpy(arrays["train"]))
    train, val = with_validation(classes, NAMES, val_examples, seed)
    return Parts(train, val, Examples(torch.from_numpy(arrays["test"]), NAMES))


def read(paths: Paths) -> Arrays:
    """Read the binary version: pictures [10, n, 3, 32, 32] of both parts."""
    parts = {"train": b"", "test": b""}
    pattern = r"cifar-10-batches-bin/(data_batch_[1-5]|test_batch)\.bin"
    for name, content in members(paths[0], pattern, 200_000_000):
        parts["test" if "test" in name else "train"] += content
    return {
        part: by_class(*read_records(content, 1), range(10))
        for part, content in parts.items()
    }


FILES = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
SOURCE = Source(
    "cifar10",
    "e4dae0967b2dd3ea0544596bb332d18a7fd23ce68da1adb2c3cec29a853786e3",
    site("https://www.cs.toronto.edu/~kriz", 170_052_171, FILES),
    read,
    sheet_files("cifar10/cifar10", ("train", "test")),
    partial(read_classes, names={"train": NAMES, "test": NAMES}),
)
