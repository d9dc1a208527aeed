"""Archives as published, damaged, and hostile."""

import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from reptile_lib import UserError
from reptile_lib.reading.archive import contents, csv_rows, members, unpacked

FILES = {"set/a.txt": b"first", "set/b.txt": b"second", "set/c.md": b"not wanted"}
MOST = 50_000


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> None:
    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in more:
            file.addfile(info)


WRITERS = {"set.zip": write_zip, "set.tar": write_tar, "set.tar.gz": write_tar}
each_kind = pytest.mark.parametrize("kind", WRITERS)


def texts(path: Path, most: int = MOST) -> dict[str, bytes]:
    return dict(members(path, r"set/.*\.txt", most))


def complaint(path: Path, most: int = MOST) -> str:
    with pytest.raises(UserError) as caught:
        texts(path, most)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@each_kind
def test_files_whose_names_match_are_read(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / kind, FILES)
    assert texts(tmp_path / kind) == {"set/a.txt": b"first", "set/b.txt": b"second"}


@each_kind
@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "set/../../evil.txt"])
def test_a_path_that_leaves_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    WRITERS[kind](tmp_path / kind, FILES | {name: b"evil"})
    assert f"a path that leaves its folder ({name!r})" in complaint(tmp_path / kind)
    assert not list(tmp_path.parent.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["C:\\evil.txt", "..\\evil.txt"])
def test_so_is_a_path_of_another_system(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "set.tar", FILES | {name: b"evil"})
    assert "a path that leaves its folder" in complaint(tmp_path / "set.tar")


@pytest.mark.parametrize("kind", ["set.tar", "set.tar.gz"])
@pytest.mark.parametrize(
    "link", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_file_are_refused(
    tmp_path: Path, kind: str, link: bytes
) -> None:
    info = tarfile.TarInfo("set/link.txt")
    info.type, info.linkname = link, "/etc/passwd"
    write_tar(tmp_path / kind, FILES, info)
    assert "a link or device ('set/link.txt')" in complaint(tmp_path / kind)


def test_a_link_in_a_zip_file_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("set/link.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    assert "a link or device ('set/link.txt')" in complaint(tmp_path / "set.zip")


@each_kind
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / kind, FILES | {"set/bomb.txt": bytes(10 * MOST)})
    assert "more than 50,000 bytes unpacked" in complaint(tmp_path / kind)


def test_a_bomb_behind_the_end_of_a_tar_file_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", FILES)
    bomb = (tmp_path / "set.tar").read_bytes() + bytes(100 * MOST)
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(bomb))
    assert "more than 50,000 bytes unpacked" in complaint(tmp_path / "set.tar.gz")


def test_a_bomb_in_a_long_name_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("set/a.txt")
        info.pax_headers = {"comment": "x" * (10 * MOST)}
        file.addfile(info)
    assert "more than 50,000 bytes unpacked" in complaint(tmp_path / "set.tar.gz")


def test_a_zip_file_that_lies_about_sizes_is_damaged(tmp_path: Path) -> None:
    write_zip(tmp_path / "set.zip", {"set/a.txt": bytes(10 * MOST)})
    content = (tmp_path / "set.zip").read_bytes()
    large, small = (10 * MOST).to_bytes(4, "little"), (100).to_bytes(4, "little")
    assert content.count(large) == 2
    (tmp_path / "set.zip").write_bytes(content.replace(large, small))
    assert "is damaged" in complaint(tmp_path / "set.zip")


@each_kind
def test_a_cut_file_is_damaged(tmp_path: Path, kind: str) -> None:
    noise = bytes(hash((7, i)) % 256 for i in range(9_000))
    WRITERS[kind](tmp_path / kind, FILES | {"set/noise.txt": noise})
    content = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(content[: len(content) // 2])
    assert "is damaged" in complaint(tmp_path / kind)


@pytest.mark.parametrize("kind", ["set.zip", "set.tar.gz"])
def test_a_flipped_byte_is_noticed(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / kind, {"set/a.txt": bytes(range(256)) * 50})
    content = bytearray((tmp_path / kind).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / kind).write_bytes(content)
    assert "is damaged" in complaint(tmp_path / kind)


@each_kind
def test_another_file_is_damaged(tmp_path: Path, kind: str) -> None:
    (tmp_path / kind).write_bytes(b"<html>404</html>" * 100)
    assert "is damaged" in complaint(tmp_path / kind)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "none.zip")


def test_compressed_files_are_unpacked(tmp_path: Path) -> None:
    for name, content in {
        "a.gz": gzip.compress(b"hello"),
        "a.csv.xz": lzma.compress(b"hello"),
        "a.csv": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert unpacked(tmp_path / name, most=5) == b"hello"
        with pytest.raises(UserError, match="more than 4 bytes unpacked"):
            unpacked(tmp_path / name, most=4)


@pytest.mark.parametrize("name", ["a.gz", "a.xz"])
def test_a_damaged_compressed_file_is_told(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name == "a.gz" else lzma.compress
    (tmp_path / name).write_bytes(pack(b"hello" * 100)[:-9])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        unpacked(tmp_path / name, most=MOST)


def test_files_are_the_same_single_or_packed(tmp_path: Path) -> None:
    single = [tmp_path / "b.txt.gz", tmp_path / "a.txt"]
    single[0].write_bytes(gzip.compress(b"second"))
    single[1].write_bytes(b"first")
    write_zip(tmp_path / "set.zip", FILES)
    found = contents(single, "", MOST)
    assert found == {"b.txt.gz": (single[0], b"second"), "a.txt": (single[1], b"first")}
    packed = contents([tmp_path / "set.zip"], r"set/\w\.txt", MOST)
    assert {name: content for name, (_, content) in packed.items()} == {
        "a.txt": b"first",
        "b.txt": b"second",
    }


def test_rows_of_a_table_are_dicts() -> None:
    rows = list(csv_rows(b'a;b\r\n1;" x\n"\r\n;2\r\n', delimiter=";"))
    assert rows == [{"a": "1", "b": " x\n"}, {"a": "", "b": "2"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no rows"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1\n", "a row of 2 fields"),
        (b"a,b\n1,2,3\n", "a row of 3 fields"),
        (b"a,b\n1,\xff\n", "utf-8"),
    ],
)
def test_what_is_no_table_is_noticed(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(csv_rows(content))
