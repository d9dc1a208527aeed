"""Sets of small colour pictures: how they are stored, and put in an order."""

import csv
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples
from reptile_lib.reading.archive import damage_told, unpacked

Pixels = NDArray[np.uint8]
SIDE = 32
COLUMNS = 100  # tiles per row of a sheet


def read_sheet(sheet: Path, table: Path, *columns: str) -> tuple[NDArray[Any], Pixels]:
    """Read pictures stored as one lossless picture of tiles, and the table beside it.

    Returns:
        strings of the table's `columns` [n, columns], and the pictures [n, 3, 32, 32].

    Raises:
        UserError: a file is missing or damaged, or they do not go together.
    """
    with damage_told(table):
        lines = io.StringIO(unpacked(table, 100_000_000).decode())
        rows = [[row[key] for key in columns] for row in csv.DictReader(lines)]
    with damage_told(sheet), Image.open(sheet) as image:
        tiles = np.asarray(image.convert("RGB")).reshape(-1, SIDE, COLUMNS, SIDE, 3)
        found = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
        if not 0 <= len(found) - len(rows) < COLUMNS:
            raise ValueError(f"{len(found)} tiles for {len(rows)} rows of {table.name}")
    return np.array(rows, str), found[: len(rows)]


def sheet_files(stem: str, parts: Iterable[str]) -> tuple[str, ...]:
    """Return the names of sheets and tables, two per part."""
    return tuple(f"{stem}_{part}.{end}" for part in parts for end in ("webp", "csv"))


def read_classes(
    paths: Sequence[Path], names: Mapping[str, Sequence[str]]
) -> dict[str, Pixels]:
    """Read sheets of parts that are classes, as `by_class` orders them."""
    found = {}
    for part, sheet, table in zip(names, paths[::2], paths[1::2], strict=True):
        labels, pictures = read_sheet(sheet, table, "label")
        with damage_told(table):
            found[part] = by_class(labels[:, 0], pictures, names[part])
    return found


def read_records(content: bytes, labels: int) -> tuple[Pixels, Pixels]:
    """Take apart a file of CIFAR's binary version: `labels` bytes, then 3,072 pixels.

    Returns:
        the last label of each record [n], and the pictures [n, 3, 32, 32].
    """
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + 3 * SIDE * SIDE)
    return rows[:, labels - 1], rows[:, labels:].reshape(-1, 3, SIDE, SIDE)


def by_class(labels: NDArray[Any], found: Pixels, kinds: Iterable[Any]) -> Pixels:
    """Return pictures [classes, examples, 3, 32, 32], those of a class by their bytes.

    This order needs no file names, which not every source has. It is not random: dark
    pictures come first.

    Raises:
        ValueError: classes differ in number, or one has none.
    """
    wanted = [sorted(x.tobytes() for x in found[labels == kind]) for kind in kinds]
    counts = {len(same) for same in wanted}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"classes have {sorted(counts)} pictures, not all as many")
    flat = np.frombuffer(bytearray().join(x for same in wanted for x in same), np.uint8)
    return flat.reshape(len(wanted), -1, 3, SIDE, SIDE)


def with_validation(
    classes: Sequence[Tensor], names: Sequence[str], val_examples: int, seed: int
) -> tuple[Examples, Examples]:
    """Set `val_examples` of each class aside, chosen by `seed`; both keep the order.

    Raises:
        UserError: that leaves a class nothing to train on.
    """
    most, chance = min(map(len, classes)) - 1, random.Random(seed)
    if not 0 <= val_examples <= most:
        raise UserError(f"val_examples is {val_examples}: choose from 0 to {most}")
    if not val_examples:
        return Examples(classes, tuple(names)), Examples(classes[0][:0, None], ())
    train, val = [], []
    for images in classes:
        aside = torch.zeros(len(images), dtype=torch.bool)
        aside[chance.sample(range(len(images)), val_examples)] = True
        train.append(images[~aside])
        val.append(images[aside])
    return Examples(train, tuple(names)), Examples(val, tuple(names))
