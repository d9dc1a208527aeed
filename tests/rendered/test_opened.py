"""Every page as a browser shows it: whole, quiet, and open to every reader."""

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.rendered.book import ARTICLES, HTML, OPENED, article, name
from tests.rendered.browser import Browser

# Formulas that were not set, and those that reach out of the screen, but for those in
# what scrolls sideways.
UNSET = """
[...document.querySelectorAll('.math')]
  .filter(math => !math.querySelector('mjx-container')
    || math.querySelector('mjx-merror'))
  .map(math => math.textContent.trim())
"""
CUT = """
[...document.querySelectorAll('mjx-container')]
  .filter(box => !box.closest('.pst-scrollable-table-container'))
  .filter(box => box.firstElementChild.getBoundingClientRect().right > innerWidth)
  .map(box => box.parentElement.textContent.trim())
"""

AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")

# What axe-core finds and is not held against a page: rule, the piece of HTML, reason.
EXCEPT = [
    ("empty-table-header", "<th", "the corner of a table of results has no name"),
    ("definition-list", "<dl>", "how Sphinx breaks a long signature into lines"),
    ("aria-allowed-role", "doc-biblioentry", "docutils gives each source this role"),
    ("aria-deprecated-role", "doc-biblioentry", "the same"),
    ("aria-required-children", "citation-list", "docutils' list of sources"),
]
# MathJax has a tree of its own for each formula, with a spoken one beside it.
OUTSIDE = ["mjx-container"]
# Code is set in the same colours on every page, and so is every table of the index; one
# has enough of them.
WITH_CODE = HTML / "chapters/01-overview/definition.html"
ALIKE = [".highlight pre", ".genindextable ~ .genindextable tbody"]
# What axe is not to look at is taken out meanwhile, which saves it a third of its time.
TAKE_OUT = """
window.taken = [...document.querySelectorAll({})].map(it => [it, [...it.childNodes]]);
for (const [it] of taken) it.replaceChildren('x');
"""
PUT_BACK = "for (const [it, own] of taken) it.replaceChildren(...own)"
# The pages of the API come from one template: of them axe looks at every eighth.
API = [path for path in OPENED if "/api/" in name(path)]
LOOKED_AT = {path for path in OPENED if path not in API} | set(API[::8])


def too_wide(browser: Browser, width: int) -> list[str]:
    """Say what does not fit into a window of this width."""
    wrong = []
    if (wide := browser.evaluate("document.documentElement.scrollWidth")) > width:
        wrong.append(f"{wide} pixels wide on a screen of {width}")
    cut = browser.evaluate(CUT)
    return wrong + [f"does not fit in {width} pixels: {formula}" for formula in cut]


def violations(browser: Browser, *rules: str) -> list[str]:
    """Return what axe-core finds outside of formulas, by these or by all rules."""
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = rules
    found = browser.evaluate(
        f"axe.run({{exclude: {json.dumps(OUTSIDE)}}}, {json.dumps(options)}).then(r =>"
        " r.violations.flatMap(v => v.nodes.map(n =>"
        " [v.id, n.html, n.target.join(' '), n.failureSummary])))"
    )
    return [
        " | ".join([rule, *told])
        for rule, html, *told in found
        if not any(rule == known and piece in html for known, piece, _ in EXCEPT)
    ]


def test_axe_would_notice(browser: Browser) -> None:
    page = "<title>t</title><main><h1>a</h1><p style='color: %23bbb'>pale<img src=''>"
    browser.open(f"data:text/html,<html lang=en>{page}", 800)
    browser.evaluate(AXE)
    found = " ".join(violations(browser))
    assert "color-contrast" in found
    assert "image-alt" in found


@pytest.mark.parametrize("path", OPENED, ids=name)
def test_page_opens_from_disk(browser: Browser, path: Path) -> None:
    browser.open(path.as_uri(), 1280, prefers_reduced_motion="reduce")
    wrong = [u for u in browser.asked() if not u.startswith(("file:", "data:"))]
    assert browser.asked()
    wrong += [f"not set: {formula}" for formula in browser.evaluate(UNSET)]
    wrong += too_wide(browser, 1280)
    if path in LOOKED_AT:
        gone = OUTSIDE if path == WITH_CODE else [*OUTSIDE, *ALIKE]
        browser.evaluate(TAKE_OUT.format(json.dumps(", ".join(gone))))
        browser.evaluate(AXE)
        assert browser.of("html", "it.dataset.theme") == "light"
        wrong += violations(browser)
        browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
        browser.frame()
        assert browser.of("html", "it.dataset.theme") == "dark"
        wrong += violations(browser, "color-contrast")
        browser.evaluate(PUT_BACK)
    browser.resize(375)
    browser.frame()
    wrong += too_wide(browser, 375)
    wrong += browser.errors()
    assert not wrong, "\n".join(wrong)


# ---- Search -----------------------------------------------------------------------


def search(browser: Browser, words: str) -> set[str]:
    """Search the book; return the pages that are found."""
    browser.open((HTML / "search.html").as_uri() + f"?q={quote(words)}", 1280)
    deadline = time.monotonic() + 60
    while not browser.evaluate("document.querySelector('.search-summary').textContent"):
        assert time.monotonic() < deadline, "the search does not end"
        time.sleep(0.1)
    found = browser.evaluate(
        "[...document.querySelectorAll('#search-results li a')].map(a => a.pathname)"
    )
    return {name(Path(unquote(path))) for path in found}


def test_search_finds_what_is_there(browser: Browser) -> None:
    assert "chapters/01-overview/index.html" in search(browser, "Reptile")
    assert "chapters/04-variants/adam.html" in search(browser, "moments")
    assert search(browser, "nosuchword") == set()


PARTS = ["权重", "共享", "收敛", "优化", "切换", "策略", "梯度", "原理", "基础", "框"]


@pytest.mark.parametrize("words", [*PARTS, "权重共享", "模型 切换"])
def test_search_finds_chinese_words(browser: Browser, words: str) -> None:
    wanted = {
        name(path)
        for path in ARTICLES
        if name(path) != "genindex.html"  # made of the pages, and not searched
        and all(word in article(path).get_text() for word in words.split())
    }
    assert wanted
    assert wanted <= search(browser, words)
