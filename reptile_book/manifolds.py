"""Draw section 3.3's film: Reptile between the solution manifolds of two tasks.

    python -m reptile_book.manifolds        # less than a minute

writes `manifolds.gif` and, for readers who prefer pictures that rest, `manifolds.png`,
beside the section. Each task is a regression with two weights and one example, so its
solutions are a curve in the plane. The points are what the library's inner and outer
step make of the two tasks in turn.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from PIL import Image
from torch import Tensor

from reptile_book import films
from reptile_book.films import FAINT, INK, PAPER
from reptile_book.plots import BLUE, RED
from reptile_lib import Batch, adapt, sgd
from reptile_lib.kernel import of_loss
from reptile_lib.params import interpolate

HERE = Path(__file__).parents[1] / "chapters/03-algorithm"
COLOURS = (BLUE, RED)

STARTS = torch.tensor([[4.2, 5.8], [5.6, 5.8]])
INNER, INNER_STEPS, EPSILON, META_STEPS = sgd(0.35), 6, 0.5, 30


def curve(task: Tensor, x: Tensor) -> Tensor:
    """Return the y of the points that solve task 0 or 1."""
    low = 1.9 + 0.45 * torch.sin(0.9 * x)
    gap = 1.75 * torch.tanh(0.9 * (x - 1.9)) - 0.95 * torch.exp(
        -(((x - 7.3) / 1.1) ** 2)
    )
    return low + task * gap


def loss(theta: Tensor, task: Batch) -> Tensor:
    """Half the squared height of theta [2] over the curve of task.x [1]."""
    return 0.5 * (theta[1] - curve(task.x[0], theta[0])) ** 2


def inner_path(phi: Tensor, task: int, steps: int = INNER_STEPS) -> Tensor:
    """Return the points [steps + 1, 2] of the inner loop from `phi` to φ̃."""
    batch = Batch(torch.full((1, 1), float(task)), torch.zeros(1, 1))
    path = [phi]
    for _ in range(steps):
        one_step = torch.zeros(1, 1, 1, dtype=torch.int64)
        path.append(adapt(of_loss(loss), path[-1], batch, one_step, INNER).theta[0])
    return torch.stack(path)


def meta_steps(phi: Tensor, count: int = META_STEPS) -> list[tuple[Tensor, Tensor]]:
    """Run Reptile, tasks in turn; return the inner path and new φ of each meta-step."""
    done = []
    for step in range(count):
        path = inner_path(phi, step % 2)
        phi = interpolate(phi, path[-1], EPSILON)
        done.append((path, phi))
    return done


class Card:
    """The picture, on paper of its own so that it reads on any ground."""

    def __init__(self) -> None:
        self.figure = films.paper()
        axis = self.figure.add_axes((0.015, 0.15, 0.97, 0.835))
        axis.set(xlim=(0, 10), ylim=(0, 6.3), xticks=[], yticks=[], facecolor=PAPER)
        axis.spines[:].set_color(FAINT)
        axis.text(9.85, 0.13, "weight 1", ha="right", size=13, color="#666666")
        axis.text(0.13, 5.0, "weight 2", rotation=90, size=13, color="#666666")
        x = torch.linspace(0, 10, 400)
        for task, (colour, dashes) in enumerate(zip(COLOURS, ("-", "--"), strict=True)):
            axis.plot(x, curve(torch.tensor(task), x), color=colour, ls=dashes, lw=2.5)
        names: dict[str, Any] = {"size": 16, "weight": "bold", "ha": "right"}
        axis.text(9.85, 1.25, "solves task A", color=BLUE, **names)
        axis.text(9.85, 4.35, "solves task B", color=RED, **names)
        self.trails = [
            axis.plot([], [], mark, ms=5, color=colour, lw=1.3, zorder=2)[0]
            for mark, colour in (("o-", FAINT), ("o-", FAINT))
        ]
        (self.path,) = axis.plot([], [], "o", ms=7, mec=PAPER, zorder=4)
        (self.pull,) = axis.plot([], [], color=INK, lw=1.2, ls=":", zorder=3)
        (self.phi,) = axis.plot([], [], "o", ms=14, color=INK, mec=PAPER, zorder=6)
        self.name = axis.text(0, 0, r"$\phi$", size=21, ha="center", va="center")
        self.words = self.figure.text(0.5, 0.075, "", ha="center", va="center", size=17)

    def set(
        self,
        words: str,
        trails: list[list[Tensor]],
        task: int = 0,
        path: Tensor | None = None,
    ) -> None:
        """Arrange one frame; φ is the end of the last trail."""
        self.words.set_text(words)
        for line, trail in zip(self.trails, [*trails, []][:2], strict=False):
            line.set_data(*torch.stack(trail).T if trail else ([], []))
        x, y = trails[-1][-1].tolist()
        self.phi.set_data([x], [y])
        self.name.set_position((x - 0.42 if len(trails) == 1 else x + 0.42, y))
        points = torch.empty(0, 2) if path is None else path
        self.path.set_data(*points.T)
        self.path.set_color(COLOURS[task])
        self.pull.set_data(*points[[0, -1]].T if len(points) else ([], []))

    def image(self) -> Image.Image:
        """Draw what is set."""
        return films.drawn(self.figure)


def film(card: Card) -> list[films.Frame]:
    """Return the frames, each with its milliseconds."""
    frames: list[films.Frame] = []

    def show(milliseconds: int, *arranged: Any) -> None:
        card.set(*arranged)
        frames.append((card.image(), milliseconds))

    trails: list[list[Tensor]] = []
    for run, start in enumerate(STARTS):
        trails.append([start])
        words = ("start somewhere", "start a little to the right")[run]
        show(1000, words, trails)
        for step, (path, phi) in enumerate(meta_steps(start)):
            task = step % 2
            slow = run == 0 and step < 2
            words = f"a few gradient steps on task {'AB'[task]}"
            for count in range(2, INNER_STEPS + 2) if slow else ():
                show(110, words, trails, task, path[:count])
            if slow:
                show(500, words, trails, task, path)
                words = r"move $\phi$ half of the way after them"
            else:
                words = "the tasks in turn"
            trails[-1].append(phi)
            show(600 if slow else 90, words, trails, task, path)
        words = (
            "the curves cross here: both tasks are solved",
            "here they only come close: neither is solved",
        )[run]
        show(2200, words, trails)
    return frames


def still(card: Card) -> Image.Image:
    """Both trails in one picture."""
    trails = [[s, *(phi for _, phi in meta_steps(s))] for s in STARTS]
    card.set("two starts, two ends; the left one solves both", trails)
    card.name.set_visible(False)
    for line in card.trails:
        line.set(color=INK)
    card.phi.set_data(*torch.stack([t[-1] for t in trails]).T)
    return card.image()


def main(folder: Path = HERE) -> None:
    """Write both pictures into a folder."""
    mpl.use("Agg")
    frames = film(Card())
    films.save(folder / "manifolds.gif", frames, still(Card()), [0, 6, 14, -1], 32)


if __name__ == "__main__":
    main()
