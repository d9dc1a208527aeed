"""The loop of page 1.1 in two weights: its numbers, its picture, and its control.

Four tasks are bowls, L(θ) = ½ (θ − w)ᵀ H (θ − w) with a diagonal H, and are visited in
turn. A move is half a meta-step: an inner loop, or the outer step that follows it.
"""

from typing import Any, NamedTuple

import torch
from ipywidgets import HTML, Button, FloatSlider, HBox, Image, IntSlider, Layout, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots

SOLUTIONS = torch.tensor([[0.7, 2.5], [3.1, 0.9], [2.7, 2.6], [0.3, 1.7]])
CURVATURES = torch.tensor([[1.0, 0.15], [0.2, 1.0], [1.0, 0.3], [0.9, 0.3]])
START = torch.zeros(2)
COLOURS = plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED
LAST_MOVE = 48
ABOVE: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
ARROW: dict[str, Any] = {
    "arrowstyle": "-|>",
    "lw": 2,
    "color": "0.2",
    "shrinkA": 0,
    "shrinkB": 0,
}


class MetaStep(NamedTuple):
    """One round of the loop."""

    task: int
    inner: Tensor
    """[k + 1, 2]: φ, then the weights after each inner step; the last ones are φ̃."""
    phi: Tensor
    """[2]: φ after the outer step."""


def meta_steps(count: int, epsilon: float, alpha: float, k: int) -> list[MetaStep]:
    """Return the first meta-steps from `START`."""
    done, phi = [], START
    for step in range(count):
        task = step % len(SOLUTIONS)
        w, h = SOLUTIONS[task], CURVATURES[task]
        path = [phi]
        for _ in range(k):
            path.append(path[-1] - alpha * h * (path[-1] - w))
        phi = phi + epsilon * (path[-1] - phi)
        done.append(MetaStep(task, torch.stack(path), phi))
    return done


def point(theta: Tensor) -> tuple[float, float]:
    """Return two weights as matplotlib takes a point."""
    first, second = theta.tolist()
    return first, second


def draw(axis: Axes, moves: int, epsilon: float, alpha: float, k: int) -> Tensor:
    """Draw the first moves, the last inner loops stronger than the older ones.

    Returns:
        φ [2] after these moves.
    """
    rounds = meta_steps((moves + 1) // 2, epsilon, alpha, k)
    for task, (w, colour) in enumerate(zip(SOLUTIONS, COLOURS, strict=True)):
        axis.plot(*w, "*", ms=13, color=colour)
        axis.annotate(f"task {task + 1}", point(w), (0, 9), **ABOVE, color=colour)
    old = START
    axis.annotate("start", point(old), (0, -15), **ABOVE)
    for number, (task, inner, new) in enumerate(rounds):
        faint = 1.0 if number >= len(rounds) - len(SOLUTIONS) else 0.25
        axis.plot(*inner.T, ".-", lw=1, color=COLOURS[task], alpha=faint)
        if 2 * number + 1 < moves:  # its outer step is done as well
            rest = torch.stack([new, inner[-1]]).T
            axis.plot(*rest, ":", lw=1, color="0.2", alpha=faint)
            arrow = ARROW | {"alpha": faint}
            axis.annotate("", point(new), point(old), arrowprops=arrow)
            old = new
    if rounds:
        end = rounds[-1].inner[-1]
        across, up = point(13 * torch.nn.functional.normalize(end - old, dim=0))
        beyond = ABOVE | {"va": "center", "size": 13}
        axis.annotate(r"$\tilde\phi$", point(end), (across, up), **beyond)
    axis.plot(*old, "o", color="0.2")
    axis.annotate(r"$\phi$", point(old), (0, 8), **ABOVE, size=13)
    axis.set(xlim=(-0.3, 3.5), ylim=(-0.4, 3.0), aspect="equal")
    axis.set(xlabel="first weight", ylabel="second weight")
    return old


def picture(moves: int, epsilon: float, alpha: float, k: int) -> tuple[bytes, Tensor]:
    """Return the drawing as PNG, and φ [2]."""
    with plots.as_png(4.4) as (figure, png):
        phi = draw(figure.add_subplot(), moves, epsilon, alpha, k)
    return png.getvalue(), phi


class Stepper(VBox):  # type: ignore[misc]
    """The picture, a button for the next move, one to start again, three sliders.

    Moving a slider draws the moves done so far anew, with its value.
    """

    def __init__(self) -> None:
        self.moves = 0
        self.next = Button(button_style="primary", layout=Layout(width="16em"))
        self.again = Button(description="start again")
        wide = {"readout_format": ".2f", "continuous_update": False}
        self.epsilon = FloatSlider(
            0.4, min=0, max=1, step=0.05, description="ε", **wide
        )
        self.k = IntSlider(6, 1, 20, description="k", continuous_update=False)
        self.alpha = FloatSlider(
            0.45, min=0.05, max=1, step=0.05, description="α", **wide
        )
        self.image, self.words = Image(format="png"), HTML()
        self.next.on_click(self.go_on)
        self.again.on_click(self.start_again)
        sliders = self.epsilon, self.k, self.alpha
        for slider in sliders:
            slider.observe(self.show, "value")
        buttons = HBox([self.next, self.again])
        super().__init__([buttons, *sliders, self.words, self.image])
        self.show()

    def go_on(self, _: object = None) -> None:
        """Do the next move."""
        self.moves += 1
        self.show()

    def start_again(self, _: object = None) -> None:
        """Go back to the start."""
        self.moves = 0
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what was done, say where φ is and what the next move will be."""
        task = self.moves // 2 % len(SOLUTIONS) + 1
        inner = self.moves % 2 == 0
        self.next.description = f"inner loop on task {task}" if inner else "outer step"
        self.next.disabled = self.moves >= LAST_MOVE
        settings = self.epsilon.value, self.alpha.value, self.k.value
        self.image.value, phi = picture(self.moves, *settings)
        first, second = phi.tolist()
        self.words.value = (
            f"{self.moves // 2} meta-steps done, φ = ({first:.2f}, {second:.2f})"
        )


def stepper() -> Stepper:
    """Return the control."""
    return Stepper()
