"""Omniglot: 1623 characters of 50 alphabets, each drawn by twenty people.

Lake, Salakhutdinov, Tenenbaum 2015, Science 350:1332. Prepared and split as the Reptile
authors do it (openai/supervised-reptile, `supervised_reptile/omniglot.py`).
"""

import io
import os
import random
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reptile_lib.data import packed
from reptile_lib.data.archive import damage_told, members
from reptile_lib.data.arrays import cache_folder
from reptile_lib.data.fetch import Remote, fetch
from reptile_lib.data.parts import About
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Splits
from reptile_lib.storage.files import written_whole

ABOUT = About(
    "1,623 characters of 50 alphabets, 20 drawings of 28 x 28 each; 1,200 characters"
    " for training, 423 for testing",
    "MIT",
    "Lake, Salakhutdinov, Tenenbaum 2015, Science 350:1332",
    "https://github.com/brendenlake/omniglot",
)
ZIPS = ("images_background", "images_evaluation")
REMEDY = "or set REPTILE_DATA to a folder that holds omniglot/images_*.zip"
MOST = 100_000_000  # bytes of a zip file, and of all that is in it


class Drawings(NamedTuple):
    """What the zip files must hold."""

    characters: int
    examples: int
    """Drawings of each."""
    train: int
    """Characters for training; the others are for testing."""
    sha256: str
    """Of the pixels, see `packed.fingerprint`."""


PUBLISHED = Drawings(
    characters=1623,
    examples=20,
    train=1200,
    sha256="dad0dcd1bea0d6fa00631c3eaa42cfd139eeeddef4dfc3bdfd15f88fd0556445",
)


def load(seed: int = 0, val_classes: int = 0) -> Splits:
    """Return Omniglot: images [characters, 20, 1, 28, 28], names "Greek/character01".

    The characters of both published sets are shuffled with `seed`; the first 1200 are
    for training, the other 423 for testing. `val_classes` of the 1200, the last ones,
    are set aside for validation: only who chooses settings needs any.

    The drawings come from a cache in `$REPTILE_CACHE` (default: ~/.cache/reptile_lib);
    else from the published zip files in `$REPTILE_DATA/omniglot`; else these are
    downloaded (14 MB). Whatever the way, the pixels are verified.

    Raises:
        UserError: `val_classes` is not in 0..1200; the data is neither there nor can it
            be downloaded; it is damaged.
    """
    return split(PUBLISHED, seed, val_classes)


def split(published: Drawings, seed: int, val_classes: int) -> Splits:
    """Read drawings and split them as `load` does."""
    train = published.train
    if not 0 <= val_classes <= train:
        raise UserError(f"val_classes is {val_classes}: choose from 0 to {train}")
    names, bits = _cached(published)
    order = list(range(published.characters))
    random.Random(seed).shuffle(order)

    def part(rows: list[int]) -> Examples:
        return packed.to_classes([names[row] for row in rows], bits[rows])

    cut = train - val_classes
    return Splits(part(order[:cut]), part(order[cut:train]), part(order[train:]))


def _cached(published: Drawings) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return (names, bits [characters, examples, 98]) in the order of the names."""
    cache = cache_folder() / "omniglot.npz"
    with suppress(UserError):  # absent or damaged: made anew
        return packed.read(cache, published.sha256)
    names, bits = _from_zips(published)
    # where nothing can be written, the next load takes longer, no more
    with suppress(UserError), written_whole(cache) as file:
        file.write_bytes(packed.to_bytes(names, bits))
    return names, bits


def _from_zips(published: Drawings) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Read both zip files, from disk or from the network, and verify the pixels."""
    drawings: dict[str, list[NDArray[np.bool_]]] = {}
    data = os.environ.get("REPTILE_DATA")
    paths = [Path(data or "", "omniglot", f"{stem}.zip") for stem in ZIPS]
    if not data or not all(path.exists() for path in paths):
        paths = [_download(stem) for stem in ZIPS]
    for path, stem in zip(paths, ZIPS, strict=True):
        drawings |= _read_zip(path, stem)
    counts = {len(examples) for examples in drawings.values()}
    found = f"{len(drawings)} characters with {sorted(counts)} drawings"
    where = " and ".join(map(str, paths))
    characters, examples, _, sha256 = published
    if len(drawings) != characters or counts != {examples}:
        raise UserError(
            f"{where} hold {found}, not {characters} with {examples}: "
            "get the published files"
        )
    names = tuple(sorted(drawings, key=lambda name: name.split("/")))
    bits = packed.pack(np.array([drawings[name] for name in names]))
    if packed.fingerprint(names, bits) != sha256:
        raise UserError(
            f"{where} hold other pictures than Omniglot's: get the published files"
        )
    return names, bits


def _read_zip(path: Path, stem: str) -> dict[str, list[NDArray[np.bool_]]]:
    """Return the 28 x 28 drawings of each "alphabet/character", true where white."""
    drawings = defaultdict(list)
    pattern = rf"{stem}/[^/]+/character\d+/\d+_\d+\.png"
    with damage_told(path):
        for name, content in sorted(members(path, pattern, MOST)):
            with Image.open(io.BytesIO(content)) as image:
                # nearest is what resizing such an image does by default
                small = image.convert("1").resize((packed.SIDE, packed.SIDE))
            drawings["/".join(name.split("/")[1:3])].append(np.array(small))
    return drawings


def _download(stem: str) -> Path:
    """Return a published zip file, its md5 verified.

    torchvision knows both; it is imported here only, because that takes seconds.
    """
    from torchvision.datasets import Omniglot

    url = f"{Omniglot.download_url_prefix}/{stem}.zip"
    remote = Remote(url, f"md5:{Omniglot.zips_md5[stem]}", MOST)
    try:
        return fetch(remote, cache_folder() / "downloads" / "omniglot")
    except UserError as error:
        raise UserError(f"{error}; {REMEDY}") from error
