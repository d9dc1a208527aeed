"""The embedded sentences: what the maker makes, in parts that share no class."""

from collections import Counter

from reptile_book import make_requests
from reptile_lib import load
from reptile_lib.data.requests import FILE


def test_the_file_is_what_the_maker_makes() -> None:
    patterns = make_requests.PATTERNS.read_text("utf-8")
    assert make_requests.made(patterns) == FILE.read_text("utf-8")


def test_parts_share_no_class_and_no_sentence() -> None:
    parts = load("requests")
    assert [len(part) for part in parts] == [24, 6, 10]
    names = Counter(name for part in parts for name in part.names)
    texts = Counter(t for part in parts for own in part.sentences for t in own)
    assert max(names.values()) == max(texts.values()) == 1
    assert all(len(own) == 20 for part in parts for own in part.sentences)


def test_each_sentence_is_of_a_pattern_of_its_class() -> None:
    words, classes = make_requests.parsed(make_requests.PATTERNS.read_text("utf-8"))
    for part, own in load("requests")._asdict().items():
        for name, sentences in zip(own.names, own.sentences, strict=True):
            patterns = classes[f"{part} {name}"]
            pools = [{*make_requests.expanded(p, words)} for p in patterns]
            assert all(any(s in pool for pool in pools) for s in sentences), name
            # all patterns of a class are there, as evenly as they allow
            shares = [sum(s in pool for s in sentences) for pool in pools]
            least = [min(5, len(pool)) for pool in pools]
            assert all(a >= b for a, b in zip(shares, least, strict=True)), name
