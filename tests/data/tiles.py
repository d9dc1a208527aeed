"""Small colour pictures, and the ways in which they are published and packed."""

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pictures(*seed: int, count: int) -> Pixels:
    """Return pictures [count, 3, 32, 32] unlike any others."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def sheet(images: Pixels) -> bytes:
    """Return a lossless WebP file of tiles, 100 a row; the last ones may be black."""
    rows = -(-len(images) // 100)
    whole = np.zeros((32 * rows, 3200, 3), np.uint8)
    for i, image in enumerate(images):
        y, x = 32 * (i // 100), 32 * (i % 100)
        whole[y : y + 32, x : x + 32] = image.transpose(1, 2, 0)
    raw = io.BytesIO()
    Image.fromarray(whole).save(raw, "WEBP", lossless=True, quality=0, method=0)
    return raw.getvalue()


def table(header: str, rows: Sequence[Sequence[object]]) -> bytes:
    lines = [f"index,{header}"]
    lines += [",".join(map(str, (i, *row))) for i, row in enumerate(rows)]
    return "\n".join([*lines, ""]).encode()


def written(
    folder: Path, images: Pixels, header: str, rows: Sequence[Sequence[object]]
) -> tuple[Path, Path]:
    """Write a sheet and its table into a folder."""
    paths = folder / "a.webp", folder / "a.csv"
    paths[0].write_bytes(sheet(images))
    paths[1].write_bytes(table(header, rows))
    return paths


def records(labels: Sequence[Sequence[int]], images: Pixels) -> bytes:
    """Return a file of CIFAR's binary version."""
    pairs = zip(labels, images, strict=True)
    return b"".join(bytes(label) + image.tobytes() for label, image in pairs)


def tarred(files: Mapping[str, bytes], level: int = 1) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), level)
