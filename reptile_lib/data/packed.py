"""Black-and-white pictures, eight pixels a byte."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reptile_lib.examples import Examples

SIDE = 28  # pixels a side


def pack(drawings: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack [..., SIDE, SIDE] pixels, true where white, into [..., SIDE * SIDE / 8]."""
    return np.packbits(drawings.reshape(*drawings.shape[:-2], -1), axis=-1)


def to_classes(names: Sequence[str], bits: NDArray[np.uint8]) -> Examples:
    """Return packed drawings as classes of one-channel pictures of 0 and 255."""
    pixels = np.unpackbits(bits, axis=-1) * np.uint8(255)
    images = torch.from_numpy(pixels.reshape(*bits.shape[:2], 1, SIDE, SIDE))
    return Examples(images, tuple(names))
