"""What archives and compressed files hold, read in memory and with suspicion.

Nothing is extracted, so no name in an archive is ever used as a path. An archive that
tries to leave its folder, links elsewhere or grows beyond measure is refused whole: it
is not the published one.
"""

import csv
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from reptile_lib.errors import UserError

LAYOUT = (LookupError, TypeError, AttributeError)  # a part is not there, or is another
DAMAGE = (
    *LAYOUT,
    OSError,  # not gzip, among others
    EOFError,
    ValueError,  # what a text or a number should have been
    csv.Error,
    RuntimeError,  # encrypted; or, NotImplementedError, compressed as no sound file is
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Let what goes wrong inside end in a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        what = str(error) or type(error).__name__
        if isinstance(error, KeyError):
            what = f"there is no {error} in it"
        elif isinstance(error, LAYOUT):
            what = f"laid out otherwise: {error!r}"
        raise UserError(
            f"{path} is damaged ({what}); get the published file again"
        ) from error


def members(path: Path, pattern: str, most: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of an archive's files whose names match, in its order.

    Args:
        path: a zip or tar file, the latter compressed or not.
        pattern: a regular expression for the whole name.
        most: bytes that all files together may have.

    Raises:
        UserError: the archive is damaged, or not one that was published.
    """
    wanted = re.compile(pattern)
    with damage_told(path):
        zipped = zipfile.is_zipfile(path)
        yield from (_zipped if zipped else _tarred)(path, wanted, most)


def unpacked(path: Path, most: int) -> bytes:
    """Return what a .gz or .xz file holds, or any other file as it is.

    Raises:
        UserError: it is damaged, or larger than `most` bytes.
    """
    with damage_told(path), path.open("rb") as raw, ExitStack() as stack:
        stream: IO[bytes] = raw
        if path.suffix == ".gz":
            stream = stack.enter_context(gzip.open(raw))  # type: ignore[arg-type]
        elif path.suffix == ".xz":
            stream = stack.enter_context(lzma.open(raw))
        content = stream.read(most + 1)
    _check_size(path, len(content), most)
    return content


def contents(
    paths: Sequence[Path], pattern: str, most: int
) -> dict[str, tuple[Path, bytes]]:
    """Return files that are published singly and packed together, by their own names.

    Args:
        paths: all of them, compressed or not, or one archive that holds them.
        pattern: a regular expression for the whole names in the archive.
        most: bytes that one file, or all files of the archive, may have.

    Returns:
        for "b.csv" of "a/b.csv" where it was, for what there is to complain, and bytes.

    Raises:
        UserError: as `members` and `unpacked`.
    """
    if len(paths) > 1:
        return {path.name: (path, unpacked(path, most)) for path in paths}
    (path,) = paths
    found = members(path, pattern, most)
    return {PurePosixPath(name).name: (path, content) for name, content in found}


def csv_rows(content: bytes, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yield the rows of a UTF-8 CSV file; fields keep their spaces and newlines.

    Raises:
        ValueError: there are none, or one has more or fewer fields than the header.
    """
    text = io.StringIO(content.decode(), newline="")
    found = csv.DictReader(text, delimiter=delimiter, strict=True)
    for row in found:
        if None in row or None in row.values():
            raise ValueError(f"a row of {len(row)} fields: {row}"[:80])
        yield row
    if found.line_num < 2:
        raise ValueError("it has no rows")


def _zipped(
    path: Path, wanted: re.Pattern[str], most: int
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        _check_size(path, sum(info.file_size for info in file.infolist()), most)
        for info in file.infolist():
            link = stat.S_ISLNK(info.external_attr >> 16)
            _check_name(path, info.filename, link)
            if wanted.fullmatch(info.filename):
                yield info.filename, file.read(info)


def _tarred(
    path: Path, wanted: re.Pattern[str], most: int
) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as raw, _plain(raw) as stream:
        limited = _Limited(path, stream, most)
        with tarfile.open(fileobj=limited, mode="r|") as file:
            for info in file:
                _check_name(path, info.name, not (info.isreg() or info.isdir()))
                if info.isreg() and wanted.fullmatch(info.name):
                    content = file.extractfile(info)
                    yield info.name, content.read() if content else b""
        while limited.read(1 << 20):  # gzip's checksum comes last
            pass


@contextmanager
def _plain(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if not zipped:
        yield raw
    else:
        with gzip.open(raw) as stream:
            yield stream  # type: ignore[misc]


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than so many bytes."""

    def __init__(self, path: Path, stream: IO[bytes], most: int) -> None:
        self.path, self.stream, self.most, self.given = path, stream, most, 0

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        content = self.stream.read(size)
        self.given += len(content)
        _check_size(self.path, self.given, self.most)
        return content


def _check_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise UserError(
            f"{path} holds more than {most:,} bytes unpacked, which the published file"
            " does not; get that one"
        )


def _check_name(path: Path, name: str, link: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if (
        link
        or parts.is_absolute()
        or ".." in parts.parts
        or re.match("[A-Za-z]:", name)
    ):
        what = "a link or device" if link else "a path that leaves its folder"
        raise UserError(
            f"{path} holds {what} ({name!r}), which the published file does not; get"
            " that one"
        )
