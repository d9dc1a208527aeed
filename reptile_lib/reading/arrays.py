"""Arrays of a data set: from the cache, from files at hand, or from their source.

Whichever way they come, they are the same: their fingerprint is compared before anyone
sees them, and before they are kept for the next time.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reptile_lib.errors import UserError
from reptile_lib.reading.archive import damage_told
from reptile_lib.reading.fetch import Remote, fetch
from reptile_lib.storage.files import written_whole

Arrays = Mapping[str, NDArray[Any]]
Paths = Sequence[Path]
Reader = Callable[[Paths], Arrays]


@dataclass(frozen=True)
class Source:
    """Where the arrays of a data set come from.

    Attributes:
        name: of the cache file.
        sha256: the fingerprint of the arrays.
        remotes: files of the official source.
        read: makes the arrays of these files, in their order. What it raises is told
            as damage of the first one, unless it says of which (`damage_told`).
        packed: files below $REPTILE_DATA, "mnist/train-images-idx3-ubyte.gz".
        read_packed: makes the arrays of those; None if they are the official ones.
        known: takes the arrays that `sha256` is of out of all; None if it is of all.
            The others are as trustworthy as the digests of `remotes`.
    """

    name: str
    sha256: str
    remotes: tuple[Remote, ...]
    read: Reader
    packed: tuple[str, ...] = ()
    read_packed: Reader | None = None
    known: Callable[[Arrays], Arrays] | None = None


def site(base: str, most: int, digests: Mapping[str, str]) -> tuple[Remote, ...]:
    """Return files below one address, of at most `most` bytes each.

    Their digests, by name, are md5 or sha256, as the length says, or "" (`Remote`).
    """
    kinds = {0: "", 32: "md5:", 64: "sha256:"}
    named = ((name, kinds[len(hexes)] + hexes) for name, hexes in digests.items())
    return tuple(Remote(f"{base}/{name}", digest, most) for name, digest in named)


def arrays_of(source: Source) -> Arrays:
    """Return the arrays of a data set, verified.

    Raises:
        UserError: they are neither in the cache ($REPTILE_CACHE) nor in $REPTILE_DATA,
            and cannot be downloaded; or files are damaged, or hold something else.
    """
    cache = cache_folder() / f"{source.name}.npz"
    with suppress(UserError):  # absent or damaged: made anew
        return _verified(read_npz(cache), source, cache)
    paths, read = _packed(source), source.read_packed or source.read
    downloaded = [] if paths else _downloaded(source)
    if downloaded:
        paths, read = downloaded, source.read
    try:
        with damage_told(paths[0]) if paths else nullcontext():
            arrays = _verified(read(paths), source, *paths[:2])
    except UserError:
        for path in downloaded:  # not to be taken again
            path.unlink(missing_ok=True)
        raise
    # where nothing can be written, the next load takes longer, no more
    with suppress(UserError), written_whole(cache) as file, file.open("wb") as raw:
        np.savez(raw, **arrays)  # type: ignore[arg-type]
    if cache.exists():
        for path in downloaded:  # what they held is in the cache
            path.unlink(missing_ok=True)
    return arrays


def at_hand(source: Source) -> bool:
    """Say whether `arrays_of` needs no network."""
    cached = cache_folder() / f"{source.name}.npz"
    return cached.is_file() or bool(_packed(source))


def _packed(source: Source) -> list[Path]:
    """Return the files in $REPTILE_DATA, or none if one is missing."""
    data = os.environ.get("REPTILE_DATA")
    paths = [Path(data, name) for name in source.packed] if data else []
    return paths if all(path.is_file() for path in paths) else []


def cache_folder() -> Path:
    """Return $REPTILE_CACHE, or ~/.cache/reptile_lib."""
    return Path(os.environ.get("REPTILE_CACHE") or Path.home() / ".cache/reptile_lib")


def _downloaded(source: Source) -> list[Path]:
    folder = cache_folder() / "downloads" / source.name
    try:
        return [fetch(remote, folder) for remote in source.remotes]
    except UserError as error:
        files = ", ".join(source.packed) or "the files"
        raise UserError(
            f"{error}; or set REPTILE_DATA to a folder that holds {files}"
        ) from error


def fingerprint(arrays: Arrays) -> str:
    """Return the sha256 of names, types, shapes and contents."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _verified(arrays: Arrays, source: Source, *paths: Path) -> Arrays:
    with damage_told(Path(*paths[:1])):
        found = fingerprint(source.known(arrays) if source.known else arrays)
    if found != source.sha256:
        raise UserError(
            f"{' and '.join(map(str, paths))} hold something else than was published"
            f" (sha256 {found[:12]} of the arrays, not {source.sha256[:12]}); get the"
            " published files"
        )
    return arrays


def read_npz(path: Path) -> Arrays:
    """Read arrays without pickle.

    Raises:
        UserError: the file is missing or damaged.
    """
    with damage_told(path), path.open("rb") as raw, np.load(raw) as file:
        return {name: file[name] for name in file.files}


def pack_texts(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all texts, and where each one ends."""
    parts = [text.encode() for text in texts]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends


def unpack_texts(content: NDArray[np.generic], ends: NDArray[np.generic]) -> list[str]:
    """Undo `pack_texts`."""
    whole, start, texts = content.tobytes(), 0, []
    for end in map(int, ends):
        texts.append(whole[start:end].decode())
        start = end
    return texts
