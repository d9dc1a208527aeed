"""Write the embedded sentences: ``python -m reptile_book.make_requests``.

`requests.txt` beside this file has four patterns for each class. Twenty different
sentences of a class are drawn from them, as many of each pattern as there can be, with
Python's generator at seed 0. They stand in `reptile_lib/data/requests.txt`, a line
each: part, class, sentence.
"""

import random
import re
import sys
from itertools import product
from pathlib import Path

from reptile_lib.data.requests import FILE
from reptile_lib.storage.files import written_whole

PATTERNS = Path(__file__).with_name("requests.txt")
EACH = 20


def parsed(text: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return lists of words by name, and patterns by "part class"."""
    words: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        for line in lines:
            name, colon, values = line.partition(": ")
            if colon:
                words[name] = values.split("|")
        if lines and ": " not in lines[0]:
            classes[lines[0]] = lines[1:]
    return words, classes


def expanded(pattern: str, words: dict[str, list[str]]) -> list[str]:
    """Return all sentences of a pattern.

    >>> expanded("{who} (sings|hums)", {"who": ["Ann", "Bo"]})
    ['Ann sings', 'Ann hums', 'Bo sings', 'Bo hums']
    """
    pieces = re.split(r"\{(\w+)\}|\(([^)]*)\)", pattern)
    choices = []
    for i, piece in enumerate(pieces):
        if piece is not None:
            kinds = [piece], words.get(piece, []), piece.split("|")
            choices.append(kinds[i % 3])
    return ["".join(chosen) for chosen in product(*choices)]


def sentences(patterns: list[str], words: dict[str, list[str]]) -> list[str]:
    """Return so many of a class, those of a pattern together; the same in each call."""
    chance = random.Random(0)
    all_of_each = [expanded(pattern, words) for pattern in patterns]
    pools = [chance.sample(own, len(own)) for own in all_of_each]
    chosen: list[set[str]] = [set() for _ in pools]
    turn = 0
    while sum(map(len, chosen)) < EACH:
        if not any(pools):
            raise ValueError(f"no {EACH} sentences in {patterns}")
        if pool := pools[turn % len(pools)]:
            chosen[turn % len(pools)].add(pool.pop())
        turn += 1
    return [sentence for own in chosen for sentence in sorted(own)]


def made(text: str) -> str:
    """Return the file that the library reads."""
    words, classes = parsed(text)
    lines = [
        "\t".join([*name.split(), sentence])
        for name, patterns in classes.items()
        for sentence in sentences(patterns, words)
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file."""
    with written_whole(FILE) as temporary:
        temporary.write_text(made(PATTERNS.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
