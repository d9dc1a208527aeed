"""Three drawn characters and a fourth, page 5.1: the still picture and its control.

A drawing is a list of strokes, each a list of points [x, y] on a field of 105 x 105,
Omniglot's size, y downwards. The network sees it as it sees Omniglot's drawings.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import torch
from ipywidgets import HTML, FloatProgress, HBox, Layout, Output, Textarea, VBox
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from reptile_book import plots, records
from reptile_lib.examples import scaled
from reptile_lib.learner import MetaLearner
from reptile_lib.optimizers.formulas import adam
from reptile_lib.runs import run
from reptile_lib.tasks import Batch

Strokes = Sequence[Sequence[Sequence[float]]]

PHI = Path(__file__).parents[1] / "results/omniglot-3way/seed-0.safetensors"
ADAPTATION = "adaptation.json"
"""Beside φ: how to adapt it (`reptile_book.draw_choice`)."""

SIDE = 105
"""Of a field."""
RADIUS = 2.6
"""Of the pen: the middle lines of Omniglot's drawings, inked with it, cover as much of
them as the drawings themselves, 8 %."""
PIXELS = 28
"""A side of what the network sees."""

CLASSES = "A", "B", "C"
QUERY = "?"
COLOURS = plots.BLUE, plots.ORANGE, plots.GREEN
DRAWN: Mapping[str, Strokes] = {
    name: [[list(map(float, p.split(","))) for p in line.split()] for line in lines]
    for name, lines in {
        "A": (
            "29,34 35,24 47,18 60,20 70,29 71,41 63,51 55,59 52,70 52,89",
            "34,75 44,74 58,73 73,74",
        ),
        "B": (
            "28,26 45,25 63,25 78,27 79,45 78,62 77,79 53,80 30,79 29,66 30,51 57,51",
        ),
        "C": (
            "27,23 27,38 32,49 42,55 53,56 64,54 73,47 77,36 78,22",
            "52,18 53,36 53,56 52,72 53,90",
        ),
        QUERY: (
            "21,33 54,26 71,27 84,44 82,60 75,74 64,82 49,84 36,79 32,68 36,58 60,58",
        ),
    }.items()
}
"""An example of each class, and another drawing of the second."""


def rasterized(strokes: Strokes) -> NDArray[np.uint8]:
    """Return a drawing as Omniglot's are prepared: [28, 28], 0 for ink, 255 for paper.

    A pixel of the field is inked where its centre lies within `RADIUS` of a stroke, and
    of those the nearest to the centre of each of the 28 x 28 are taken.
    """
    middle = np.floor((np.arange(PIXELS) + 0.5) * SIDE / PIXELS) + 0.5
    x, y = np.meshgrid(middle, middle)
    ink = np.zeros((PIXELS, PIXELS), dtype=bool)
    for stroke in strokes:
        for (x0, y0), (x1, y1) in pairwise([stroke[0], *stroke]):
            dx, dy = x1 - x0, y1 - y0
            length = dx * dx + dy * dy
            along = ((x - x0) * dx + (y - y0) * dy) / (length or 1.0)
            along = np.minimum(1.0, np.maximum(0.0, along))
            across, down = x - x0 - along * dx, y - y0 - along * dy
            ink |= across * across + down * down <= RADIUS * RADIUS
    return np.where(ink, 0, 255).astype(np.uint8)


def pictures(drawings: Sequence[Strokes]) -> Tensor:
    """Return what the network is given: [drawings, 1, 28, 28]."""
    seen = scaled(torch.from_numpy(np.stack([*map(rasterized, drawings)]))[:, None])
    assert isinstance(seen, Tensor)
    return seen


def recorded(phi: Path = PHI) -> MetaLearner:
    """Return the learner of three classes that is recorded, set to adapt as chosen.

    Raises:
        UserError: its φ is missing or damaged.
    """
    learner, _ = run.reopen(phi, "cpu")
    chosen = records.read_one(phi.with_name(ADAPTATION))["choice"]
    learner.inner, learner.inner_steps = adam(chosen["rate"]), chosen["steps"]
    learner.moments = "reset"
    return learner


def adapted(learner: MetaLearner, examples: Sequence[Strokes]) -> nn.Module:
    """Return the network adapted to a drawing of each class."""
    support = Batch(pictures(examples), torch.arange(len(examples)))
    return learner.predictor(support, inner_steps=learner.inner_steps)


def chances(network: nn.Module, query: Strokes) -> list[float]:
    """Return the probability of each class for one drawing."""
    with torch.no_grad():
        found: list[float] = network(pictures([query])).softmax(1)[0].tolist()
    return found


def percent(chance: float) -> str:
    """Write a probability; none of a network is 0 or 1.

    >>> [percent(chance) for chance in (0.001, 0.254, 0.9999)]
    ['under 1 %', '25 %', 'over 99 %']
    """
    if chance < 0.005:
        return "under 1 %"
    return "over 99 %" if chance >= 0.995 else f"{100 * chance:.0f} %"


def words(found: Sequence[float]) -> str:
    """Say which class is most probable."""
    most = max(found)
    return f"It looks like {CLASSES[found.index(most)]} ({percent(most)})"


def still(learner: MetaLearner | None = None) -> Figure:
    """Draw the three examples, the fourth drawing, and what the recorded φ makes of it.

    Returns:
        five axes: four fields, then the bars of the probabilities.
    """
    network = adapted(learner or recorded(), [DRAWN[name] for name in CLASSES])
    found = chances(network, DRAWN[QUERY])
    figure = plt.figure(figsize=(plots.WIDEST, 2.7))
    grid = figure.add_gridspec(2, 4, height_ratios=(1.2, 1))
    for place, (name, strokes) in enumerate(DRAWN.items()):
        field = figure.add_subplot(grid[0, place])
        for stroke in strokes:
            field.plot(*zip(*stroke, strict=True), "-", color="0.2", lw=4)
        title = "which one?" if name == QUERY else name
        field.set(xlim=(0, SIDE), ylim=(SIDE, 0), aspect="equal", title=title)
        field.set(xticks=[], yticks=[])
        field.spines[:].set_visible(True)
    bars = figure.add_subplot(grid[1, :])
    drawn = bars.barh(CLASSES, found, color=COLOURS)
    bars.bar_label(drawn, [*map(percent, found)], padding=4)
    bars.set(xlim=(0, 1.18), xticks=[], title=words(found))
    bars.invert_yaxis()
    bars.grid(False)
    bars.spines[:].set_visible(False)
    bars.tick_params(length=0)
    return figure


class DrawControl(VBox):  # type: ignore[misc]
    """Four fields to draw in, and what the network makes of the fourth.

    ipywidgets have no canvas. So scripts of the fields write each drawing, as JSON,
    into a hidden text area, `strokes[name]`, whose value comes to the kernel.
    """

    def __init__(self, learner: MetaLearner) -> None:
        self.learner = learner
        self.known: tuple[list[Strokes], nn.Module] | None = None
        mark = f"drawn-{uuid4().hex[:8]}"
        self.strokes = {
            name: Textarea(json.dumps(strokes), layout=Layout(display="none"))
            for name, strokes in DRAWN.items()
        }
        for place, area in enumerate(self.strokes.values()):
            area.add_class(f"{mark}-{place}")
            area.observe(self.show, "value")
        self.fields = Output()
        page = IPython.display.HTML(fields(mark))  # type: ignore[no-untyped-call]
        self.fields.append_display_data(page)
        self.words = HTML()
        self.bars = [FloatProgress(max=1.0, description=name) for name in CLASSES]
        self.shares = [HTML() for _ in CLASSES]
        rows = [HBox([*pair]) for pair in zip(self.bars, self.shares, strict=True)]
        super().__init__([self.fields, *self.strokes.values(), self.words, *rows])
        self.show()

    def show(self, _: object = None) -> None:
        """Adapt if an example is new, and answer."""
        drawings = {name: json.loads(area.value) for name, area in self.strokes.items()}
        missing = [name for name in CLASSES if not drawings[name]]
        if missing:
            self.tell(f"Draw {' and '.join(missing)}.")
            return
        examples = [drawings[name] for name in CLASSES]
        if self.known is None or self.known[0] != examples:
            self.known = examples, adapted(self.learner, examples)
        if not drawings[QUERY]:
            self.tell("Draw one of the three, once more, in the fourth field.")
            return
        found = chances(self.known[1], drawings[QUERY])
        self.tell(words(found), found)

    def tell(self, text: str, found: Sequence[float] = ()) -> None:
        """Show words, and bars if there is an answer."""
        self.words.value = text
        for place, (bar, share) in enumerate(zip(self.bars, self.shares, strict=True)):
            bar.value = found[place] if found else 0.0
            share.value = percent(found[place]) if found else ""


def draw_control(learner: MetaLearner | None = None) -> DrawControl:
    """Return the control; without a learner, of the recorded φ."""
    return DrawControl(learner or recorded())


def fields(mark: str) -> str:
    """Return the HTML of the four fields; `mark` begins the classes of the areas."""
    named = [f"draw {name}" for name in CLASSES] + ["then one of them"]
    titles = json.dumps(named)
    drawn = json.dumps([*DRAWN.values()])
    given = f"{json.dumps(mark)}, {titles}, {drawn}, {SIDE}, {2 * RADIUS}"
    return f'<div id="{mark}"></div><script>({SCRIPT})({given});</script>'


SCRIPT = """(mark, titles, drawn, side, pen) => {
  const add = (parent, tag, more) =>
    parent.appendChild(Object.assign(document.createElement(tag), more));
  const row = document.getElementById(mark);
  row.style.cssText = "display: flex; flex-wrap: wrap; gap: 12px";
  titles.forEach((title, i) => {
    const box = add(row, "div", {}), size = 150;
    add(box, "div", { textContent: title });
    const field = add(box, "canvas", { width: size, height: size });
    field.style.cssText =
      "border: 1px solid #888; background: #fff; touch-action: none; display: block";
    const clear = add(box, "button", { type: "button", textContent: "clear" });
    const ink = field.getContext("2d");
    let strokes = drawn[i], old = true; // what was there is replaced, not added to
    const show = () => {
      ink.setTransform(1, 0, 0, 1, 0, 0);
      ink.clearRect(0, 0, size, size);
      ink.scale(size / side, size / side);
      Object.assign(ink, { lineWidth: pen, lineCap: "round", lineJoin: "round" });
      for (const stroke of strokes) {
        ink.beginPath();
        for (const [x, y] of [stroke[0], ...stroke]) ink.lineTo(x, y);
        ink.stroke();
      }
    };
    const send = () => {
      const area = document.querySelector(`.${mark}-${i} textarea`);
      area.value = JSON.stringify(strokes);
      for (const kind of ["input", "change"])
        area.dispatchEvent(new Event(kind, { bubbles: true }));
    };
    const at = (event) => {
      const place = field.getBoundingClientRect();
      return [(event.clientX - place.left - 1) / size * side,
              (event.clientY - place.top - 1) / size * side];
    };
    field.addEventListener("pointerdown", (event) => {
      field.setPointerCapture(event.pointerId);
      strokes = old ? [[at(event)]] : [...strokes, [at(event)]];
      old = false;
      show();
    });
    field.addEventListener("pointermove", (event) => {
      if (!field.hasPointerCapture(event.pointerId)) return;
      strokes[strokes.length - 1].push(at(event));
      show();
    });
    field.addEventListener("lostpointercapture", send);
    clear.addEventListener("click", () => {
      [strokes, old] = [[], false];
      show();
      send();
    });
    show();
  });
}"""
