"""The figures that move: opened from disk, used as a reader does, read from their SVG.

What they should show is computed here by the library and by what draws the still
pictures, from the values at which the sliders stand.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reptile_book import animation, loop_control, rest_control
from reptile_lib import Quadratics
from tests.rendered.book import HTML, OPENED, name, parsed, value
from tests.rendered.browser import Browser

CALM: dict[str, Any] = {"prefers_reduced_motion": "reduce"}
MODES = ("light", "dark")
LAST = 24
"""Meta-steps of the loops."""


@dataclass
class Figure:
    """A figure on a page: how to find its parts, and where its plane lies."""

    browser: Browser
    across: tuple[float, float]
    up: tuple[float, float]

    def points(self, selector: str) -> list[tuple[float, float]]:
        """Return the coordinates of all circles that are so selected."""
        found = self.browser.evaluate(
            f"[...document.querySelectorAll('.moving-stage {selector}')].map(c => {{"
            " const box = c.ownerSVGElement.viewBox.baseVal;"
            " const m = c.parentNode.matches('.moving-handle')"
            "   ? c.parentNode.transform.baseVal.consolidate().matrix : {e: 0, f: 0};"
            " return [(+c.getAttribute('cx') + m.e) / box.width,"
            "         1 - (+c.getAttribute('cy') + m.f) / box.height]; })"
        )
        (left, right), (low, high) = self.across, self.up
        return [(left + x * (right - left), low + y * (high - low)) for x, y in found]

    def point(self, selector: str) -> Tensor:
        (found,) = self.points(selector)
        return torch.tensor(found, dtype=torch.float64)

    def words(self) -> str:
        return str(self.browser.of(".moving-words", "it.textContent"))

    def button(self, text: str) -> str:
        """Return a selector of the button that says so."""
        self.browser.evaluate(
            "for (const b of document.querySelectorAll('.moving-buttons button'))"
            " b.dataset.text = b.textContent"
        )
        return f".moving-buttons [data-text='{text}']"

    def slider(self, symbol: str) -> str:
        """Return a selector of the slider whose label begins so."""
        self.browser.evaluate(
            "for (const l of document.querySelectorAll('.moving-slider label'))"
            " l.nextElementSibling.dataset.symbol = l.textContent[0]"
        )
        return f".moving-slider [data-symbol='{symbol}']"

    def value(self, symbol: str) -> float:
        return float(self.browser.of(self.slider(symbol), "it.value"))

    def use(self, selector: str, means: str) -> None:
        """Use a button by mouse, touch or keyboard."""
        if means == "keyboard":
            self.browser.focus(selector)
            self.browser.press("Enter")
        else:
            {"mouse": self.browser.click, "touch": self.browser.tap}[means](selector)

    def move(self, symbol: str, to: float, means: str) -> float:
        """Move a slider to about this value; return where it stands."""
        selector = self.slider(symbol)
        if means != "keyboard":
            return self.browser.slide(selector, to, touch=means == "touch")
        self.browser.focus(selector)
        step, here = float(self.browser.of(selector, "it.step")), self.value(symbol)
        key = "ArrowRight" if to > here else "ArrowLeft"
        self.browser.press(*[key] * round(abs(to - here) / step))
        return self.value(symbol)


# ---- All figures ------------------------------------------------------------------

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
    assert [u for u in browser.asked() if not u.startswith(("file:", "data:"))] == []
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


@pytest.mark.parametrize("mode", MODES)
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


# ---- The loop: preface and 1.1 -------------------------------------------------------

Rounds = Callable[[int, float, int, float], list[Tensor]]


def of_arcs(count: int, epsilon: float, k: int, alpha: float) -> list[Tensor]:
    start = animation.START.double()
    steps = animation.meta_steps(count, epsilon, k, alpha, start)
    return [torch.cat([path, phi[None]]) for _, path, phi in steps]


def of_bowls(count: int, epsilon: float, k: int, alpha: float) -> list[Tensor]:
    steps = loop_control.meta_steps(count, epsilon, alpha, k)
    return [torch.cat([inner, phi[None]]).double() for _, inner, phi in steps]


LOOPS: dict[str, dict[str, Any]] = {
    "arcs": {
        "page": "intro.html",
        "across": animation.ACROSS,
        "up": animation.UP,
        "rounds": of_arcs,
        "start": animation.START.double(),
        "shown": animation.SHOWN,
        "settings": {"ε": animation.EPSILON, "k": 5, "α": animation.ALPHA},
    },
    "bowls": {
        "page": "chapters/01-overview/definition.html",
        "across": (-0.3, 3.5),
        "up": (-0.4, 3.0),
        "rounds": of_bowls,
        "start": loop_control.START.double(),
        "shown": 4,
        "settings": {"ε": 0.4, "k": 6, "α": 0.45},
    },
}
each_loop = pytest.mark.parametrize("scene", LOOPS)
each_means = pytest.mark.parametrize("means", ["mouse", "touch", "keyboard"])


def opened_loop(browser: Browser, scene: str, **media: Any) -> Figure:
    told = LOOPS[scene]
    browser.open((HTML / told["page"]).as_uri(), 800, touch=True, **media)
    return Figure(browser, told["across"], told["up"])


def rounds(figure: Figure, scene: str, count: int) -> list[Tensor]:
    """Compute the first rounds as the sliders stand: inner loop [k + 1, 2], then φ."""
    epsilon, k, alpha = (figure.value(symbol) for symbol in "εkα")
    make: Rounds = LOOPS[scene]["rounds"]
    return make(count, epsilon, int(k), alpha)


def near(found: Tensor, wanted: Tensor, figure: Figure) -> bool:
    return bool((found - wanted).abs().max() < 1e-5 * (figure.across[1]))


@each_loop
def test_a_loop_begins_as_its_still_picture(browser: Browser, scene: str) -> None:
    figure, told = opened_loop(browser, scene, **CALM), LOOPS[scene]
    assert {s: figure.value(s) for s in "εkα"} == told["settings"]
    wanted = rounds(figure, scene, told["shown"])[-1][-1]
    assert near(figure.point(".m-phi"), wanted, figure)
    assert not near(wanted, told["start"], figure)


@each_loop
@each_means
def test_buttons_of_a_loop(browser: Browser, scene: str, means: str) -> None:
    figure, start = opened_loop(browser, scene, **CALM), LOOPS[scene]["start"]
    figure.use(figure.button("Start again"), means)
    assert near(figure.point(".m-phi"), start, figure)
    (first, *_, last) = wanted = rounds(figure, scene, LAST)
    k = len(first) - 2

    figure.use(figure.button("One step"), means)
    dots = torch.tensor(figure.points("g > circle:not(.m-phi, .m-start)")).double()
    assert near(dots[-1], first[1], figure)
    assert f"Inner step 1 of {k}" in figure.words()
    for _ in range(k - 1):
        figure.use(figure.button("One step"), means)
    dots = torch.tensor(figure.points("g > circle:not(.m-phi, .m-start)")).double()
    assert near(dots[-k:], first[1:-1], figure)
    assert near(figure.point(".m-phi"), start, figure)  # it waits for the outer step
    figure.use(figure.button("One step"), means)
    assert near(figure.point(".m-phi"), first[-1], figure)
    assert "Meta-step 1" in figure.words()
    assert "forgotten" in figure.words()

    for _ in range(LAST - 1):
        figure.use(figure.button("Next task"), means)
    assert near(figure.point(".m-phi"), last[-1], figure)
    hops = [(one[-1] - one[0]).norm().item() for one in wanted[-6:]]
    assert f"goes on hopping, lately by up to {max(hops):.2f}" in figure.words()
    assert browser.of(figure.button("Next task"), "it.disabled")


@each_loop
@each_means
def test_sliders_of_a_loop(browser: Browser, scene: str, means: str) -> None:
    figure = opened_loop(browser, scene, **CALM)
    count, before = LOOPS[scene]["shown"], figure.point(".m-phi")
    for symbol, to in (("ε", 0.8), ("k", 2), ("α", 0.6), ("ε", 0), ("ε", 1)):
        stands = figure.move(symbol, to, means)
        assert stands == pytest.approx(to, abs=0.051)
        now, wanted = figure.point(".m-phi"), rounds(figure, scene, count)[-1][-1]
        assert near(now, wanted, figure), symbol
        assert not near(now, before, figure)
        assert figure.words().startswith(f"{symbol} = ")
        before = now
    assert "jumps all the way" in figure.words()


@each_loop
def test_no_values_break_a_loop(browser: Browser, scene: str) -> None:
    figure = opened_loop(browser, scene, **CALM)
    for _ in range(LAST):
        figure.use(figure.button("Next task"), "mouse")
    out = []
    for keys in product(("Home", "End"), repeat=3):
        for symbol, key in zip("εkα", keys, strict=True):
            browser.focus(figure.slider(symbol))
            browser.press(key)
        drawn = browser.of(".moving-stage svg", "it.outerHTML")
        assert not re.search("NaN|Infinity|e\\+", drawn)
        phi = rounds(figure, scene, LAST)[-1][-1]
        (left, right), (low, high) = figure.across, figure.up
        inside = left <= phi[0] <= right and low <= phi[1] <= high
        said = "φ has left the picture" in figure.words()
        assert said is not bool(inside), (keys, figure.words())
        out.append(said)
    assert set(out) == {True, False}
    assert browser.errors() == []


@each_loop
def test_play_and_pause(browser: Browser, scene: str) -> None:
    figure = opened_loop(browser, scene)
    figure.use(figure.button("Start again"), "mouse")
    start = figure.point(".m-phi")
    figure.use(figure.button("Play"), "mouse")
    browser.evaluate(
        "new Promise(done => { const x = () => document.querySelector('.m-phi')"
        ".getAttribute('cx'); const first = x(); const look = () =>"
        " x() === first ? requestAnimationFrame(look) : done(); look(); })"
    )
    assert (figure.point(".m-phi") - start).norm() > 0
    figure.use(figure.button("Pause"), "mouse")
    rest = figure.point(".m-phi")
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    assert torch.equal(figure.point(".m-phi"), rest)


def test_it_starts_by_itself_unless_asked_for_less_motion(browser: Browser) -> None:
    opened_loop(browser, "arcs")
    assert browser.of(".moving-buttons button", "it.textContent") == "Pause"
    figure = opened_loop(browser, "arcs", **CALM)
    assert browser.of(".moving-buttons button", "it.textContent") == "Play"
    assert near(
        figure.point(".m-phi"),
        rounds(figure, "arcs", animation.SHOWN)[-1][-1],
        figure,
    )


# ---- 3.3: where φ comes to rest ------------------------------------------------------

H = torch.tensor(
    [[[1.8, 0.4], [0.4, 0.5]], [[0.3, 0], [0, 1]], [[0.5, -0.2], [-0.2, 0.4]]]
)
MINIMA = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]])
HANDLES = [f".moving-handle.{colour} .m-dot" for colour in ("blue", "red", "green")]


def opened_rest(browser: Browser) -> Figure:
    page = HTML / "chapters/03-algorithm/convergence.html"
    browser.open(page.as_uri(), 800, touch=True, **CALM)
    return Figure(browser, rest_control.ACROSS, rest_control.UP)


def check_rest(figure: Figure, minima: Tensor) -> None:
    """Compare the picture and the words with the library, as the sliders stand."""
    bowls = Quadratics(H.double(), minima.double())
    alpha, k = figure.value("α"), int(figure.value("k"))
    at = rest_control.starts(bowls, alpha, k)
    assert torch.allclose(figure.point(".m-rest"), at.rest.double(), atol=1e-5)
    walk = torch.tensor(figure.points(".m-walk"), dtype=torch.float64)
    assert torch.allclose(walk, rest_control.walk(bowls, alpha).double(), atol=1e-5)
    end = figure.point(".m-end")  # drawn at random: near the place where it rests
    assert (end - at.rest).norm() < 0.25
    words = figure.words()
    for phi, of in ((at.rest, "φ*"), (at.joint, "the minimum"), (at.best, "the best")):
        loss = rest_control.loss_after(phi, bowls, alpha, k)
        told = f"{loss:.3f}" if loss >= 0.001 else "below 0.001"
        assert f"{told} from {of}" in words
    far = (at.rest - at.joint).norm(), (at.rest - minima.double().mean(0)).norm()
    assert f"{far[0]:.2f} from the minimum" in words
    assert f"{far[1]:.2f} from the mean" in words


@each_means
def test_sliders_move_where_phi_rests(browser: Browser, means: str) -> None:
    figure = opened_rest(browser)
    check_rest(figure, MINIMA)
    for symbol, to in (("k", 12), ("α", 0.2), ("k", 1), ("α", 1.0), ("k", 60)):
        before = figure.point(".m-rest")
        assert figure.move(symbol, to, means) == pytest.approx(to, abs=1)
        assert not torch.equal(figure.point(".m-rest"), before) or (symbol, to) == (
            "α",
            1,
        )
        check_rest(figure, MINIMA)
    figure.use(figure.button("Start again"), means)
    assert (figure.value("k"), figure.value("α")) == (5, 0.5)
    check_rest(figure, MINIMA)


@each_means
@pytest.mark.parametrize("bowl", range(3))
def test_bowls_can_be_dragged(browser: Browser, means: str, bowl: int) -> None:
    figure, minima = opened_rest(browser), MINIMA.clone()
    handle = HANDLES[bowl].removesuffix(" .m-dot")
    if means == "keyboard":
        browser.focus(handle)
        browser.press("ArrowLeft", "ArrowLeft", "ArrowDown")
        minima[bowl] += torch.tensor([-0.2, -0.1])
    else:
        pixels = browser.of(".moving-stage svg", "it.getBoundingClientRect().width")
        scale = (figure.across[1] - figure.across[0]) / pixels
        drag = browser.drag if means == "mouse" else browser.swipe
        drag(handle, (-30, 20))
        minima[bowl] += torch.tensor([-30 * scale, -20 * scale])
    found = torch.stack([figure.point(handle) for handle in HANDLES])
    # the plane's height is rounded to a pixel
    assert torch.allclose(found, minima.double(), atol=5e-3)
    check_rest(figure, found)
    told = browser.of(handle, "it.getAttribute('aria-valuetext')")
    assert told.startswith(f"{found[bowl, 0]:.2f}".replace("-", "−"))
    figure.use(figure.button("Start again"), "mouse")
    check_rest(figure, MINIMA)


def test_bowls_stay_in_the_picture(browser: Browser) -> None:
    figure = opened_rest(browser)
    browser.drag(".moving-handle.blue", (900, -900))
    x, y = figure.points(HANDLES[0])[0]
    assert figure.across[1] - 0.5 < x < figure.across[1]
    assert figure.up[1] - 0.5 < y < figure.up[1]
