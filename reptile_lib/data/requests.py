"""What people ask an assistant for: an embedded set of sentences of our own."""

from collections import defaultdict
from pathlib import Path

from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.texts import Texts

ABOUT = About(
    "40 kinds of requests with 20 sentences each, made from patterns; 24 kinds for"
    " training, 6 for validation, 10 for testing",
    "MIT, as the library",
    "this library",
    "embedded",
)
FILE = Path(__file__).with_name("requests.txt")


def load() -> Parts[Texts]:
    """Return the requests: 20 sentences of each kind, names "travel/taxi".

    They are made from four patterns per kind (`reptile_book.make_requests`); sentences
    of two patterns share few words.
    """
    parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in FILE.read_text("utf-8").splitlines():
        part, name, sentence = line.split("\t")
        parts[part][name].append(sentence)
    found = (parts[name] for name in Parts._fields)
    return Parts(*(Texts(tuple(map(tuple, own.values())), tuple(own)) for own in found))
