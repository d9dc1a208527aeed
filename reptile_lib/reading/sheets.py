"""Sheets of small colour pictures with a table, CIFAR's records, sheets to look at."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reptile_lib.examples import Examples
from reptile_lib.reading.archive import csv_rows, damage_told, unpacked

Pixels = NDArray[np.uint8]
SIDE = 32
COLUMNS = 100  # tiles per row of a sheet
SHOWN = 10  # classes of a sheet to look at, and examples of each


def read_sheet(sheet: Path, table: Path, *columns: str) -> tuple[NDArray[Any], Pixels]:
    """Read pictures stored as one lossless picture of tiles, and the table beside it.

    Returns:
        strings of the table's `columns` [n, columns], and the pictures [n, 3, 32, 32].

    Raises:
        UserError: a file is missing or damaged, or they do not go together.
    """
    with damage_told(table):
        lines = csv_rows(unpacked(table, 100_000_000))
        rows = [[row[key] for key in columns] for row in lines]
    with damage_told(sheet), Image.open(sheet) as image:
        tiles = np.asarray(image.convert("RGB")).reshape(-1, SIDE, COLUMNS, SIDE, 3)
        found = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
        if not 0 <= len(found) - len(rows) < COLUMNS:
            raise ValueError(f"{len(found)} tiles for {len(rows)} rows of {table.name}")
    return np.array(rows, str), found[: len(rows)]


def sheet_files(stem: str, parts: Iterable[str]) -> tuple[str, ...]:
    """Return the names of sheets and tables, two per part."""
    return tuple(f"{stem}_{part}.{end}" for part in parts for end in ("webp", "csv"))


def read_records(content: bytes, labels: int) -> tuple[Pixels, Pixels]:
    """Take apart a file of CIFAR's binary version: `labels` bytes, then 3,072 pixels.

    Returns:
        the last label of each record [n], and the pictures [n, 3, 32, 32].
    """
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + 3 * SIDE * SIDE)
    return rows[:, labels - 1], rows[:, labels:].reshape(-1, 3, SIDE, SIDE)


def sheet_of(classes: Examples) -> Image.Image:
    """Return a sheet: a row for each of some classes, with some examples of each."""
    from torchvision.utils import make_grid  # which takes seconds to import

    some = [x[:SHOWN] for x in classes.by_class()[:SHOWN] if isinstance(x, Tensor)]
    white = some[0].new_full((SHOWN, *some[0].shape[1:]), 255)
    rows = [torch.cat([x, white[len(x) :]]) for x in some]
    sheet = make_grid(torch.cat(rows), nrow=SHOWN, padding=0)
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    return picture if len(white[0]) == 3 else picture.convert("L")
