"""CLINC150: both ways to it, and the published file where it is at hand."""

from pathlib import Path

import pytest

from reptile_lib import UserError, load
from reptile_lib.data import clinc150
from reptile_lib.data.sentences import classes_of
from tests.data.ways import (
    complaint,
    damaged,
    from_packed,
    from_site,
    small,
    text_of,
    zipped,
)

GIVEN = {  # keys and rows in no order, as published
    "oos_val": [["who won", "oos"]],
    "val": [["is there a fee", "apr"], ["hello\u2028there ", "greeting"]],
    "oos_test": [["why", "oos"], ["what’s up", "oos"]],
    "train": [["hi", "greeting"], ["my rate", "apr"], [" the apr\n", "apr"]],
    "oos_train": [["how", "oos"]],
    "test": [["rate", "apr"], ["hey", "greeting"]],
}
DOMAINS = {"talk": ["greeting"], "bank": ["apr"]}
FOUND = {
    "bank/apr": ("my rate", " the apr\n", "is there a fee", "rate"),
    "talk/greeting": ("hi", "hello\u2028there ", "hey"),
    "oos/train": ("how",),
    "oos/val": ("who won",),
    "oos/test": ("why", "what’s up"),
}
FILES = {"data_full.json": text_of(GIVEN), "domains.json": text_of(DOMAINS)}
PACKED = "intents/clinc150.zip"


def test_both_ways_lead_to_the_same_intents(tmp_path: Path) -> None:
    source = small(clinc150.SOURCE, FILES, tmp_path)
    assert from_site(source, tmp_path, classes_of) == FOUND
    content = zipped({"LICENSE": b"CC BY", **FILES})
    found = from_packed(source, {PACKED: content}, tmp_path, classes_of)
    assert found == FOUND
    assert list(found) == list(FOUND)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    source = small(clinc150.SOURCE, FILES, tmp_path)
    content = damaged(zipped(FILES))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("domains.json", {"bank": ["apr"]}),
        ("domains.json", ["apr"]),
        ("domains.json", {"bank": ["apr", 1]}),
        ("data_full.json", {**GIVEN, "val": [["a"]]}),
        ("data_full.json", {**GIVEN, "val": [[7, "apr"]]}),
        ("data_full.json", {"train": []}),
    ],
)
def test_what_is_laid_out_otherwise_is_refused(
    tmp_path: Path, name: str, content: object
) -> None:
    source = small(clinc150.SOURCE, FILES, tmp_path)
    files = {**FILES, name: text_of(content)}
    assert "is damaged" in complaint(source, {PACKED: zipped(files)}, tmp_path)


@pytest.mark.needs_data("clinc150")
@pytest.mark.usefixtures("cache")
def test_the_published_intents() -> None:
    names = set()
    for split in range(1, 6):
        parts = load("clinc150", split=split)
        assert [len(part) for part in parts] == [50, 50, 50]
        assert len({name for part in parts for name in part.names}) == 150
        assert {len(own) for part in parts for own in part.sentences} == {150}
        for part in parts:
            assert len({name.split("/")[0] for name in part.names}) == 10
        names.add(parts.test.names)
    assert len(names) == 5
    train, val, test = load("clinc150")  # of labels.*.txt in data/OOS/few_shot/01
    assert {"small_talk/goodbye", "auto_and_commute/mpg"} <= set(train.names)
    assert {"utility/weather", "banking/pin_change"} <= set(val.names)
    assert {"utility/alarm", "meta/user_name", "work/meeting_schedule"} <= set(
        test.names
    )
    first = train.names.index("banking/balance")
    assert train.sentences[first][0] == "savings account balance at chase bank please"
    with pytest.raises(UserError, match="split is 6: choose from 1 to 5"):
        load("clinc150", split=6)


@pytest.mark.needs_data("clinc150")
@pytest.mark.usefixtures("cache")
def test_sentences_of_no_intent() -> None:
    parts = clinc150.out_of_scope()
    assert [part.names for part in parts] == [("oos",)] * 3
    assert [len(part.sentences[0]) for part in parts] == [100, 100, 1000]
