"""The pull of a task under a threshold on page 2.2: numbers, picture, and control.

A task is a bowl with curvature 1 whose minimum lies at a distance d from φ, L(θ) =
½ (θ − d)² with φ = 0. Its pull φ̃ − φ is how far the inner loop goes.
"""

import torch
from ipywidgets import HTML, FloatSlider, Image, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots
from reptile_lib.inner import Stop
from reptile_lib.optimizers.stopping import SwitchAtThreshold, SwitchEvery

MOST = 200
"""Steps after which an inner loop ends anyway."""

DISTANCES = torch.linspace(0, 8, 401).double()
RATES = {0.5: plots.ORANGE, 0.05: plots.GREEN}
"""Learning rates that are drawn, and their colours."""


def edge(c: float) -> float:
    """Return the distance at which the loss is c."""
    return float((2 * c) ** 0.5)


def pulls(rule: Stop, alpha: float, d: Tensor) -> tuple[Tensor, Tensor]:
    """Run the inner loops of tasks at the distances d, until the rule ends them.

    Returns:
        Pulls and steps, each shaped as d.
    """
    theta, steps = torch.zeros_like(d), torch.zeros(d.shape, dtype=torch.int64)
    runs = torch.ones(d.shape, dtype=torch.bool)
    for done in range(MOST):
        runs = runs & ~rule(done, (theta - d).square() / 2)
        theta = torch.where(runs, theta - alpha * (theta - d), theta)
        steps = steps + runs
    return theta, steps


def draw(axis: Axes, c: float) -> None:
    """Draw the pull against the distance: two steps, and the threshold c."""
    fixed, _ = pulls(SwitchEvery(2), 0.5, DISTANCES)
    axis.plot(DISTANCES, fixed, color=plots.BLUE, ls="-", lw=3, alpha=0.6)
    label = axis.text(4.2, 3.5, "two steps, $\\alpha$ = 0.5", color=plots.BLUE)
    label.set(rotation=20, rotation_mode="anchor")
    for (alpha, colour), dashes in zip(RATES.items(), ("--", "-."), strict=True):
        pull, _ = pulls(SwitchAtThreshold(c), alpha, DISTANCES)
        words = f"threshold, $\\alpha$ = {alpha}"
        axis.plot(DISTANCES, pull, color=colour, ls=dashes, label=words)
    axis.axvline(edge(c), color="0.5", ls=":", lw=1)
    axis.text(edge(c), 7.3, " $r$", ha="left")
    axis.set(xlabel="distance $d$ of a task's minimum", ylabel="pull on $\\phi$")
    axis.set(xlim=(0, 8), ylim=(-0.2, 8))
    axis.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncols=2)


def picture(c: float) -> bytes:
    """Return the drawing as PNG."""
    with plots.as_png(3.6) as (figure, png):
        draw(figure.add_subplot(), c)
    return png.getvalue()


class PullControl(VBox):  # type: ignore[misc]
    """A slider for the threshold, the picture, and what two tasks do."""

    def __init__(self) -> None:
        self.c = FloatSlider(
            2.0,
            min=0,
            max=18,
            step=0.25,
            description="c",
            readout_format=".2f",
            continuous_update=False,
        )
        self.image, self.words = Image(format="png"), HTML()
        self.c.observe(self.show, "value")
        super().__init__([self.c, self.words, self.image])
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what is chosen; say where the edge is, and what two tasks pay."""
        c = self.c.value
        self.image.value = picture(c)
        pull, steps = pulls(SwitchAtThreshold(c), 0.5, torch.tensor([2.5, 7.5]))
        words = (
            f"a task at {d}: {n} steps, pull {p:.2f}"
            for d, n, p in zip((2.5, 7.5), steps.tolist(), pull.tolist(), strict=True)
        )
        self.words.value = f"r = {edge(c):.2f}. At α = 0.5, {'; '.join(words)}"


def pull_control() -> PullControl:
    """Return the control."""
    return PullControl()
