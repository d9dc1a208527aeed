"""The built book, as its tests read it; without one they are skipped."""

import os
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build/html"

if not (HTML / "index.html").exists():
    if os.environ.get("REPTILE_REQUIRE_BOOK") == "1":
        raise RuntimeError("the book is not built")
    pytest.skip("the book is not built: make book", allow_module_level=True)

PAGES = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.parts)
OPENED = [p for p in PAGES if 'http-equiv="Refresh"' not in p.read_text("utf-8")]
ARTICLES = [p for p in OPENED if p.name != "search.html"]


def name(path: Path) -> str:
    return str(path.relative_to(HTML))


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def value(tag: Tag, key: str) -> str:
    """Return an attribute, empty if it is not there; one of several words is joined."""
    found = tag.get(key) or ""
    return found if isinstance(found, str) else " ".join(found)


def article(path: Path) -> Tag:
    """Return a page without what stands around its text."""
    found = parsed(path).find("article", class_="bd-article")
    assert isinstance(found, Tag), name(path)
    return found
