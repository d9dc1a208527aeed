"""Black-and-white picture sets, eight pixels a byte, in one file without pickle."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples

SIDE = 28  # pixels a side


def pack(drawings: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack [..., SIDE, SIDE] pixels, true where white, into [..., SIDE * SIDE / 8]."""
    return np.packbits(drawings.reshape(*drawings.shape[:-2], -1), axis=-1)


def to_bytes(names: Sequence[str], bits: NDArray[np.uint8]) -> bytes:
    """Return the file that holds packed drawings [classes, examples, bytes]."""
    file = io.BytesIO()
    np.savez_compressed(file, names=np.array(names, np.str_), bits=bits)
    return file.getvalue()


def fingerprint(names: Sequence[str], bits: NDArray[np.uint8]) -> str:
    """Return the sha256 of what a file holds, however it was compressed."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(repr(bits.shape).encode())
    digest.update(np.ascontiguousarray(bits).tobytes())
    return digest.hexdigest()


DAMAGE = zipfile.BadZipFile, zlib.error


def read(path: Path, sha256: str) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Read (names, bits [classes, examples, bytes]) from a file and verify them.

    Raises:
        UserError: the file is missing, damaged, or holds anything but what has this
            fingerprint.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names, bits = tuple(map(str, file["names"])), file["bits"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: install the package again") from None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, *DAMAGE):
        names, bits = (), np.empty(0, np.uint8)
    if fingerprint(names, bits) != sha256:
        raise UserError(f"{path} is damaged: install the package again")
    return names, bits


def to_classes(names: Sequence[str], bits: NDArray[np.uint8]) -> Examples:
    """Return packed drawings as classes of one-channel pictures of 0 and 255."""
    pixels = np.unpackbits(bits, axis=-1) * np.uint8(255)
    images = torch.from_numpy(pixels.reshape(*bits.shape[:2], 1, SIDE, SIDE))
    return Examples(images, tuple(names))
