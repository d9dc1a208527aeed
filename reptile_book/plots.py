"""The book's figures in one style.

Figures are drawn on a transparent ground with dark lines. In dark mode the page's
style sheet inverts their lightness, so the palette below must also be told apart after
that: it is the one of Okabe & Ito (2008), made for colour-blind readers, without its
yellow, which is too pale for thin lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from reptile_lib.errors import UserError

BLUE, ORANGE, GREEN, RED, SKY, PINK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)

WIDEST = 5.2
"""Inches that a phone still shows with letters of nine pixels."""

SMALLEST = 10
"""Points of the smallest letters."""

STYLE: dict[Any, Any] = {
    "figure.hooks": [f"{__name__}:refuse_what_phones_cannot_show"],
    "figure.figsize": (WIDEST, 3.2),
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    **dict.fromkeys(
        (
            "font.size",
            "axes.titlesize",
            "axes.labelsize",
            "xtick.labelsize",
            "ytick.labelsize",
            "legend.fontsize",
            "figure.titlesize",
        ),
        SMALLEST,
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PINK])
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]),
}


def use_style() -> None:
    """Give the figures of this notebook the book's style."""
    plt.rcParams.update(STYLE)


def refuse_what_phones_cannot_show(figure: Figure) -> None:
    """Refuse a figure that is too wide and, when it is drawn, too small letters.

    A hook of matplotlib, called for every new figure.

    Raises:
        UserError: what to change.
    """
    width = figure.get_figwidth()
    if width > WIDEST:
        raise UserError(
            f"the figure is {width} inches wide; phones show {WIDEST} at most"
        )

    def check(event: object) -> None:
        for letters in figure.findobj(Text):
            assert isinstance(letters, Text)
            shown = letters.get_visible() and letters.get_text().strip()
            if shown and float(letters.get_fontsize()) < SMALLEST:
                raise UserError(
                    f"{letters.get_text()!r} is set in {letters.get_fontsize()} points;"
                    f" give at least {SMALLEST}"
                )

    figure.canvas.mpl_connect("draw_event", check)


@contextmanager
def as_png(height: float = 3.2) -> Iterator[tuple[Figure, BytesIO]]:
    """Give a figure of full width to draw on, and a file that then holds it as PNG.

    For controls, which show a picture and leave pyplot alone.
    """
    png = BytesIO()
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(WIDEST, height))
        yield figure, png
        figure.savefig(png, format="png", facecolor="white")


def show_task(images: Tensor, ways: int, title: str = "") -> Figure:
    """Draw the support images of one task, a row a class.

    Args:
        images: [ways * shots, 1, height, width], class by class; 1 is white.
        ways: number of classes.
        title: text above the figure.
    """
    shots = len(images) // ways
    figure, axes = plt.subplots(
        ways, shots, figsize=(0.6 * shots + 0.4, 0.6 * ways + 0.3), squeeze=False
    )
    for image, axis in zip(images, axes.flat, strict=True):
        axis.imshow(image[0].cpu(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    for label, row in enumerate(axes):
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure


def plot_curve(axis: Axes, curves: Tensor, label: str) -> None:
    """Draw the mean over tasks of `curves` [tasks, steps + 1], with its 95 % CI."""
    mean = curves.mean(0)
    half = 1.96 * curves.std(0) / len(curves) ** 0.5
    steps = range(len(mean))
    (line,) = axis.plot(steps, mean, label=label)
    axis.fill_between(
        steps, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0
    )
