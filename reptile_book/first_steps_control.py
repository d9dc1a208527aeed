"""The first steps of Adam on a task, page 4.2: two weights, a picture, its control.

A weight starts at 0 and is solved at w; its gradient is θ - w. Adam without momentum
begins with a fresh memory, or with one of gradients whose mean square was 1.
"""

import torch
from ipywidgets import HTML, FloatSlider, Image, SelectionSlider, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots
from reptile_lib.optimizers.formulas import adam

STEPS = 15
PAST = 1000
"""Steps that a carried memory has seen."""
NEAR, FAR = 0.1, 3.0
"""Where the two weights are solved: their first gradients are a tenth of the usual
size, and three times that."""
LINES = {"fresh": (plots.ORANGE, "s--"), "carried": (plots.BLUE, "o-")}
BETAS = 0.5, 0.9, 0.99, 0.995, 0.999


def walk(w: float, alpha: float, beta2: float, memory: str) -> Tensor:
    """Return where the weight stands after 0, 1, ... steps.

    Args:
        w: where it is solved.
        alpha: Adam's rate.
        beta2: its decay.
        memory: "fresh" or "carried".
    """
    inner, theta = adam(alpha, (0.0, beta2)), torch.zeros(1).double()
    state = inner.init(theta)
    if memory == "carried":
        v = torch.ones(1).double() * (1 - beta2**PAST)
        state = {"step": torch.tensor(float(PAST)).double(), "v": v}
    path = [theta]
    for _ in range(STEPS):
        theta, state = inner.update(theta - w, state, theta)
        path.append(theta)
    return torch.cat(path)


def draw(axes: tuple[Axes, Axes], alpha: float, beta2: float) -> None:
    """Draw both weights, solved far away at the left and close by at the right."""
    for axis, w in zip(axes, (FAR, NEAR), strict=True):
        axis.axhline(w, color="0.5", ls=":", lw=1.2)
        for memory, (colour, line) in LINES.items():
            path = walk(w, alpha, beta2, memory)
            axis.plot(path, line, color=colour, ms=4, lw=1.2, label=memory)
        axis.set(xlabel="step", xticks=(0, 5, 10, 15))
    axes[0].set(ylabel="the weight", title="gradient large at first")
    axes[1].set(title="gradient small at first")


def picture(alpha: float, beta2: float) -> bytes:
    """Return the drawing as PNG."""
    with plots.as_png(2.9) as (figure, png):
        axes = figure.subplots(1, 2)
        draw(axes, alpha, beta2)
        axes[0].legend(loc="lower right")
    return png.getvalue()


class FirstStepsControl(VBox):  # type: ignore[misc]
    """Two sliders, the picture, and how far off the weights are in the end."""

    def __init__(self) -> None:
        self.alpha = FloatSlider(
            0.3,
            min=0.05,
            max=1,
            step=0.05,
            description="α",
            readout_format=".2f",
            continuous_update=False,
        )
        self.beta2 = SelectionSlider(
            options=BETAS, value=0.999, description="β₂", continuous_update=False
        )
        self.image, self.words = Image(format="png"), HTML()
        for slider in (self.alpha, self.beta2):
            slider.observe(self.show, "value")
        super().__init__([self.alpha, self.beta2, self.words, self.image])
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what is chosen and say where the weights end."""
        alpha, beta2 = self.alpha.value, self.beta2.value
        self.image.value = picture(alpha, beta2)
        ends = []
        for w in (FAR, NEAR):
            fresh, carried = (walk(w, alpha, beta2, name)[-1] for name in LINES)
            ends.append(f"to {w:g}: fresh {fresh:.2f}, carried {carried:.2f}")
        self.words.value = f"after {STEPS} steps on the way {'; '.join(ends)}"


def first_steps_control() -> FirstStepsControl:
    """Return the control."""
    return FirstStepsControl()
