"""The figure of 5.1: a drawing as the network sees it, and what it answers.

The scripts of the figure run in Node here; tests/rendered draws in its fields.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reptile_book import draw_control, weights
from reptile_book.draw_control import CLASSES, DRAWN, QUERY, RADIUS, SIDE
from reptile_lib import Batch, FewShotTasks
from reptile_lib.data.omniglot import load
from reptile_lib.rng import TEST, draws
from tests.javascript.node import STATIC, needs_node, run, tensor
from tests.kit import one

pytestmark = [needs_node, pytest.mark.slow]

SCRIPTS = f"""
const Drawing = require("{STATIC / "moving-draw-field.js"}");
const {{ adapt, prepared, chances }} = require("{STATIC / "moving-draw.js"}");
let data;
globalThis.Moving = {{ data: (name, values) => (data = values) }};
require("vm").runInThisContext(given.file);
const learner = prepared(data);
const answered = ({{ x, queries }}) => {{
  const theta = adapt(Reptile, learner, Float32Array.from(x));
  return queries.map((query) => chances(learner, theta, x, query));
}};
"""


def figure(body: str, **given: Any) -> Any:
    file = (weights.FOLDER / "draw.js").read_text(encoding="utf-8")
    return run(SCRIPTS + body, file=file, **given)


def strokes(g: np.random.Generator) -> list[list[list[float]]]:
    """Return some strokes; the last has points on the lattice of the pixels."""
    sizes = g.integers(1, 9, 4)
    free = [(g.random((size, 2)) * SIDE).tolist() for size in sizes]
    return [*free, (g.integers(0, 2 * SIDE, (4, 2)) / 2).tolist()]


def inked(drawn: list[list[list[float]]]) -> Image.Image:
    """Ink a field by hand, each pixel by the formula of the distance from a line."""
    field = Image.new("1", (SIDE, SIDE), 1)
    for column in range(SIDE):
        for row in range(SIDE):
            point = complex(column + 0.5, row + 0.5)
            for stroke in drawn:
                path = [complex(x, y) for x, y in stroke]
                for a, b in zip([path[0], *path], path, strict=False):
                    ends = min(abs(point - a), abs(point - b))
                    turned = (point - a) * (b - a).conjugate()
                    beside = a != b and 0 <= turned.real <= abs(b - a) ** 2
                    far = abs(turned.imag) / abs(b - a) if beside else ends
                    if far <= RADIUS:
                        field.putpixel((column, row), 0)
    return field


def test_drawings_become_the_same_pixels_bit_for_bit() -> None:
    g = np.random.default_rng(0)
    drawn = [*DRAWN.values(), [], *(strokes(g) for _ in range(100))]
    found = figure("return given.drawn.map(Drawing.raster);", drawn=drawn)
    for here, there in zip(drawn, found, strict=True):
        pixels = draw_control.rasterized(here)
        assert pixels.shape == (28, 28)
        assert (pixels.flatten() == 255 * np.array(there)).all()
        assert set(there) == ({0, 1} if here else {1})


def test_pixels_are_those_that_pillow_takes() -> None:
    g = np.random.default_rng(1)
    for drawn in (DRAWN["A"], strokes(g)):
        small = inked([[[*p] for p in s] for s in drawn]).resize((28, 28))
        assert (draw_control.rasterized(drawn) == 255 * np.array(small)).all()


@pytest.mark.needs_data("omniglot")
def test_ink_and_paper_are_omniglots() -> None:
    images = one(load().train.pool)
    assert set(images.unique().tolist()) == {0, 255}
    share = (images == 0).double().mean().item()
    assert share == pytest.approx(0.08, abs=0.005)
    drawn = draw_control.pictures([*DRAWN.values()])
    assert set(drawn.unique().tolist()) == {0, 1}
    assert (drawn == 0).double().mean().item() == pytest.approx(share, abs=0.03)


def test_the_file_is_the_recorded_network() -> None:
    learner = draw_control.recorded()
    data = weights.read("draw")
    assert data == weights.draw()
    assert weights.decoded(data.pop("phi")).equal(learner.phi)
    assert data.pop("drawn") == [*DRAWN.values()]
    rate, steps = learner.inner.lr, learner.inner_steps
    assert data == {"ways": 3, "filters": 32, "rate": rate, "steps": steps}
    size = (weights.FOLDER / "draw.js").stat().st_size
    assert 150_000 < size <= 500_000


def test_drawn_characters_get_the_librarys_answer() -> None:
    learner = draw_control.recorded()
    examples = [DRAWN[name] for name in CLASSES]
    network = draw_control.adapted(learner, examples)
    told = [draw_control.chances(network, query) for query in DRAWN.values()]
    pictures = draw_control.pictures([*DRAWN.values()])
    (found,) = figure(
        "return given.tasks.map(answered);", tasks=[seen(pictures[:3], pictures)]
    )
    ours, theirs = torch.tensor(found), torch.tensor(told)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    assert ours.argmax(1)[:3].tolist() == [0, 1, 2]
    assert [*DRAWN] == [*CLASSES, QUERY]


def seen(x: Tensor, queries: Tensor) -> dict[str, Tensor]:
    return {"x": x.flatten(), "queries": queries.flatten(1)}


@pytest.mark.needs_data("omniglot")
def test_queries_from_files_get_the_librarys_answer() -> None:
    """200 queries of new characters, 20 tasks of three with one example of each.

    The loss is the mean over the three in the figure, the sum in the recorded row;
    Adam, begun anew, does not see it but for its eps.
    """
    learner = draw_control.recorded()
    tasks = FewShotTasks(load().test, 3, 1, query_shots=4)
    who = draws(1, TEST, range(20), range(1), torch.device("cpu"))
    support, query, _ = tasks.sample(who)
    order = [torch.argsort(y) for y in support.y]
    supports = [one(support.x)[i][own] for i, own in enumerate(order)]
    queries = one(query.x)[:, :10]
    found = figure(
        "return given.tasks.map(answered);",
        tasks=[seen(*pair) for pair in zip(supports, queries, strict=True)],
    )
    labels = torch.arange(3)
    same, apart = 0, []
    for x, asked, got in zip(supports, queries, found, strict=True):
        network = learner.predictor(Batch(x, labels), inner_steps=learner.inner_steps)
        told = network(asked).softmax(1)
        ours = tensor(got, told)
        same += int((ours.argmax(1) == told.argmax(1)).sum())
        apart += (ours - told).abs().amax(1).tolist()
    assert len(apart) == 200
    assert same >= 198
    assert sorted(apart)[150] < 0.02
