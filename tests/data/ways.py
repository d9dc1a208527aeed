"""A small data set in the layout of a published one, had each way it can be."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from reptile_lib import UserError
from reptile_lib.reading.arrays import Source, arrays_of, fingerprint
from tests.reading.site import served

T = TypeVar("T")
Files = Mapping[str, bytes]


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def zipped(files: Files) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return raw.getvalue()


def text_of(data: object) -> bytes:
    return json.dumps(data, indent=1).encode()


def small(source: Source, official: Files, home: Path) -> Source:
    """Return the source of such a data set, which expects these official files."""
    write(home / "site", official)
    paths = [home / "site" / remote.name for remote in source.remotes]
    return replace(source, sha256=fingerprint(source.read(paths)))


def from_site(source: Source, home: Path, act: Callable[[Source], T]) -> T:
    """Serve what is in home/site; return what `act` makes of it."""
    with pytest.MonkeyPatch.context() as patch, served(home / "site") as base:
        patch.delenv("REPTILE_DATA", raising=False)
        patch.setenv("REPTILE_CACHE", str(home / "from site"))
        remotes = (
            remote._replace(url=f"{base}/{remote.name}", digest="")
            for remote in source.remotes
        )
        return act(replace(source, remotes=tuple(remotes)))


def from_packed(
    source: Source, files: Files, home: Path, act: Callable[[Source], T]
) -> T:
    """Put `files` into $REPTILE_DATA; return what `act` makes of them."""
    write(home / "data", files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPTILE_DATA", str(home / "data"))
        patch.setenv("REPTILE_CACHE", str(home / "from packed"))
        return act(replace(source, remotes=()))


def complaint(source: Source, files: Files, home: Path) -> str:
    """Return the line that such packed files end in, which names one of them."""
    with pytest.raises(UserError) as caught:
        from_packed(source, files, home, arrays_of)
    message = str(caught.value)
    assert "\n" not in message
    assert any(str(home / "data" / name) in message for name in files), message
    assert not list((home / "from packed").glob("*.npz"))
    return message


def damaged(content: bytes) -> dict[str, bytes]:
    """Return a file cut short, one with another byte, and one of another kind."""
    at = len(content) // 4
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    return {"cut": content[:-20], "flipped": flipped, "foreign": b"<html></html>\n"}
