"""Sheets of tiles and CIFAR's records: what is in them, and what is wrong with some."""

from pathlib import Path

import numpy as np
import pytest

from reptile_lib import UserError
from reptile_lib.reading.sheets import read_records, read_sheet
from tests.data import tiles

IMAGES = tiles.pictures(0, count=230)
ROWS = [("cat" if i % 2 else "dog", f"{i}.png") for i in range(230)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tiles.written(tmp_path, IMAGES, "label,file", ROWS)


def test_a_sheet_holds_what_its_table_says(files: tuple[Path, Path]) -> None:
    rows, found = read_sheet(*files, "file", "label")
    assert rows.tolist() == [[file, label] for label, file in ROWS]
    assert np.array_equal(found, IMAGES)


@pytest.mark.parametrize("count", [200, 301])
def test_rows_must_go_with_tiles(files: tuple[Path, Path], count: int) -> None:
    files[1].write_bytes(tiles.table("label,file", [("cat", "x")] * count))
    with pytest.raises(UserError, match=rf"a.webp is damaged \(300 tiles for {count} "):
        read_sheet(*files, "label")


def test_damage_is_told(files: tuple[Path, Path]) -> None:
    sheet, table = files
    sound = sheet.read_bytes()
    for bad in (sound[: len(sound) // 2], b"<html>", b""):
        sheet.write_bytes(bad)
        with pytest.raises(UserError, match=r"a.webp is damaged \(.+; get the publi"):
            read_sheet(*files, "label")
    sheet.write_bytes(sound)
    for bad in (b"", b"\xff\xfe", b"index,name\n0,x\n"):
        table.write_bytes(bad)
        with pytest.raises(UserError, match=r"a.(csv|webp) is damaged"):
            read_sheet(*files, "label")
    table.unlink()
    with pytest.raises(UserError, match=r"a.csv is damaged .*No such file"):
        read_sheet(*files, "label")


def test_records_are_taken_apart() -> None:
    images = tiles.pictures(1, count=3)
    labels, found = read_records(tiles.records([(7, 1), (8, 2), (9, 0)], images), 2)
    assert labels.tolist() == [1, 2, 0]
    assert np.array_equal(found, images)
    with pytest.raises(ValueError, match="reshape"):
        read_records(tiles.records([(7, 1)], images[:1])[:-1], 2)
