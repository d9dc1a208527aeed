"""The figure of 5.1: characters are drawn as a reader does, answers are the library's.

What stands in the fields is read from the SVG, and the library adapts to it. The 200
queries from files are asked in Node (tests/javascript/test_draw.py), a few here.
"""

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from reptile_book import draw_control
from reptile_book.draw_control import CLASSES, DRAWN, QUERY, SIDE
from reptile_lib import FewShotTasks
from reptile_lib.data.omniglot import load
from reptile_lib.rng import TEST, draws
from reptile_lib.tasks import Batch
from tests.kit import one
from tests.rendered.book import HTML
from tests.rendered.browser import Browser
from tests.rendered.figure import CALM, FORMULAS, Figure, each_means

Line = tuple[float, float, float, float]

# Straight lines whose ends the keys reach, in steps of 3 from the middle of a field.
TEE: list[Line] = [(22.5, 28.5, 82.5, 28.5), (52.5, 28.5, 52.5, 85.5)]
ELL: list[Line] = [(28.5, 22.5, 28.5, 82.5), (28.5, 82.5, 79.5, 82.5)]
CROSS: list[Line] = [(22.5, 22.5, 82.5, 82.5), (82.5, 22.5, 22.5, 82.5)]
OTHER_TEE: list[Line] = [(28.5, 34.5, 79.5, 31.5), (55.5, 34.5, 52.5, 79.5)]
OTHER_ELL: list[Line] = [(37.5, 28.5, 34.5, 76.5), (34.5, 76.5, 73.5, 79.5)]


@dataclass
class Fields(Figure):
    """The figure and its four fields."""

    def field(self, name: str) -> str:
        place = list(DRAWN).index(name) + 1
        return f".moving-fields > :nth-child({place}) .moving-field"

    def strokes(self, name: str) -> list[list[list[float]]]:
        """Return what is drawn in a field."""
        ink = self.browser.of(f"{self.field(name)} .m-ink", "it.getAttribute('d')")
        return [
            [[float(v) for v in point.split()] for point in stroke.split("L")][1:]
            for stroke in (ink or "").split("M")[1:]
        ]

    def settle(self) -> None:
        """Wait until the network is adapted to what the fields show."""
        self.browser.evaluate(
            "new Promise(done => { const it = document.querySelector('progress');"
            " const look = () => it.max > 1 && it.value === it.max ? done() :"
            " requestAnimationFrame(look); look(); })"
        )

    def draw(self, name: str, lines: list[Line], means: str) -> None:
        selector = self.field(name)
        if means == "keyboard":
            self.browser.focus(selector)
            for x0, y0, x1, y1 in lines:
                self.browser.press(*self.way(name, x0, y0), " ")
                self.browser.press(*self.way(name, x1, y1), " ")
            return
        left, top, width, _ = self.browser.box(selector)
        tool = self.browser.drag_from if means == "mouse" else self.browser.swipe_from
        for line in lines:
            x0, y0, x1, y1 = (value * width / SIDE for value in line)
            tool((left + x0, top + y0), (x1 - x0, y1 - y0))

    def way(self, name: str, x: float, y: float) -> list[str]:
        """Return the keys that bring the pen to a place."""
        pen = self.browser.of(f"{self.field(name)} .m-pen", "it.getAttribute('d')")
        left, top = map(float, pen[1:].partition("h")[0].split())
        across, down = (round((to - at) / 3) for to, at in ((x, left + 6), (y, top)))
        return [
            *["ArrowRight" if across > 0 else "ArrowLeft"] * abs(across),
            *["ArrowDown" if down > 0 else "ArrowUp"] * abs(down),
        ]

    def bars(self) -> list[float]:
        found = self.browser.evaluate(
            "[...document.querySelectorAll('.moving-bars rect')]"
            ".map(bar => +bar.getAttribute('width') / 300)"
        )
        return [float(share) for share in found]

    def check(self) -> str:
        """Compare bars and words with the library; return the class that they name."""
        self.settle()
        examples = [self.strokes(name) for name in CLASSES]
        network = draw_control.adapted(draw_control.recorded(), examples)
        told = draw_control.chances(network, self.strokes(QUERY))
        bars = self.bars()
        assert sum(bars) == pytest.approx(1)
        assert bars == pytest.approx(told, abs=0.05)
        most = CLASSES[bars.index(max(bars))]
        share = draw_control.percent(max(bars))
        assert self.words().startswith(f"It looks like {most} ({share})")
        return most


def opened(browser: Browser, width: int = 800) -> Fields:
    page = HTML / "chapters/05-applications/images.html"
    browser.open(page.as_uri(), width, touch=True, blocked=FORMULAS, **CALM)
    fields = Fields(browser, (0, SIDE), (SIDE, 0))
    browser.middle(".moving-fields")
    fields.settle()
    return fields


def test_it_begins_as_its_still_picture(browser: Browser) -> None:
    fields = opened(browser)
    assert {name: fields.strokes(name) for name in DRAWN} == DRAWN
    assert fields.check() == "B"
    assert browser.errors() == []


