"""Omniglot: 1623 characters of 50 alphabets, each drawn by twenty people.

Prepared and split as the Reptile authors do it (openai/supervised-reptile,
`supervised_reptile/omniglot.py`).
"""

import io
import random
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reptile_lib.data import packed
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits
from reptile_lib.reading.archive import damage_told, members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, site
from reptile_lib.reading.parts import About, check_range

ABOUT = About(
    "1,623 characters of 50 alphabets, 20 drawings of 28 x 28 each; 1,200 characters"
    " for training, 423 for testing",
    "MIT",
    "Lake, Salakhutdinov, Tenenbaum 2015, Science 350:1332",
    "https://github.com/brendenlake/omniglot",
)
MOST = 100_000_000  # bytes of a zip file, and of all that is in it
TRAIN = 1200  # characters


def load(seed: int = 0, val_classes: int = 0) -> Splits:
    """Return Omniglot: images [characters, 20, 1, 28, 28], names "Greek/character01".

    The characters of both published sets are shuffled with `seed`; the first 1200 are
    for training, the other 423 for testing. `val_classes` of the 1200, the last ones,
    are set aside for validation: only who chooses settings needs any.

    Raises:
        UserError: `val_classes` is not in 0..1200; or as `arrays.arrays_of`.
    """
    return split(SOURCE, TRAIN, seed, val_classes)


def split(source: Source, train: int, seed: int, val_classes: int) -> Splits:
    """Read drawings and split them as `load` does."""
    check_range("val_classes", val_classes, 0, train)
    arrays = arrays_of(source)
    names = [str(name) for name in arrays["names"]]
    order = list(range(len(names)))
    random.Random(seed).shuffle(order)

    def part(rows: list[int]) -> Examples:
        return packed.to_classes([names[row] for row in rows], arrays["bits"][rows])

    cut = train - val_classes
    return Splits(part(order[:cut]), part(order[cut:train]), part(order[train:]))


def read(paths: Paths) -> Arrays:
    """Read zip files: names [characters] in order, bits [characters, drawings, 98]."""
    drawings = defaultdict(list)
    for path in paths:
        pattern = rf"{path.stem}/[^/]+/character\d+/\d+_\d+\.png"
        with damage_told(path):
            for name, content in sorted(members(path, pattern, MOST)):
                _, alphabet, character, _ = name.split("/")
                drawings[alphabet, character].append(_small(content))
    counts = {len(drawn) for drawn in drawings.values()}
    if len(counts) != 1:
        where = " and ".join(map(str, paths))
        raise UserError(
            f"{where} hold {len(drawings)} characters with {sorted(counts)} drawings,"
            " not as many of each; get the published files"
        )
    stored = sorted(drawings)
    bits = packed.pack(np.array([drawings[key] for key in stored]))
    return {"names": np.array(["/".join(key) for key in stored]), "bits": bits}


def _small(png: bytes) -> NDArray[np.bool_]:
    """Return a drawing [28, 28], true where white."""
    with Image.open(io.BytesIO(png)) as image:
        # nearest is what resizing such an image does by default
        return np.array(image.convert("1").resize((packed.SIDE, packed.SIDE)))


URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
FILES = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
SOURCE = Source(
    "omniglot",
    "9176aac55bed87038af9a99bceafcc619834249dd57a66f5dfd8c0d39b3a6d5f",
    site(URL, MOST, FILES),
    read,
    tuple(f"omniglot/{name}" for name in FILES),
)
