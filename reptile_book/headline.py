"""The preface's table: chance, untrained, Reptile here, Reptile in the paper."""

from pathlib import Path

from reptile_book import results
from reptile_book.rows import SHOTS
from reptile_lib.storage.files import written_whole

ROWS = {"omniglot-5way": "Omniglot", "glyphs-5way": "glyphs"}
PROTOCOL = "non_transductive"
CHANCE = 20.0  # % of five classes


def write(folder: Path) -> None:
    """Write `headline.md`."""
    with written_whole(folder / "headline.md") as temporary:
        temporary.write_text(headline(folder), encoding="utf-8")


def headline(folder: Path) -> str:
    """Make a table: a line a data set and number of examples."""
    head = "five new classes", "chance", "untrained", "Reptile", "published"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row, name in ROWS.items():
        for shots in SHOTS:
            ours = [
                results.measured(folder, which, shots, PROTOCOL)
                for which in (f"{row}-untrained", row)
            ]
            shown = [str(score or results.DASH) for score in ours]
            paper = results.published(row, shots, PROTOCOL)
            cells = [f"{name}, {shots}-shot", f"{CHANCE:.0f}", *shown, paper]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
