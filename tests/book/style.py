"""How a page is written, as far as a machine can tell; rules yield what is wrong."""

import ast
import base64
import re
import struct
from collections.abc import Callable, Iterator

from tests.book.measures import FOLDED, STYLING, Page, bound, draws, used
from tests.book.rules import Json, claims, tags, text

Rule = Callable[[Page], Iterator[str]]

MOST = {"minutes": 15, "words": 1_800, "figures": 5, "claims": 12}
VISIBLE, HIDDEN = 120, 100
"""Lines of code of a page."""
CELL, CELL_WITH_PLOT = 15, 25
"""Lines of a visible cell."""
WIDEST = 5.2 * 110 + 30
"""Pixels of a figure: inches times dots, and the margin that is put around it."""


def page_begins_with_its_answer(page: Page) -> Iterator[str]:
    """Title, question, answer; then what one will be able to do, needs, minutes."""
    first = text(page.nb["cells"][0]["source"])
    head = re.search(
        r"^```\{admonition\}.*\n:class: page-head\n(.*?)^```", first, re.M | re.S
    )
    if not head:
        yield "no box of the class page-head in the first cell"
        return
    before = first[: head.start()]
    if not re.search(r"^\*\*[^*]+\?\*\*$", before, re.M):
        yield "no question, **...?**, before the box"
    for words in ("able to", "You need"):
        if words not in head[1]:
            yield f"the box does not say {words!r}"
    told = re.search(r"(\d+) minutes", head[1])
    if not told or int(told[1]) != page.minutes:
        yield f"the box should say {page.minutes} minutes"


def page_is_short(page: Page) -> Iterator[str]:
    for name, most in MOST.items():
        if (count := getattr(page, name)) > most:
            yield f"{count} {name}, at most {most}"
    for folded, most in ((False, VISIBLE), (True, HIDDEN)):
        if (count := page.lines(folded=folded)) > most:
            yield f"{count} {'folded' if folded else 'visible'} lines, at most {most}"


def cells_are_short(page: Page) -> Iterator[str]:
    for cell in page.code(folded=False):
        source = text(cell["source"])
        count, most = len(source.splitlines()), CELL_WITH_PLOT if draws(cell) else CELL
        if count > most:
            yield f"{count} lines, at most {most}, in the cell {source[:40]!r}"


def visible_code_stands_alone(page: Page) -> Iterator[str]:
    """What a reader sees uses no name that only a folded cell defines."""
    behind: set[str] = set()
    for cell in page.nb["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse(text(cell["source"]))
        if tags(cell) & FOLDED:
            behind |= bound(tree)
            continue
        for name in sorted((used(tree) & behind) - STYLING):
            yield f"a visible cell uses {name!r}, which a folded one defines"
        behind -= bound(tree)


def claims_are_folded(page: Page) -> Iterator[str]:
    for cell in page.nb["cells"]:
        if cell["cell_type"] == "code" and not tags(cell) & FOLDED:
            for call in claims(text(cell["source"])):
                yield f"a visible cell makes the claim {ast.unparse(call)[:60]}"


def figures_have_captions(page: Page) -> Iterator[str]:
    for cell in page.nb["cells"]:
        if cell["cell_type"] == "code" and draws(cell):
            figure = cell["metadata"].get("mystnb", {}).get("figure", {})
            for wanted in ("caption", "name"):
                if not figure.get(wanted):
                    yield f"a figure without {wanted} (metadata: mystnb.figure)"
    for options, rest in re.findall(
        r"\{figure\}[^\n]*\n((?::.*\n)*)\s*([^\n]*)", page.markdown
    ):
        if ":name:" not in options:
            yield "a {figure} without :name:"
        if not rest.strip() or rest.startswith("`"):
            yield "a {figure} without a caption"
    if "{image}" in page.markdown:
        yield "an {image}; a {figure} has a number and a caption"


def figures_fit_a_phone(page: Page) -> Iterator[str]:
    for cell in page.nb["cells"]:
        for output in cell.get("outputs", ()):
            if png := output.get("data", {}).get("image/png"):
                head = base64.b64decode(text(png)[:64])
                (width,) = struct.unpack(">I", head[16:20])
                if width > WIDEST:
                    yield f"a figure of {width} pixels, at most {WIDEST:.0f}"


def results_are_tables(page: Page) -> Iterator[str]:
    """More than two printed lines with two numbers each are a table."""
    number = r"(?<!\w)[-+−]?\d+(?:[.,]\d+)?"
    for cell in page.nb["cells"]:
        for output in cell.get("outputs", ()):
            lines = text(output.get("text", "")).splitlines()
            rows = [line for line in lines if len(re.findall(number, line)) > 1]
            if len(rows) > 2:
                yield f"{len(rows)} printed rows of numbers, such as {rows[0]!r}"


def article_is_no_opponent(page: Page) -> Iterator[str]:
    count = len(re.findall(r"\b[Tt]he (?:Chinese |source )?article\b", page.markdown))
    if count > 1:
        yield f"{count} mentions of the article, at most one"


def page_has_an_end(page: Page) -> Iterator[str]:
    sections = re.findall(r"^## (.+)$", page.markdown, re.M)
    if "What to take away" not in sections:
        yield "no section ## What to take away"
    else:
        closing = page.markdown.partition("## What to take away")[2].partition("\n## ")[
            0
        ]
        points = len(re.findall(r"^- ", closing, re.M))
        if points != 3:
            yield f"{points} points to take away, three are asked for"
    for title in re.findall(r"\{exercise(?:-start)?\}(.*)", page.markdown):
        if not title.strip():
            yield "an exercise without a title"


RULES: list[Rule] = [
    page_begins_with_its_answer,
    page_is_short,
    cells_are_short,
    visible_code_stands_alone,
    claims_are_folded,
    figures_have_captions,
    figures_fit_a_phone,
    results_are_tables,
    article_is_no_opponent,
    page_has_an_end,
]


def used_before_introduced(
    page: Page, known: set[str], glossary: set[str]
) -> Iterator[str]:
    """Yield names and terms that neither this page nor an earlier one explains.

    Args:
        page: the page.
        known: what earlier pages introduce.
        glossary: all its terms.
    """
    here = set(page.introduces)
    met = {*page.names(), *page.terms()}
    for name in sorted(met - known - here):
        yield f"{name!r} is used here and was introduced nowhere"
    for name in sorted(here & known):
        yield f"{name!r} was introduced before"
    for name in sorted(here - met):
        if name in glossary or name not in page.markdown:
            yield f"{name!r} is introduced and not used"


def heads_link_back(first: str, before: set[str]) -> Iterator[str]:
    """Yield links of the box that lead to a page which does not come before.

    Args:
        first: the first cell.
        before: stems of the pages before.
    """
    box = first.partition(":class: page-head")[2]
    need = next((line for line in box.splitlines() if "You need" in line), "")
    for link in re.findall(r"\]\(([^)#]+)\)", need):
        stem = link.rsplit("/", 1)[-1].removesuffix(".md").removesuffix(".ipynb")
        if stem not in before:
            yield f"the box asks for {link}, which does not come before"


def json_page(cells: list[Json], **reptile: object) -> Page:
    """Make a page of cells, for tests."""
    return Page({"cells": cells, "metadata": {"reptile": reptile}})
