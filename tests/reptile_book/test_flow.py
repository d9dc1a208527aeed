"""The picture of the loop: arrows touch boxes, and the names are the library's."""

import inspect

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from reptile_book import flow, plots
from reptile_lib import meta

pytestmark = pytest.mark.slow


def test_every_arrow_ends_at_a_box() -> None:
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDEST, 5))
        flow.draw(axis)
        figure.canvas.draw()  # refuses what a phone cannot show
    boxes = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    heads = [note for note in axis.texts if not note.get_text()]
    assert (len(boxes), len(heads)) == (12, 14)
    for head in heads:
        (x, y), found = head.xy, []  # type: ignore[attr-defined]
        for box in boxes:
            (left, low), wide, tall = box.get_xy(), box.get_width(), box.get_height()
            over = left - 1e-9 <= x <= left + wide + 1e-9
            beside = low - 1e-9 <= y <= low + tall + 1e-9
            on = [
                abs(x - left),
                abs(x - left - wide),
                abs(y - low),
                abs(y - low - tall),
            ]
            found.append(over and beside and min(on) == pytest.approx(0, abs=1e-9))
        assert sum(found) == 1, (x, y)
    plt.close(figure)


def test_its_names_stand_in_the_library() -> None:
    source = inspect.getsource(meta)
    assert all(name in source for name, *_ in flow.NAMES)