def test_nothing_is_computed_before_it_is_seen(browser: Browser) -> None:
    page = HTML / "chapters/05-applications/images.html"
    browser.open(page.as_uri(), 800)
    browser.evaluate("new Promise(done => setTimeout(done, 300))")
    assert not [url for url in browser.asked() if "weights/" in url]
    assert browser.of("progress", "it.value") == 0


@each_means
def test_four_characters_are_drawn_and_the_fourth_is_told(
    browser: Browser, means: str
) -> None:
    fields = opened(browser, 390 if means == "touch" else 800)
    wanted = {"A": TEE, "B": ELL, "C": CROSS, QUERY: OTHER_TEE}
    for name, lines in wanted.items():
        fields.draw(name, lines, means)
        strokes = fields.strokes(name)
        ends = [[*stroke[0], *stroke[-1]] for stroke in strokes]
        assert len(ends) == len(lines)
        for line, end in zip(lines, ends, strict=True):
            assert end == pytest.approx(line, abs=1.5)
    assert fields.check() == "A"
    fields.use(fields.button("Clear"), means)
    assert fields.strokes(QUERY) == []
    assert fields.bars() == [0, 0, 0]
    assert "fourth field" in fields.words()
    fields.draw(QUERY, OTHER_ELL, means)
    assert fields.check() == "B"
    assert browser.evaluate("scrollX") == 0
    assert browser.errors() == []


def test_an_example_drawn_anew_is_learnt_anew(browser: Browser) -> None:
    fields = opened(browser)
    assert fields.check() == "B"
    (line,) = DRAWN[QUERY]
    fields.use(fields.button("Clear B"), "mouse")
    assert fields.strokes("B") == []
    assert fields.words() == "Draw B."
    assert fields.bars() == [0, 0, 0]
    fields.draw("B", CROSS, "mouse")
    fields.settle()
    fields.use(fields.button("Clear A"), "mouse")
    pairs = [(a[0], a[1], b[0], b[1]) for a, b in pairwise(line)]
    fields.draw("A", pairs, "mouse")
    assert len(fields.strokes("A")) == len(pairs)
    assert fields.check() == "A"
    fields.use(fields.button("Start again"), "mouse")
    assert fields.check() == "B"
    assert {name: fields.strokes(name) for name in DRAWN} == DRAWN


def test_the_keyboards_pen(browser: Browser) -> None:
    fields = opened(browser)
    browser.focus(fields.field("C"))
    browser.press("ArrowLeft", " ", "ArrowRight", "ArrowUp")
    drawn = [*DRAWN["C"], [[49.5, 52.5], [52.5, 49.5]]]  # still stretched
    assert fields.strokes("C") == drawn
    assert "Pen down, at 53 across, 50 down" in fields.words()
    browser.press(" ")
    assert fields.strokes("C") == drawn[-1:]  # what was there makes room
    browser.press(" ", "ArrowDown", " ")
    assert fields.strokes("C") == [*drawn[-1:], [[52.5, 49.5], [52.5, 52.5]]]
    browser.press(" ", "ArrowDown", "Tab")  # who leaves lets go of the line
    assert len(fields.strokes("C")) == 2
    browser.focus(fields.field("C"))
    browser.press("Delete")
    assert fields.strokes("C") == []
    assert fields.words() == "Draw C."
    browser.press(*["ArrowUp"] * 30)
    assert fields.way("C", 52.5, 0) == []  # at the edge, no further
    assert browser.errors() == []


MOVING = (
    "let data; const Moving = { data: (name, values) => (data = values) }, module = {};"
)


@pytest.mark.needs_data("omniglot")
def test_queries_from_files_get_the_librarys_answer(browser: Browser) -> None:
    learner = draw_control.recorded()
    tasks = FewShotTasks(load().test, 3, 1, query_shots=3)
    who = draws(2, TEST, range(2), range(1), torch.device("cpu"))
    support, query, _ = tasks.sample(who)
    browser.open("about:blank", 800)
    names = "_static/reptile.js", "weights/draw.js", "_static/moving-draw.js"
    engine, data, figure = ((HTML / name).read_text("utf-8") for name in names)
    for i in range(2):
        order = support.y[i].argsort()
        x, asked = one(support.x)[i][order], one(query.x)[i]
        given = json.dumps([x.flatten().tolist(), asked.flatten(1).tolist()])
        found = browser.evaluate(
            f"(() => {{ {MOVING} {engine}; {data}; {figure};"
            " const { adapt, prepared, chances } = module.exports;"
            f" const learner = prepared(data), [x, queries] = {given};"
            " const theta = adapt(Reptile, learner, Float32Array.from(x));"
            " return queries.map(query => chances(learner, theta, x, query)); })()"
        )
        support_set = Batch(x, torch.arange(3))
        network = learner.predictor(support_set, inner_steps=learner.inner_steps)
        told = network(asked).softmax(1)
        assert torch.tensor(found).argmax(1).equal(told.argmax(1))
