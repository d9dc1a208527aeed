"""Where φ comes to rest on the bowls of page 3.3: a picture, and its control."""

from typing import Any, NamedTuple

import torch
from ipywidgets import HTML, FloatSlider, Image, IntSlider, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots
from reptile_book.loop_control import point
from reptile_lib import Quadratics

LAST_K = 60
COLOURS = plots.BLUE, plots.RED, plots.GREEN
NAMES = "ABC"
ACROSS, UP = (-1.9, 3.1), (-2.6, 2.7)
SIZE = (plots.WIDEST, 5.1)
HEIGHTS = [0.04, 0.16]
"""Contours of a bowl."""
NOTE: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}


class Starts(NamedTuple):
    """Three places to start from, or something of each."""

    joint: Any
    """The minimum of the average loss."""
    rest: Any
    """φ*."""
    best: Any
    """The minimum of the average loss after k steps."""


def starts(bowls: Quadratics, alpha: float, k: int) -> Starts:
    """Return the three places, [2] each."""
    return Starts(
        bowls.minimiser(alpha, 0),
        bowls.fixed_point(alpha, k),
        bowls.minimiser(alpha, k),
    )


def loss_after(phi: Tensor, bowls: Quadratics, alpha: float, k: int) -> float:
    """Return the average loss after k inner steps from φ [2]."""
    away = phi - bowls.w
    left = away - torch.einsum("tij,tj->ti", bowls.progress(alpha, k), away)
    height = torch.einsum("ti,tij,tj->t", left, bowls.H.double(), left) / 2
    return float(height.mean())


def walk(bowls: Quadratics, alpha: float) -> Tensor:
    """Return φ* after 1, 2, ... inner steps, [LAST_K, 2]."""
    counts = range(1, LAST_K + 1)
    return torch.stack([bowls.fixed_point(alpha, k) for k in counts])


def draw(axis: Axes, bowls: Quadratics, alpha: float, chosen: list[int]) -> None:
    """Draw the bowls, the walk of φ*, its two ends, and some φ* with their k."""
    across, up = (torch.linspace(*ends, 80).double() for ends in (ACROSS, UP))
    plane = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    for task, colour in enumerate(COLOURS):
        away = plane - bowls.w[task].double()
        H = bowls.H[task].double()
        height = torch.einsum("...i,ij,...j", away, H, away) / 2
        axis.contour(across, up, height, HEIGHTS, colors=colour, alpha=0.45)
        axis.annotate(NAMES[task], point(bowls.w[task]), (0, -4), **NOTE)
    path, joint = walk(bowls, alpha), point(bowls.minimiser(alpha, 0))
    middle = point(bowls.w.double().mean(0))
    axis.plot(*path.T, "o", ms=2.5, color="0.2")
    axis.plot(*joint, "^", ms=10, color=plots.ORANGE)
    axis.plot(*middle, "s", ms=8, color=plots.PINK)
    left, right = NOTE | {"ha": "right"}, NOTE | {"ha": "left"}
    axis.annotate("minimum of the\naverage loss", joint, (-12, 4), **left)
    axis.annotate("mean of\nthe minima", middle, (-10, -8), **left)
    for k in chosen:
        here = point(path[k - 1])
        axis.plot(*here, "o", ms=7, color="0.2")
        axis.annotate(f"$k$ = {k}", here, (7, -11), **right)
    axis.set(xlim=ACROSS, ylim=UP, aspect="equal")
    axis.set(xlabel="first weight", ylabel="second weight")


def picture(bowls: Quadratics, alpha: float, k: int) -> bytes:
    """Return the drawing for one k as PNG."""
    with plots.as_png(SIZE[1]) as (figure, png):
        draw(figure.add_subplot(), bowls, alpha, [k])
    return png.getvalue()


class RestControl(VBox):  # type: ignore[misc]
    """Two sliders, the picture, and what three starts leave of the loss."""

    def __init__(self, bowls: Quadratics) -> None:
        self.bowls = bowls
        self.k = IntSlider(5, 1, LAST_K, description="k", continuous_update=False)
        self.alpha = FloatSlider(
            0.5,
            min=0.05,
            max=1,
            step=0.05,
            description="α",
            readout_format=".2f",
            continuous_update=False,
        )
        self.image, self.words = Image(format="png"), HTML()
        for slider in (self.k, self.alpha):
            slider.observe(self.show, "value")
        super().__init__([self.k, self.alpha, self.words, self.image])
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what is chosen and compare the starts."""
        alpha, k = self.alpha.value, self.k.value
        at = starts(self.bowls, alpha, k)
        left = Starts(*(loss_after(phi, self.bowls, alpha, k) for phi in at))
        first, second = at.rest.tolist()
        self.image.value = picture(self.bowls, alpha, k)
        self.words.value = (
            f"φ* = ({first:.2f}, {second:.2f}). Average loss after {k} steps:"
            f" {left.joint:.2g} from the minimum of the average loss,"
            f" {left.rest:.2g} from φ*, {left.best:.2g} from the best start"
        )


def rest_control(bowls: Quadratics) -> RestControl:
    """Return the control.

    Args:
        bowls: three in the plane, with a curvature of at most 2.
    """
    return RestControl(bowls)
