"""NAB: a few small series, and the published ones where they are at hand."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from reptile_lib import UserError, load
from reptile_lib.data import nab
from reptile_lib.reading.arrays import Source
from tests.data.ways import complaint, damaged, from_packed, from_site, small, zipped

PACKED = "nab/nab_data.zip"
START = datetime(2014, 2, 14, 14, 30)
NAMES = ["realTweets/b-2", "artificialNoAnomaly/c", "realTraffic/a_1"]
MARKED = {"realTweets/b-2": [(3, 5), (8, 9)], "realTraffic/a_1": [(0, 0)]}
ROWS = 12


def stamp(row: int) -> str:
    return str(START + timedelta(minutes=5 * row))


def table(name: str) -> bytes:
    """Return a file as published, with the line ends of Windows or without the last."""
    rows = [f"{stamp(row)},{len(name) + row / 8}" for row in range(ROWS)]
    lines = "\n".join(["timestamp,value", *rows])
    return (lines.replace("\n", "\r\n") + "\r\n" if "b" in name else lines).encode()


WINDOWS = {
    f"{name}.csv": [
        [stamp(row) + ".000000" for row in window] for window in MARKED.get(name, [])
    ]
    for name in NAMES
}
FILES = {f"data/{name}.csv": table(name) for name in NAMES}
FILES[nab.WINDOWS] = json.dumps(WINDOWS).encode()
OTHERS = {
    "README.md": b"# NAB",
    "labels/combined_labels.json": b"{}",
    "data/README.md": b"",
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    first = nab.SOURCE.remotes[0]
    names = [
        first.name,
        *(Path(name).name for name in FILES if name.startswith("data")),
    ]
    remotes = tuple(first._replace(url=f"https://nowhere/{name}") for name in names)
    official = {Path(name).name: content for name, content in FILES.items()}
    return small(replace(nab.SOURCE, remotes=remotes), official, tmp_path)


def test_both_ways_lead_to_the_same_series(source: Source, tmp_path: Path) -> None:
    ways = [
        from_site(source, tmp_path, nab.series),
        from_packed(
            source, {PACKED: zipped({**OTHERS, **FILES})}, tmp_path, nab.series
        ),
    ]
    first = int(START.replace(tzinfo=UTC).timestamp())
    for found in ways:
        assert [one.name for one in found] == sorted(NAMES)
        for one in found:
            assert one.times.tolist() == [first + 300 * row for row in range(ROWS)]
            assert one.values.tolist() == [
                len(one.name) + row / 8 for row in range(ROWS)
            ]
            marked = MARKED.get(one.name, [])
            assert one.windows == tuple((start, last + 1) for start, last in marked)
            assert one.anomalous.tolist() == [
                any(start <= row <= last for start, last in marked)
                for row in range(ROWS)
            ]


def test_values_are_those_written(source: Source, tmp_path: Path) -> None:
    files = {
        **FILES,
        "data/realTraffic/a_1.csv": b"timestamp,value\n2014-02-14 14:30:00,0.1\n",
    }
    official = {Path(name).name: content for name, content in files.items()}
    other = small(source, official, tmp_path)
    (found,) = (
        one for one in from_site(other, tmp_path, nab.series) if "a_1" in one.name
    )
    assert found.values.tolist() == [0.1]  # to the last bit
    assert found.windows == ((0, 1),)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, how: str) -> None:
    rows = "".join(f"{stamp(row)},{row * 7919 % 10_007}\n" for row in range(100))
    long = {"data/realTweets/b-2.csv": f"timestamp,value\n{rows}".encode()}
    content = damaged(zipped({**long, nab.WINDOWS: FILES[nab.WINDOWS]}))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a_1.csv", b"<html>not found</html>\n"),
        ("a_1.csv", b"timestamp,value\n2014-02-14 14:30:00,high\n"),
        ("a_1.csv", b"timestamp,value\nyesterday,1\n"),
        ("a_1.csv", table("realTraffic/a_1")[16:]),  # what is marked is not there
        ("combined_windows.json", b"<html></html>"),
        ("combined_windows.json", b'{"realTraffic/z.csv": []}'),
    ],
)
def test_the_file_that_is_another_is_named(
    source: Source, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "site" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        from_site(source, tmp_path, nab.series)


def test_a_file_that_is_not_there_is_noticed(source: Source, tmp_path: Path) -> None:
    for left_out in (nab.WINDOWS, "data/realTweets/b-2.csv"):
        files = {name: content for name, content in FILES.items() if name != left_out}
        told = complaint(source, {PACKED: zipped(files)}, tmp_path)
        assert Path(left_out).name in told


@pytest.mark.needs_data("nab")
@pytest.mark.usefixtures("cache")
def test_the_published_series() -> None:
    found = load("nab")
    assert {one.name for one in found} == {*nab.NAMES}
    assert len(nab.SOURCE.remotes) == 1 + len(found) == 59
    assert len({remote.name for remote in nab.SOURCE.remotes}) == 59
    assert sum(len(one.values) for one in found) == 365_558
    assert sum(len(one.windows) for one in found) == 116
    assert all(torch.isfinite(one.values).all() for one in found)
    (taxi,) = (one for one in found if one.name == "realKnownCause/nyc_taxi")
    assert taxi.values[[0, -1]].tolist() == [10844, 26288]
    assert len(taxi.windows) == 5
    start, end = taxi.windows[0]
    days = [
        datetime.fromtimestamp(int(taxi.times[row]), UTC) for row in (start, end - 1)
    ]
    assert [f"{day:%Y-%m-%d %H:%M}" for day in days] == [
        "2014-10-30 15:30",
        "2014-11-03 22:30",
    ]
