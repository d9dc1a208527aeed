"""Where a data set's arrays come from, and that they are the right ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reptile_lib import UserError
from reptile_lib.reading.arrays import (
    Arrays,
    Source,
    arrays_of,
    fingerprint,
    pack_texts,
    unpack_texts,
)
from reptile_lib.reading.fetch import Remote
from tests.reading.site import Manners, served

NUMBERS = {"x": np.arange(6, dtype=np.int64).reshape(2, 3), "y": np.array([1, 0])}


def read(paths: Sequence[Path]) -> Arrays:
    x, y = (np.array(path.read_text().split(), np.int64) for path in paths)
    return {"x": x.reshape(2, 3), "y": y}


def read_packed(paths: Sequence[Path]) -> Arrays:
    (path,) = paths
    x, y = path.read_text().split(";")
    return {
        "x": np.array(x.split(), np.int64).reshape(2, 3),
        "y": np.array(y.split(), np.int64),
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a site with the official files, REPTILE_DATA with the packed one."""
    for name in ("site", "data/set"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "site" / "x.txt").write_text("0 1 2 3 4 5")
    (tmp_path / "site" / "y.txt").write_text("1 0")
    (tmp_path / "data" / "set" / "all.txt").write_text("0 1 2 3 4 5; 1 0")
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPTILE_DATA", str(tmp_path / "data"))
    return tmp_path


def source(base: str = "http://127.0.0.1:9") -> Source:
    remotes = tuple(Remote(f"{base}/{name}.txt", "", 99) for name in "xy")
    packed = ("set/all.txt",)
    return Source("set", fingerprint(NUMBERS), remotes, read, packed, read_packed)


def same(found: Arrays) -> bool:
    return fingerprint(found) == fingerprint(NUMBERS)


def test_files_at_hand_come_first(home: Path) -> None:
    assert same(arrays_of(source()))
    assert [path.name for path in (home / "cache").iterdir()] == ["set.npz"]


def test_the_official_source_gives_the_same(home: Path) -> None:
    (home / "data" / "set" / "all.txt").unlink()
    with served(home / "site") as base:
        assert same(arrays_of(source(base)))
    assert same(arrays_of(source()))  # the cache is enough afterwards
    left = [path for path in (home / "cache").rglob("*.txt") if path.is_file()]
    assert not left  # what the cache holds is not kept twice


def test_without_either_it_is_told_what_to_do(home: Path) -> None:
    (home / "data" / "set" / "all.txt").unlink()
    with pytest.raises(UserError) as caught:
        arrays_of(source())
    assert "cannot download http://127.0.0.1:9/x.txt" in str(caught.value)
    assert "set REPTILE_DATA to a folder that holds set/all.txt" in str(caught.value)
    assert not (home / "cache" / "set.npz").exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "other numbers"])
def test_a_damaged_cache_is_made_anew(home: Path, damage: str) -> None:
    arrays_of(source())
    cache = home / "cache" / "set.npz"
    sound = cache.read_bytes()
    if damage == "other numbers":
        np.savez(cache, x=NUMBERS["x"] + 1, y=NUMBERS["y"])
    else:
        bad = {"empty": b"", "cut": sound[:-40], "foreign": b"<html>"}
        cache.write_bytes(bad[damage])
    assert same(arrays_of(source()))
    assert cache.read_bytes() == sound


def test_a_pickle_in_the_cache_is_not_loaded(home: Path) -> None:
    (home / "cache").mkdir()
    np.savez(home / "cache" / "set.npz", x=np.array([{}], object), allow_pickle=True)
    assert same(arrays_of(source()))


def test_other_content_is_refused_and_not_kept(home: Path) -> None:
    (home / "data" / "set" / "all.txt").write_text("0 1 2 3 4 6; 1 0")
    with pytest.raises(UserError, match=r"all.txt hold something else than was publ"):
        arrays_of(source())
    assert not (home / "cache").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no number"), "no number"),
        (EOFError(), "EOFError"),
        (KeyError("y"), "there is no 'y' in it"),
        (TypeError("int has no items"), "laid out otherwise: TypeError('int has no"),
        (IndexError("tuple"), "laid out otherwise: IndexError('tuple')"),
    ],
)
def test_what_a_reader_raises_is_told_as_damage(
    home: Path, error: Exception, told: str
) -> None:
    def stumble(paths: Sequence[Path]) -> Arrays:
        raise error

    with pytest.raises(UserError) as caught:
        arrays_of(replace(source(), read_packed=stumble))
    packed = home / "data" / "set" / "all.txt"
    assert str(caught.value).startswith(f"{packed} is damaged ({told}")


def test_where_a_part_is_known_it_is_verified(home: Path) -> None:
    known = {"y": NUMBERS["y"]}
    part = replace(
        source(), sha256=fingerprint(known), known=lambda arrays: {"y": arrays["y"]}
    )
    packed = home / "data" / "set" / "all.txt"
    packed.write_text("0 1 2 3 4 5; 1 1")
    with pytest.raises(UserError, match="hold something else than was published"):
        arrays_of(part)
    packed.write_text("0 1 2 3 4 6; 1 0")
    assert arrays_of(part)["x"].tolist() == [[0, 1, 2], [3, 4, 6]]
    np.savez(home / "cache" / "set.npz", x=NUMBERS["x"])  # without what is known
    assert arrays_of(part)["x"].tolist() == [[0, 1, 2], [3, 4, 6]]


def test_a_cache_that_cannot_be_written_is_done_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("REPTILE_CACHE", str(home / "file" / "cache"))
    assert same(arrays_of(source()))


def test_a_wrong_download_is_not_taken_again(home: Path) -> None:
    (home / "data" / "set" / "all.txt").unlink()
    with served(home / "site") as base:
        (home / "site" / "y.txt").write_text("1 1")
        with pytest.raises(UserError, match="hold something else"):
            arrays_of(source(base))
        (home / "site" / "y.txt").write_text("1 0")
        assert same(arrays_of(source(base)))


def test_what_came_of_several_files_is_kept(home: Path) -> None:
    (home / "data" / "set" / "all.txt").unlink()
    manners = Manners(refuses=[200, 404])
    with served(home / "site", manners) as base:
        with pytest.raises(UserError, match="404"):
            arrays_of(source(base))
        assert same(arrays_of(source(base)))
    assert len(manners.seen) == 3  # x once, y twice


@pytest.mark.parametrize(
    "other",
    [
        {"x": NUMBERS["x"].reshape(3, 2), "y": NUMBERS["y"]},
        {"x": NUMBERS["x"].astype(np.int32), "y": NUMBERS["y"]},
        {"y": NUMBERS["x"], "x": NUMBERS["y"]},
        {"x": NUMBERS["x"]},
    ],
)
def test_a_fingerprint_tells_arrays_apart(other: Arrays) -> None:
    assert fingerprint(other) != fingerprint(NUMBERS)
    assert fingerprint(dict(reversed(NUMBERS.items()))) == fingerprint(NUMBERS)


def test_texts_survive() -> None:
    texts = ["", "a b", "naïve\n权重", "", "👍🏽"]
    assert unpack_texts(*pack_texts(texts)) == texts
    assert unpack_texts(*pack_texts([])) == []
    content, ends = pack_texts(["ab", "é"])
    assert content.tolist() == [97, 98, 195, 169]
    assert ends.tolist() == [2, 4]
