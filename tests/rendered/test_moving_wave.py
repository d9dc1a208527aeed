"""The figure of 1.2 that moves: every control is used, and what it shows is compared.

The library adapts the same networks to the points that are seen in the picture.
"""

import json
from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor

from reptile_book import weights
from reptile_book.wave_control import LAST_STEP, Fit, curve, fit
from reptile_lib import Sine, adapt, draw, sgd
from reptile_lib.learner import MetaLearner
from reptile_lib.tasks import Batch, Episodes
from tests.kit import start_of_the_figure
from tests.rendered.book import HTML
from tests.rendered.browser import Browser
from tests.rendered.figure import FORMULAS

PAGE = HTML / "chapters/01-overview/motivation.html"
STAGE = "figure.moving-wave .moving-stage"
SLIDER = f"{STAGE} input[type=range]"
GRID = torch.linspace(-5, 5, 100, dtype=torch.float64)
STORED = weights.read("sine")
SCREEN = ((-5.5, 5.5), (-5.6, 5.6)), ((-4.2, 33), (-0.36, 1.7))
"""What the two pictures show, across and upwards."""

each_means = pytest.mark.parametrize("means", ["mouse", "touch", "keyboard"])


@cache
def learner(start: str) -> MetaLearner:
    return start_of_the_figure(start)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Compare what was read from a picture, which has float32."""
    return torch.allclose(found, wanted.double(), rtol=0, atol=1e-4)


@dataclass
class Wave:
    """A wave and what the figure shows of it."""

    browser: Browser
    amplitude: float
    phase: float
    known: tuple[Tensor, float, dict[str, tuple[Fit, Tensor]]] | None = None

    def y(self, x: Tensor) -> Tensor:
        return self.amplitude * torch.sin(x + self.phase)

    def read(self, selector: str, picture: int = 0) -> Tensor:
        """Return the coordinates of a line or of handles, [points, 2]."""
        found = self.browser.evaluate(
            f"[...document.querySelectorAll('{STAGE} {selector}')].map(it => it.points"
            " ? [...it.points].map(p => [p.x, p.y])"
            " : (m => [[m.e, m.f]])(it.transform.baseVal.consolidate().matrix)).flat()"
        )
        svg = f"{STAGE} .moving-pictures > svg:nth-of-type({picture + 1})"
        width, height = self.browser.of(
            svg, "(b => [b.width, b.height])(it.viewBox.baseVal)"
        )
        (left, right), (low, high) = SCREEN[picture]
        x, y = torch.tensor(found, dtype=torch.float64).unbind(1)
        across = left + x / width * (right - left)
        return torch.stack([across, high - y / height * (high - low)], 1)

    def points(self) -> Tensor:
        return self.read(".moving-handle")

    def words(self) -> str:
        return str(self.browser.of(f"{STAGE} .moving-words", "it.textContent"))

    def settle(self) -> None:
        """Wait for the lines of the lower picture, which come one by one."""
        self.browser.evaluate(
            "new Promise(done => { const look = () => document.querySelector("
            f"'{STAGE} polyline[opacity=\"0.3\"], {STAGE} td:empty')"
            " ? requestAnimationFrame(look) : done(); look(); })"
        )

    def fits(self) -> dict[str, tuple[Fit, Tensor]]:
        """Adapt from each start to the points that are seen.

        With each fit comes the error on the points after 0, 1, ... steps.
        """
        now = self.points(), self.amplitude
        if not (self.known and self.known[1] == now[1] and near(self.known[0], now[0])):
            x, y = (part[None, :, None] for part in now[0].unbind(1))
            query = Batch(GRID[None, :, None], self.y(GRID)[None, :, None])
            task = Episodes(Batch(x, y), query)
            rate, order = STORED["rate"], torch.arange(10).expand(1, LAST_STEP + 1, -1)
            found = {}
            for start in weights.STARTS:
                it = learner(start)
                told = adapt(it.kernel, it.phi, task.support, order, sgd(rate))
                found[start] = fit(it, task, rate), told.losses[0]
            self.known = *now, found
        return self.known[2]

    def check(self, start: str, steps: int) -> dict[str, Fit]:
        """Compare all that is shown with the library."""
        self.settle()
        browser, fits = self.browser, self.fits()
        found = {name: one for name, (one, _) in fits.items()}
        assert browser.of(f"{STAGE} input:checked", "it.value") == start
        assert browser.of(SLIDER, "+it.value") == steps
        answer = torch.stack([GRID, found[start].answers[steps]], 1)
        assert near(self.read("svg:nth-of-type(1) .m-answer"), answer)
        truth = torch.stack([GRID, self.y(GRID)], 1)
        assert near(self.read(".m-wide"), truth)

        zero, steps_taken = self.y(GRID).square().mean(), torch.arange(LAST_STEP + 1)
        lines = self.read("svg:nth-of-type(2) polyline", 1).view(3, LAST_STEP + 1, 2)
        for name, line in zip(weights.STARTS, lines, strict=True):
            told = torch.stack([steps_taken, found[name].losses / zero], 1)
            assert near(line, told)

        rows = browser.evaluate(
            f"[...document.querySelectorAll('{STAGE} tbody tr')].map(row =>"
            " [row.className, ...[...row.querySelectorAll('td')]"
            ".map(cell => +cell.textContent)])"
        )
        for name, (marked, on_wave, on_points) in zip(fits, rows, strict=True):
            assert (marked == "moving-chosen") is (name == start)
            wanted = found[name].losses[steps].item(), fits[name][1][steps].item()
            assert (on_wave, on_points) == pytest.approx(wanted, abs=0.0051)
        loss = found[start].losses[steps]
        assert f"error {loss:.2f} on the wave" in self.words()
        return found


def opened(browser: Browser, width: int = 1280) -> Wave:
    browser.open(PAGE.as_uri(), width, touch=True, blocked=FORMULAS)
    wave = Wave(browser, STORED["wave"]["amplitude"], STORED["wave"]["phase"])
    wave.settle()
    return wave


def use(browser: Browser, selector: str, means: str) -> None:
    if means == "keyboard":
        browser.focus(selector)
        browser.press(" ")
    else:
        (browser.click if means == "mouse" else browser.tap)(selector)


def button(number: int) -> str:
    """Return a selector: 1 new wave, 2 new points, 3 start again."""
    return f"{STAGE} .moving-buttons button:nth-of-type({number})"


def test_it_begins_with_the_wave_of_the_page(browser: Browser) -> None:
    wave = opened(browser)
    x, y = curve(draw(Sine(points=10)).support)
    assert near(wave.points(), torch.stack([x, y], 1))
    assert torch.allclose(wave.y(x), y, atol=1e-4)
    found = wave.check("random", 8)
    assert found["reptile"].losses[8] < 0.1 * found["joint"].losses[8]
    assert browser.errors() == []


@each_means
def test_steps(browser: Browser, means: str) -> None:
    wave, seen = opened(browser), set()
    for keys, to in ((["Home"], 0), (["ArrowRight"], 1), (["End"], LAST_STEP)):
        if means == "keyboard":
            browser.focus(SLIDER)
            browser.press(*keys)
            steps = to
        else:
            steps = round(browser.slide(SLIDER, to, touch=means == "touch"))
            assert abs(steps - to) <= 1
        wave.check("random", steps)
        seen.add(steps)
        told = {0: "before any step", 1: "after 1 step"}
        assert told.get(steps, f"after {steps} steps") in wave.words()
    assert len(seen) >= 2


@each_means
def test_starts(browser: Browser, means: str) -> None:
    wave = opened(browser)
    for start in ("joint", "reptile", "random"):
        if means == "keyboard":
            browser.focus(f"{STAGE} input:checked")
            browser.press("ArrowRight")
        else:
            use(browser, f"{STAGE} input[value={start}]", means)
        wave.check(start, 8)
    assert "random weights" in wave.words()


@each_means
def test_points_can_be_moved(browser: Browser, means: str) -> None:
    wave = opened(browser)
    use(browser, f"{STAGE} input[value=reptile]", "mouse")
    before, errors = wave.points(), wave.check("reptile", 8)
    which = 3  # it stands apart
    assert (before - before[which]).abs().sum(1).sort().values[1] > 1
    handle = f'{STAGE} .moving-handle[aria-label="point {which + 1}"]'
    if means == "keyboard":
        browser.focus(handle)
        browser.press(*["ArrowUp"] * 9, "ArrowLeft")
        moved = torch.tensor([-0.1, 0.9])
    else:
        pixels = browser.of(f"{STAGE} svg", "it.getBoundingClientRect().width")
        (browser.drag if means == "mouse" else browser.swipe)(handle, (30, -40))
        moved = torch.tensor([30 * 11 / pixels, 40 * 11.2 / 300 * 560 / pixels])
    now = wave.points()
    change = torch.zeros(10, 2, dtype=torch.float64)
    change[which] = moved.double()
    assert torch.allclose(now - before, change, atol=0.03)
    after = wave.check("reptile", 8)
    assert after["reptile"].losses[8] != errors["reptile"].losses[8]
    x, y = (f"{v:.2f}".replace("-", "−") for v in now[which].tolist())
    spoken = browser.of(handle, "it.getAttribute('aria-valuetext')")
    assert spoken == f"{x} across, {y} up"


@each_means
def test_new_waves_and_points(browser: Browser, means: str) -> None:
    wave = opened(browser)
    numbers = [0.05 + 0.09 * ((7 * i) % 11) for i in range(22)]
    sent = json.dumps(numbers)
    browser.evaluate(f"(numbers => Math.random = () => numbers.shift())({sent}), 0")
    a, b, *rest = numbers
    use(browser, button(1), means)
    wave.amplitude, wave.phase = 0.1 + 4.9 * a, 2 * torch.pi * b
    for xs in (rest[:10], rest[10:]):
        x = 10 * torch.tensor(xs, dtype=torch.float64) - 5
        points = torch.stack([x, wave.y(x)], 1)
        assert near(wave.points(), points)
        wave.check("random", 8)
        use(browser, button(2), means)
    use(browser, f"{STAGE} input[value=joint]", "mouse")
    use(browser, button(3), means)
    again = Wave(browser, STORED["wave"]["amplitude"], STORED["wave"]["phase"])
    again.check("random", 8)


def test_joint_training_is_shown_to_be_the_mean_of_waves(browser: Browser) -> None:
    wave = opened(browser)
    others = f"{STAGE} g:has(polyline)"
    visible = "getComputedStyle(it).visibility"
    for start, key in product(weights.STARTS, ("Home", "End")):
        use(browser, f"{STAGE} input[value={start}]", "mouse")
        browser.focus(SLIDER)
        browser.press(key)
        expected = "visible" if (start, key) == ("joint", "Home") else "hidden"
        assert browser.of(others, visible) == expected
        assert ("mean of all waves. Each" in wave.words()) is (expected == "visible")
    lines = wave.read("g polyline").view(-1, 100, 2)[..., 1]
    assert len(lines) > 10
    assert lines.abs().max() > 3
    assert lines.mean(0).abs().max() < 1e-5


def test_no_points_break_it(browser: Browser) -> None:
    wave = opened(browser)
    browser.evaluate("Math.random = () => 0.999")  # the highest wave, in one place
    use(browser, button(1), "mouse")
    for i in (1, 2):
        browser.focus(f'{STAGE} .moving-handle[aria-label="point {i}"]')
        browser.evaluate(
            "for (let i = 0; i < 21; i++) document.activeElement.dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'ArrowUp', shiftKey: true}))"
        )
    wave.settle()
    y = wave.points()[:, 1]
    assert y.max() > 4.9
    assert y.min() < -4.7
    for start in weights.STARTS:
        use(browser, f"{STAGE} input[value={start}]", "mouse")
        drawn = browser.of(STAGE, "it.outerHTML")
        assert not any(bad in drawn for bad in ("NaN", "Infinity", "undefined"))
    assert browser.errors() == []


def test_without_its_weights_the_still_picture_comes_back(browser: Browser) -> None:
    browser.open(PAGE.as_uri(), 1280, blocked="*weights/sine.js*")
    browser.frame()
    height = browser.of("figure.moving-wave img", "it.getBoundingClientRect().height")
    assert height > 100
    assert not browser.evaluate(f"document.querySelectorAll('{STAGE}').length")
    assert any("cannot be read" in error for error in browser.errors())
