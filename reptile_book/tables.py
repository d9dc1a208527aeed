"""Tables of results: real tables, which scroll on a phone instead of being cut."""

import re
from collections.abc import Sequence

from IPython.display import HTML, display
from tabulate import tabulate

Entry = str | int | float


def show(rows: Sequence[Sequence[Entry]], headers: Sequence[str]) -> None:
    """Show rows of text and numbers under headers; numbers stand at the right.

    Numbers are shown as they are: format them first, `f"{loss:.2f}"`, where digits
    matter.
    """
    display(HTML(html(rows, headers)))  # type: ignore[no-untyped-call]


def html(rows: Sequence[Sequence[Entry]], headers: Sequence[str]) -> str:
    """Return the table in a box of the class "results"."""
    columns = zip(*rows, strict=True)
    sides = ["right" if all(map(_number, c)) else "left" for c in columns]
    table = tabulate(
        rows, headers, tablefmt="html", disable_numparse=True, colalign=sides
    )
    return f'<div class="results">{table}</div>'


def _number(entry: Entry) -> bool:
    return re.match(r"[-+−<>]?\s?[\d.]|–?$", str(entry)) is not None
