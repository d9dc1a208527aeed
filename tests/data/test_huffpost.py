"""HuffPost: both ways to it, and the published file where it is at hand."""

import csv
import json
import lzma
import os
from pathlib import Path

import pytest

from reptile_lib import UserError, load
from reptile_lib.data import huffpost
from reptile_lib.data.sentences import classes_of
from tests.data.ways import complaint, damaged, from_packed, from_site, small

GIVEN = [("that \u2019s it", 40), ("a\x85b\u2028c", 0), ("so what", 2), ("again", 0)]
LINES = [json.dumps({"raw": raw, "label": label}) for raw, label in GIVEN]
LINES[1] = '{"raw": "a\x85b\u2028c", "label": 0}'  # not escaped: they end no line
FILE = "\n".join([*LINES, ""]).encode()
FOUND = {
    "POLITICS": ("a\x85b\u2028c", "again"),
    "ENTERTAINMENT": ("so what",),
    "EDUCATION": ("that ’s it",),
}
PACKED = "huffpost/huffpost.jsonl.xz"


def test_both_ways_lead_to_the_same_headlines(tmp_path: Path) -> None:
    source = small(huffpost.SOURCE, {"huffpost.json": FILE}, tmp_path)
    for found in (
        from_site(source, tmp_path, classes_of),
        from_packed(source, {PACKED: lzma.compress(FILE)}, tmp_path, classes_of),
    ):
        assert len(found) == 41
        assert {name: own for name, own in found.items() if own} == FOUND


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    source = small(huffpost.SOURCE, {"huffpost.json": FILE}, tmp_path)
    content = damaged(lzma.compress(FILE))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"raw": "a", "label": 41},
        {"raw": "a", "label": "POLITICS"},
        {"raw": 1, "label": 2},
        {"headline": "a", "label": 2},
        ["a", 2],
    ],
)
def test_what_is_laid_out_otherwise_is_refused(tmp_path: Path, row: object) -> None:
    source = small(huffpost.SOURCE, {"huffpost.json": FILE}, tmp_path)
    (tmp_path / "site" / "huffpost.json").write_text(json.dumps(row))
    with pytest.raises(
        UserError, match=r"huffpost\.json is damaged \((laid out|there is no)"
    ):
        from_site(source, tmp_path, classes_of)


@pytest.mark.needs_data("huffpost")
@pytest.mark.usefixtures("cache")
def test_the_published_headlines() -> None:
    parts = load("huffpost")
    assert [len(part) for part in parts] == [20, 5, 16]
    assert {len(own) for part in parts for own in part.sentences} == {900}
    crime = parts.val.sentences[parts.val.names.index("CRIME")]
    assert crime[0].startswith("there were 2 mass shootings in texas last week , but")
    labels = Path(os.environ.get("REPTILE_DATA", ""), "huffpost", "labels.csv")
    if labels.exists():
        with labels.open(encoding="utf-8", newline="") as file:
            rows = [(row["category"], row["split"]) for row in csv.DictReader(file)]
        for name, part in zip(("train", "val", "test"), parts, strict=True):
            assert part.names == tuple(kind for kind, own in rows if own == name)
