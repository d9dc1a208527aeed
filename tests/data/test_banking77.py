"""Banking77: both ways to it, and the published file where it is at hand."""

from pathlib import Path

import pytest

from reptile_lib import UserError, load
from reptile_lib.data import banking77
from reptile_lib.data.sentences import classes_of
from tests.data.ways import complaint, damaged, from_packed, from_site, small, zipped

FILES = {
    "train.csv": b"text,category\r\n"
    b"Where is it?,card_arrival\r\n"
    b'"\nMy card, ""lost"", \xc2\xa31\n\n",lost_card\r\n'
    b" Still waiting ,card_arrival\r\n",
    "test.csv": b"text,category\r\n"
    b"Refund\xe2\x80\xa8me,Refund_not_showing_up\r\n"
    b"No card,card_arrival\r\n",
}
FOUND = {
    "Refund_not_showing_up": ("Refund\u2028me",),
    "card_arrival": ("Where is it?", " Still waiting ", "No card"),
    "lost_card": ('\nMy card, "lost", £1\n\n',),
}
PACKED = "intents/banking77.zip"


def test_both_ways_lead_to_the_same_intents(tmp_path: Path) -> None:
    source = small(banking77.SOURCE, FILES, tmp_path)
    assert from_site(source, tmp_path, classes_of) == FOUND
    content = zipped({"categories.json": b"[]", **FILES})
    found = from_packed(source, {PACKED: content}, tmp_path, classes_of)
    assert found == FOUND
    assert list(found) == list(FOUND)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    source = small(banking77.SOURCE, FILES, tmp_path)
    content = damaged(zipped(FILES))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\r\nhello,lost_card\r\n",
        b"text,category\r\nhello\r\n",
        b"text,category\r\nhello,you,lost_card\r\n",
        b'text,category\r\n"hello,lost_card\r\n',
        b"text,category\r\nh\xe9llo,lost_card\r\n",
    ],
)
def test_the_file_that_is_laid_out_otherwise_is_named(
    tmp_path: Path, content: bytes
) -> None:
    source = small(banking77.SOURCE, FILES, tmp_path)
    (tmp_path / "site" / "test.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"test\.csv is damaged"):
        from_site(source, tmp_path, classes_of)


@pytest.mark.needs_data("banking77")
@pytest.mark.usefixtures("cache")
def test_the_published_intents() -> None:
    tests = set()
    for split in range(1, 6):
        parts = load("banking77", split=split)
        assert [len(part) for part in parts] == [25, 25, 27]
        assert len({name for part in parts for name in part.names}) == 77
        sizes = [len(own) for part in parts for own in part.sentences]
        assert (sum(sizes), min(sizes), max(sizes)) == (13_083, 75, 227)
        tests.add(parts.test.names)
    assert len(tests) == 5
    # of labels.*.txt in data/BANKING77/few_shot/01 and 05
    train, val, test = load("banking77")
    assert {"age_limit", "top_up_failed", "pin_blocked"} <= set(train.names)
    assert {"reverted_card_payment?", "exchange_rate"} <= set(val.names)
    assert {"card_arrival", "Refund_not_showing_up"} <= set(test.names)
    assert "visa_or_mastercard" in load("banking77", split=5).train.names
    own = test.sentences[test.names.index("card_arrival")]
    assert own[0] == "I am still waiting on my card?"
    assert own[-40] == "How do I locate my card?"  # the first of test.csv
    with pytest.raises(UserError, match="split is 0: choose from 1 to 5"):
        load("banking77", split=0)
