"""The wave of page 1.2: fitted step by step, its picture, and its control."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from ipywidgets import HTML, Image, IntSlider, ToggleButtons, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots
from reptile_lib.inner_loop import adapt
from reptile_lib.learner import MetaLearner
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.tasks import Batch, Episodes

LAST_STEP = 32
SHADES = {0: (plots.ORANGE, ":"), 8: (plots.GREEN, "--"), 32: (plots.BLUE, "-")}
"""Colour and dashes by number of steps, where several stand in one picture."""


class Fit(NamedTuple):
    """What a network answers while it is adapted to one task."""

    answers: Tensor
    """[steps + 1, Q]: at the query points, after 0, 1, ... steps."""
    losses: Tensor
    """[steps + 1]: mean squared error there."""


def fit(
    learner: MetaLearner, task: Episodes, rate: float, steps: int = LAST_STEP
) -> Fit:
    """Adapt φ to the first of `task` in full-batch steps, and look after each."""
    support, query, _ = task.map(lambda t: t[:1])
    kernel, theta = learner.kernel, learner.phi
    points = torch.arange(support.y.shape[1]).expand(1, 1, -1)
    answers = []
    for step in range(steps + 1):
        if step:
            theta = adapt(kernel, theta, support, points, sgd(rate)).theta[0]
        answers.append(kernel.outputs(kernel.pack(theta)[None], query.x)[0, :, 0])
    found = torch.stack(answers)
    return Fit(found, (found - query.y[0, :, 0]).square().mean(1))


def curve(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return x and y of the first task of `batch`."""
    assert isinstance(batch.x, Tensor)
    return batch.x[0, :, 0], batch.y[0, :, 0]


def draw(axis: Axes, task: Episodes, found: Fit, steps: Sequence[int]) -> None:
    """Draw the wave, its points, and the answers after these numbers of steps."""
    (x, wave), points = curve(task.query), curve(task.support)
    axis.plot(x, wave, color="0.5", ls="-", lw=5, alpha=0.4, label="the wave")
    for number in steps:
        colour, dashes = SHADES.get(number, (plots.BLUE, "-"))
        label = f"{number} steps"
        axis.plot(x, found.answers[number], color=colour, ls=dashes, label=label)
    axis.plot(*points, "o", ms=5, color="0.2", zorder=3)
    axis.set(xlabel="x", xticks=[-5, 0, 5], ylim=(-5, 5))


def picture(task: Episodes, found: Fit, steps: int) -> bytes:
    """Return the drawing of one fit as PNG."""
    with plots.as_png() as (figure, png):
        axis = figure.add_subplot()
        draw(axis, task, found, [steps])
        axis.set_ylabel("y")
    return png.getvalue()


class WaveControl(VBox):  # type: ignore[misc]
    """The fit from a chosen start after a chosen number of steps, and its loss."""

    def __init__(self, task: Episodes, fits: Mapping[str, Fit]) -> None:
        self.task, self.fits = task, dict(fits)
        self.start = ToggleButtons(options=list(self.fits), description="start")
        self.steps = IntSlider(0, 0, LAST_STEP, description="steps")
        self.image, self.words = Image(format="png"), HTML()
        for chosen in (self.start, self.steps):
            chosen.observe(self.show, "value")
        super().__init__([self.start, self.steps, self.words, self.image])
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what is chosen and say how far off it is."""
        found, steps = self.fits[self.start.value], self.steps.value
        self.image.value = picture(self.task, found, steps)
        loss = found.losses[steps].item()
        self.words.value = f"squared error on the whole wave: {loss:.2f}"


def wave_control(task: Episodes, fits: Mapping[str, Fit]) -> WaveControl:
    """Return the control.

    Args:
        task: one wave, as `draw` gives it.
        fits: by name of the start.
    """
    return WaveControl(task, fits)
