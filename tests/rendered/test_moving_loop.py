"""The figures of the preface and of 1.1, used as a reader does.

What they should show is computed here by what draws the still pictures, from the values
at which the sliders stand.
"""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from reptile_book import animation, loop_control
from tests.rendered.book import HTML
from tests.rendered.browser import Browser
from tests.rendered.figure import CALM, FORMULAS, Figure, each_means

LAST = 24
"""Meta-steps of the loops."""

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


def opened_loop(browser: Browser, scene: str, **media: Any) -> Figure:
    told = LOOPS[scene]
    page = (HTML / told["page"]).as_uri()
    browser.open(page, 800, touch=True, blocked=FORMULAS, **media)
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


@pytest.mark.parametrize("text", ["Next task", "One step"])
def test_no_press_is_lost(browser: Browser, text: str) -> None:
    """Presses that come while the drawing moves finish the move, and make their own."""
    figure = opened_loop(browser, "bowls")
    figure.use(figure.button("Start again"), "mouse")
    count = {"Next task": 3, "One step": int(figure.value("k")) + 1}[text]
    browser.evaluate(
        f"(async () => {{ for (let i = 0; i < {count}; i++) {{"
        f' document.querySelector("{figure.button(text)}").click();'
        " await new Promise(done => setTimeout(done, 60)); }"
        " await new Promise(done => { const look = () => document.querySelector("
        "'.moving-words').textContent.startsWith('Meta-step') ? done() :"
        " requestAnimationFrame(look); setTimeout(done, 10000); look(); }); })()"
    )
    done = 3 if text == "Next task" else 1
    browser.evaluate("new Promise(done => setTimeout(done, 2500))")
    assert figure.words().startswith(f"Meta-step {done}: ")
    wanted = rounds(figure, "bowls", done)[-1][-1]
    assert near(figure.point(".m-phi"), wanted, figure)


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
