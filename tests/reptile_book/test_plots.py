"""The style refuses figures that a phone cannot show."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from reptile_book import plots
from reptile_lib.errors import UserError


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def test_a_figure_of_the_style_is_drawn(tmp_path: Path) -> None:
    figure, axis = plt.subplots(figsize=(plots.WIDEST, 3))
    axis.set(title="title", xlabel="x")
    axis.plot([1, 2], label="a line")
    axis.legend()
    figure.savefig(tmp_path / "a.png", bbox_inches="tight")  # as notebooks do


def test_a_wide_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"5\.3 inches wide; phones show 5\.2"):
        plt.subplots(figsize=(5.3, 3))


def test_small_letters_are_refused() -> None:
    figure, axis = plt.subplots()
    axis.text(0, 0, "tiny", fontsize=9.5)
    with pytest.raises(UserError, match=r"'tiny' is set in 9\.5 points; give at least"):
        figure.canvas.draw()
