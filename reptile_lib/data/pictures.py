"""Sets of small colour pictures: classes of them, in an order."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reptile_lib.examples import Examples
from reptile_lib.reading.archive import damage_told
from reptile_lib.reading.arrays import Paths
from reptile_lib.reading.parts import check_range
from reptile_lib.reading.sheets import SIDE, Pixels, read_sheet


def read_classes(paths: Paths, names: Mapping[str, Sequence[str]]) -> dict[str, Pixels]:
    """Read sheets of parts that are classes, as `by_class` orders them."""
    found = {}
    for part, sheet, table in zip(names, paths[::2], paths[1::2], strict=True):
        labels, pictures = read_sheet(sheet, table, "label")
        with damage_told(table):
            found[part] = by_class(labels[:, 0], pictures, names[part])
    return found


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
    check_range("val_examples", val_examples, 0, min(map(len, classes)) - 1)
    if not val_examples:
        return Examples(classes, tuple(names)), Examples(classes[0][:0, None], ())
    train, val, chance = [], [], random.Random(seed)
    for images in classes:
        aside = torch.zeros(len(images), dtype=torch.bool)
        aside[chance.sample(range(len(images)), val_examples)] = True
        train.append(images[~aside])
        val.append(images[aside])
    return Examples(train, tuple(names)), Examples(val, tuple(names))
