"""Downloads from a real server that stalls, breaks off, and sends something else."""

import hashlib
import multiprocessing
import socket
from pathlib import Path

import pytest

from reptile_lib import UserError
from reptile_lib.reading.fetch import Remote, digest, fetch
from tests.reading.site import Manners, served

CONTENT = bytes(range(256)) * 4_000  # about a megabyte
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MOST = 2_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that a server has; beside it there is room for the client's."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "set.bin").write_bytes(CONTENT)
    return tmp_path / "site"


def got(base: str, home: Path, digest: str = MD5, timeout: float = 5.0) -> bytes:
    path = fetch(Remote(f"{base}/set.bin", digest, MOST), home, timeout=timeout)
    assert path == home / "set.bin"
    return path.read_bytes()


def complaint(base: str, home: Path, digest: str = MD5, timeout: float = 5.0) -> str:
    with pytest.raises(UserError) as caught:
        got(base, home, digest, timeout)
    assert "\n" not in str(caught.value)
    assert not (home / "set.bin").exists()
    return str(caught.value)


@pytest.mark.parametrize("published", [MD5, SHA256, ""])
def test_a_file_comes_whole_and_once(
    folder: Path, tmp_path: Path, published: str
) -> None:
    manners = Manners()
    with served(folder, manners) as base:
        for _ in range(2):
            assert got(base, tmp_path / "home", published) == CONTENT
    assert manners.seen == [""]
    assert not list((tmp_path / "home").glob("*.part"))


def test_a_broken_download_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path
) -> None:
    manners = Manners(breaks_after=[1_000, 500_000])
    with served(folder, manners) as base:
        assert got(base, tmp_path / "home") == CONTENT
    assert manners.seen == ["", "bytes=1000-", "bytes=501000-"]


def test_a_server_without_ranges_sends_it_again(folder: Path, tmp_path: Path) -> None:
    manners = Manners(breaks_after=[1_000], ranges=False)
    with served(folder, manners) as base:
        assert got(base, tmp_path / "home") == CONTENT
    assert len(manners.seen) == 2


def test_a_stalled_server_is_left_and_asked_again(folder: Path, tmp_path: Path) -> None:
    manners = Manners(breaks_after=[70_000], stalls=True)
    with served(folder, manners) as base:
        assert got(base, tmp_path / "home", timeout=0.3) == CONTENT
    assert manners.seen == ["", "bytes=70000-"]


def test_what_came_is_kept_for_the_next_time(folder: Path, tmp_path: Path) -> None:
    manners = Manners(breaks_after=[300_000, 0, 0, 0, 0])
    with served(folder, manners) as base:
        told = complaint(base, tmp_path / "home")
        assert "broke off after 300,000 of 1,024,000 bytes" in told
        assert "check the network and try again: what came is kept" in told
        assert got(base, tmp_path / "home") == CONTENT
    assert manners.seen[-1] == "bytes=300000-"


def test_a_lie_about_the_checksum_is_told_and_not_kept(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "set.bin").write_bytes(CONTENT[:-1] + b"?")
    with served(folder) as base:
        told = complaint(base, tmp_path / "home")
    assert f"the download of {base}/set.bin is damaged (md5:" in told
    assert f"published {MD5}" in told
    assert not list((tmp_path / "home").glob("*.part"))


@pytest.mark.parametrize("part", [b"of another file", CONTENT + b"too long"])
def test_an_old_part_of_another_file_is_replaced(
    folder: Path, tmp_path: Path, part: bytes
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "set.bin.part").write_bytes(part)
    with served(folder) as base:
        assert got(base, home) == CONTENT


def test_a_whole_part_needs_no_more(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "set.bin.part").write_bytes(CONTENT)
    manners = Manners()
    with served(folder, manners) as base:
        assert got(base, home) == CONTENT
    assert manners.seen == [f"bytes={len(CONTENT)}-"]


def test_endless_content_is_cut_off(folder: Path, tmp_path: Path) -> None:
    (folder / "set.bin").write_bytes(bytes(MOST + 1))
    with served(folder) as base:
        told = complaint(base, tmp_path / "home")
    assert "sends more than the 2,000,000 bytes that it should have" in told
    kept = sum(path.stat().st_size for path in (tmp_path / "home").iterdir())
    assert kept == 0


def test_a_tired_server_is_asked_again(folder: Path, tmp_path: Path) -> None:
    with served(folder, Manners(refuses=[503, 500])) as base:
        assert got(base, tmp_path / "home") == CONTENT


def test_a_file_that_is_gone_is_not_asked_for_again(
    folder: Path, tmp_path: Path
) -> None:
    manners = Manners(refuses=[404] * 9)
    with served(folder, manners) as base:
        told = complaint(base, tmp_path / "home")
    assert f"cannot download {base}/set.bin (HTTP Error 404" in told
    assert len(manners.seen) == 1


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, yet nobody listens
        closed.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert "Connection refused" in complaint(base, tmp_path / "home")


def test_a_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with served(folder) as base:
        told = complaint(base, tmp_path / "file" / "home")
    assert f"cannot write {tmp_path / 'file' / 'home' / 'set.bin'}" in told


def _fetch(url: str, home: Path) -> None:
    fetch(Remote(url, MD5, MOST), home)


@pytest.mark.slow
def test_two_processes_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    manners = Manners(breaks_after=[200_000, 200_000])
    spawn = multiprocessing.get_context("spawn")
    with served(folder, manners) as base:
        both = [
            spawn.Process(target=_fetch, args=(f"{base}/set.bin", tmp_path / "home"))
            for _ in range(2)
        ]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "home" / "set.bin").read_bytes() == CONTENT
    assert manners.seen == ["", "bytes=200000-", "bytes=400000-"]


def test_digests_are_those_of_the_standard_library(folder: Path) -> None:
    assert digest(folder / "set.bin", "md5:x") == MD5
    assert digest(folder / "set.bin", SHA256) == SHA256
