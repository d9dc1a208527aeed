"""What holds for every figure that moves: opened from disk, on paper, on a phone."""

import re
from pathlib import Path

import pytest

from tests.rendered.book import HTML, OPENED, name, parsed, value
from tests.rendered.browser import Browser
from tests.rendered.figure import CALM

MOVING = [
    (path, next(c for c in value(figure, "class").split() if c.startswith("moving-")))
    for path in OPENED
    for figure in parsed(path).select("figure[class*='moving-']")
]
each_figure = pytest.mark.parametrize(
    ("path", "kind"), MOVING, ids=[kind for _, kind in MOVING]
)


def test_the_figures_are_there() -> None:
    kinds = {kind: name(path) for path, kind in MOVING}
    assert kinds["moving-arcs"] == "intro.html"
    assert kinds["moving-bowls"] == "chapters/01-overview/definition.html"
    assert kinds["moving-wave"] == "chapters/01-overview/motivation.html"
    assert kinds["moving-rest"] == "chapters/03-algorithm/convergence.html"
    assert kinds["moving-draw"] == "chapters/05-applications/images.html"


def shown(browser: Browser, selector: str) -> bool:
    """Say whether anything of it is on the screen or paper."""
    width, height = browser.of(
        selector, "(b => [b.width, b.height])(it.getBoundingClientRect())"
    )
    return bool(width * height > 0)


@each_figure
def test_the_still_picture_stays_on_paper(
    browser: Browser, path: Path, kind: str
) -> None:
    browser.open(path.as_uri(), 1280)
    still, stage = f"figure.{kind} img", f"figure.{kind} .moving-stage"
    assert shown(browser, stage)
    assert not shown(browser, still)
    browser.prefer("print")
    assert shown(browser, still)
    assert not shown(browser, stage)


@each_figure
def test_without_scripts_the_still_picture_stays(
    browser: Browser, path: Path, kind: str
) -> None:
    browser.open(path.as_uri(), 1280, scripts=False)
    assert shown(browser, f"figure.{kind} img")
    assert not browser.evaluate("document.querySelectorAll('.moving-stage').length")


@each_figure
def test_on_a_phone_everything_fits(browser: Browser, path: Path, kind: str) -> None:
    browser.open(path.as_uri(), 390, touch=True, **CALM)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    stage = f"figure.{kind} .moving-stage"
    right = browser.evaluate(
        f"Math.max(...[...document.querySelectorAll('{stage} :is(button, input, output,"
        " svg, p)')].map(e => e.getBoundingClientRect().right))"
    )
    assert right <= 390
    letters = browser.evaluate(
        f"[...document.querySelectorAll('{stage} svg text')].map(t =>"
        " parseFloat(getComputedStyle(t).fontSize) * (m => Math.hypot(m.a, m.b))"
        "(t.getScreenCTM()))"
    )
    assert min(letters) >= 9
    heights = browser.evaluate(
        f"[...document.querySelectorAll('{stage} :is(button, input[type=range])')]"
        ".map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24  # a finger's


@each_figure
def test_nothing_leaves_the_page(browser: Browser, path: Path, kind: str) -> None:
    browser.open(path.as_uri(), 1280)
    browser.middle(f"figure.{kind}")
    browser.frame()
    assert browser.asked()
    own = ("file:", "data:", "blob:")  # a worker is made of a blob, on the page itself
    assert [u for u in browser.asked() if not u.startswith(own)] == []
    assert browser.errors() == []
    scripts = {url.partition("/html/")[2].partition("?")[0] for url in browser.asked()}
    files = [
        HTML / script
        for script in scripts
        if re.match(r"weights/|_static/(moving|reptile)", script)
    ]
    assert files
    assert sum(file.stat().st_size for file in files) <= 700_000


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_stand_out(browser: Browser, mode: str) -> None:
    browser.open((HTML / "intro.html").as_uri(), 1280, prefers_color_scheme=mode)
    hues = ("blue", "orange", "green", "red", "pink", "ink", "faint")
    colours = browser.evaluate(
        "(() => { const e = document.querySelector('.moving-words'); return ["
        "...%s.map(h => `var(--moving-${h})`), 'var(--pst-color-background)']"
        ".map(c => { e.style.color = c; return getComputedStyle(e).color; }); })()"
        .replace("%s", str(list(hues)))
    )  # fmt: skip
    *front, ground = map(luminance, colours)
    assert len(set(front)) == len(hues)
    for hue, light in zip(hues, front, strict=True):
        darker, lighter = sorted((light, ground))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, hue
