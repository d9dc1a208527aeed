"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from reptile_lib.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    # The process number keeps two writers of one file (a cache, say) apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            with suppress(OSError):  # not every file system knows it for folders
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a record for people and programs to read, as `written_whole` does."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    """Make names in a folder survive a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return what to tell the user."""
    return UserError(
        f"cannot write {path} ({error.strerror or error}); choose a folder you may"
        " write to, with free space"
    )
