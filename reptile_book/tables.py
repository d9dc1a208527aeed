"""Tables of results: real tables, which scroll on a phone instead of being cut."""

from collections.abc import Sequence

from IPython.display import HTML, display
from tabulate import tabulate

Entry = str | int | float


def show(rows: Sequence[Sequence[Entry]], headers: Sequence[str]) -> None:
    """Show rows of text and numbers under headers; numbers stand at the right.

    Numbers are shown as they are: format them first, `f"{loss:.2f}"`, where digits
    matter.
    """
    table = tabulate(rows, headers, tablefmt="html", disable_numparse=False)
    display(HTML(f'<div class="results">{table}</div>'))  # type: ignore[no-untyped-call]
