"""Files from the network: whole, verified, and gone on with after a break."""

import hashlib
import http.client
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock

from reptile_lib.errors import UserError
from reptile_lib.storage.files import cannot_write

PIECE = 1 << 20  # bytes


class Remote(NamedTuple):
    """A file at its source."""

    url: str
    digest: str
    """"md5:..." or "sha256:...", as published; "" where what is read is verified."""
    most: int
    """Bytes that it may have at most: what sends more sends something else."""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(
    remote: Remote, folder: Path, *, tries: int = 4, timeout: float = 30.0
) -> Path:
    """Return the file in `folder`, after downloading what is not there yet.

    What came before a break is kept beside it, ".part", and gone on with: at once, some
    times, and when `fetch` is called again. The file has its name once it is verified.

    Args:
        remote: what to get.
        folder: where to; made if absent.
        tries: connections that may bring nothing new before this gives up.
        timeout: seconds to wait for the next piece.

    Raises:
        UserError: the network or the server fails, the file is another than published,
            or it cannot be written.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{remote.name}.lock"):
            if not path.exists():
                _complete(remote, part, tries, timeout)
                part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _complete(remote: Remote, part: Path, tries: int, timeout: float) -> None:
    """Download into `part` until all of it is there, and verify it."""
    left, resumed = tries, part.exists()
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive(remote, part, timeout)
        except _BrokenOffError as error:
            grew = part.stat().st_size > before
            left = tries if grew else left - 1
            if left <= 0 or not error.again:
                raise UserError(
                    f"cannot download {remote.url} ({error}); check the network and try"
                    " again: what came is kept"
                ) from error
            continue
        found = digest(part, remote.digest)
        if found == remote.digest:
            return
        part.unlink()
        if not resumed:
            raise UserError(
                f"the download of {remote.url} is damaged ({found}, published"
                f" {remote.digest}); try again"
            )
        resumed = False  # the old part may have been of another file


class _BrokenOffError(Exception):
    """The network or the server failed; `again` says whether it may be otherwise."""

    def __init__(self, error: object, again: bool = True) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.again = again


def _receive(remote: Remote, part: Path, timeout: float) -> None:
    """Append what the server sends to `part`."""
    with part.open("ab") as file:
        for at, piece in _pieces(remote, file.tell(), timeout):
            if at < file.tell():  # it begins anew
                file.truncate(at)
            file.write(piece)
            if at + len(piece) > remote.most:
                file.truncate(0)
                raise UserError(
                    f"{remote.url} sends more than the {remote.most:,} bytes that it"
                    " should have; it is another file"
                )
        file.flush()
        os.fsync(file.fileno())


def _pieces(remote: Remote, start: int, timeout: float) -> Iterator[tuple[int, bytes]]:
    """Yield what the server sends from byte `start` on, and where each piece begins."""
    asked = Request(remote.url, headers={"User-Agent": "reptile_lib"})
    if start:
        asked.add_header("Range", f"bytes={start}-")
    try:
        with urlopen(asked, timeout=timeout) as response:
            at = start if response.status == HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            end = None if length is None else at + int(length)
            yield at, b""
            while piece := response.read1(PIECE):
                yield at, piece
                at += len(piece)
    except HTTPError as error:
        error.close()  # it is a response, too
        if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send
        raise _BrokenOffError(error, error.code >= 500) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _BrokenOffError(error) from error
    if end is not None and at < end:
        raise _BrokenOffError(f"it broke off after {at:,} of {end:,} bytes")


def digest(path: Path, like: str) -> str:
    """Return a file's digest in the form of another, "md5:..."; "" for ""."""
    kind = like.partition(":")[0]
    if not kind:
        return ""
    with path.open("rb") as file:
        found = hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        )
    return f"{kind}:{found.hexdigest()}"
