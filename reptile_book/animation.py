"""Draw the preface's picture: Reptile on a plane of two parameters.

    python -m reptile_book.animation        # about twenty seconds

writes `_static/reptile.gif` and, for readers who prefer pictures that rest,
`reptile.png`. The points are not drawn by hand: they are what the library's inner and
outer step make of three tasks. A task is an arc: all points on it solve the task
equally well.
"""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reptile_book import films
from reptile_book.films import FAINT, INK, PAPER
from reptile_book.plots import BLUE, GREEN, ORANGE, RED
from reptile_lib import Batch, adapt, linear, sgd
from reptile_lib.kernel import of_loss
from reptile_lib.params import interpolate
from reptile_lib.rng import TRAIN, draws

HERE = Path(__file__).parents[1] / "_static"
COLOURS, DASHES = (BLUE, ORANGE, GREEN), ("-", (0, (7, 2)), (0, (5, 2, 1, 2)))

# Centre and radius of each arc: three training tasks, then a new one.
ARCS = torch.tensor(
    [[4.9, 12.9, 9.0], [13.3, 1.0, 7.0], [0.1, -1.6, 7.5], [-4.6, 9.8, 11.6]]
)
START = torch.tensor([1.2, 1.0])
NEW = 3
META_STEPS, INNER_STEPS, EPSILON = 8, 5, linear(0.7, 0.2)
INNER, SEED = sgd(0.35), 18


def loss(theta: Tensor, arc: Batch) -> Tensor:
    """Half the squared distance of theta [2] from the arc x [1, 2], y [1]."""
    distance: Tensor = torch.linalg.vector_norm(theta - arc.x[0])
    return 0.5 * (distance - arc.y[0]).square()


def inner_path(phi: Tensor, task: int) -> Tensor:
    """Return the points [k + 1, 2] of the inner loop from `phi` to φ̃."""
    arc = Batch(ARCS[task, :2].view(1, 1, 2), ARCS[task, 2].view(1, 1))
    path = [phi]
    for _ in range(INNER_STEPS):
        one_step = torch.zeros(1, 1, 1, dtype=torch.int64)
        path.append(adapt(of_loss(loss), path[-1], arc, one_step, INNER).theta[0])
    return torch.stack(path)


def meta_steps() -> list[tuple[int, Tensor, Tensor]]:
    """Run Reptile; return task, inner path and the new φ of every meta-step."""
    who = draws(SEED, TRAIN, range(META_STEPS), range(1), START.device)
    chosen = (3 * who.uniform(0, 1)).long().flatten().tolist()
    phi, done = START, []
    for step, task in enumerate(chosen):
        path = inner_path(phi, task)
        phi = interpolate(phi, path[-1], EPSILON(step / META_STEPS))
        done.append((task, path, phi))
    return done


def _point(at: Tensor) -> tuple[float, float]:
    x, y = at.tolist()
    return x, y


class Card:
    """The picture, on paper of its own so that it reads on any ground."""

    def __init__(self) -> None:
        self.figure = films.paper()
        axis = self.figure.add_axes((0.015, 0.17, 0.97, 0.815))
        axis.set(xlim=(0, 10), ylim=(0.3, 6.6), xticks=[], yticks=[])
        axis.set_facecolor(PAPER)
        axis.spines[:].set_color(FAINT)
        axis.text(9.85, 0.45, "parameter 1", ha="right", size=13, color="#666666")
        axis.text(0.13, 1.9, "parameter 2", rotation=90, size=13, color="#666666")
        turn = np.linspace(0, 2 * math.pi, 2000)
        self.arcs = [
            axis.plot(
                x + r * np.cos(turn), y + r * np.sin(turn), lw=2, zorder=1,
                color=colour, ls=dashes, visible=i < 3,
            )[0]
            for i, ((x, y, r), colour, dashes) in enumerate(
                zip(ARCS.tolist(), (*COLOURS, RED), (*DASHES, "-"), strict=True)
            )
        ]  # fmt: skip
        self.names = [
            axis.text(x, y, name, size=16, color=colour, weight="bold", visible=seen)
            for x, y, name, colour, seen in (
                (0.25, 4.15, "task A", BLUE, True),
                (7.0, 3.0, "task B", "#A87400", True),
                (0.25, 6.08, "task C", GREEN, True),
                (3.4, 0.6, "a new task", RED, False),
            )
        ]
        (self.trail,) = axis.plot([], [], "o-", ms=4, color=FAINT, lw=1.5, zorder=2)
        (self.pull,) = axis.plot([], [], color=INK, lw=1.2, ls=":", zorder=3)
        (self.path,) = axis.plot([], [], "o", ms=8, mec=PAPER, zorder=4)
        (self.phi,) = axis.plot([], [], "o", ms=15, color=INK, mec=PAPER, zorder=6)
        label: dict[str, Any] = {
            "size": 22,
            "zorder": 7,
            "ha": "center",
            "va": "center",
        }
        self.phi_name = axis.text(0, 0, r"$\phi$", color=INK, **label)
        self.adapted_name = axis.text(0, 0, r"$\tilde\phi$", **label)
        self.words = self.figure.text(0.5, 0.085, "", ha="center", va="center", size=19)

    def set(
        self,
        words: str,
        phi: Tensor,
        trail: list[Tensor],
        task: int | None = None,
        path: Tensor | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Arrange one frame: `path` shows the inner steps, `whole` names its end φ̃."""
        self.words.set_text(words)
        self.phi.set_data([phi[0]], [phi[1]])
        self.trail.set_data(*torch.stack([*trail, phi]).T)
        new = task == NEW
        self.arcs[3].set_visible(new)
        self.names[3].set_visible(new)
        for i, line in enumerate(self.arcs):
            line.set_linewidth(4.5 if i == task else 2)
            line.set_alpha(1 if task in (None, i) else 0.4)
        points = torch.empty(0, 2) if path is None else path
        self.path.set_data(*points.T)
        self.path.set_color((*COLOURS, RED)[task or 0])
        self.pull.set_data(*(points[[0, -1]] if whole else points[:0]).T)
        # The names stand off the line between φ and φ̃.
        along = path[-1] - path[0] if path is not None and len(path) > 1 else None
        angle = -1.9 if along is None else math.atan2(along[1], along[0]) + math.pi
        offset = 0.42 * torch.tensor([math.cos(angle), math.sin(angle)])
        self.phi_name.set_position(_point(phi + offset))
        self.adapted_name.set_visible(whole)
        if whole:
            self.adapted_name.set_position(_point(points[-1] - offset))

    def image(self) -> Image.Image:
        """Draw what is set."""
        return films.drawn(self.figure)


def film(card: Card) -> list[films.Frame]:
    """Return the frames, each with its milliseconds."""
    frames: list[films.Frame] = []

    def show(milliseconds: int, *arranged: Any, **more: Any) -> None:
        card.set(*arranged, **more)
        frames.append((card.image(), milliseconds))

    def walk(words: str, task: int, path: Tensor, pause: int, last: int) -> None:
        for count in range(2, INNER_STEPS + 2):
            whole = count > INNER_STEPS
            now = last if whole else pause
            show(now, words, phi, trail, task, path[:count], whole=whole)

    phi = START
    trail: list[Tensor] = []
    show(600, "start anywhere", phi, trail)
    for step, (task, path, new) in enumerate(meta_steps()):
        slow = step == 0
        words = [
            f"1  draw a task: {'ABC'[task]}",
            "2  take a few gradient steps on it",
            r"3  move $\phi$ part of the way to $\tilde\phi$",
        ]
        if not slow:
            words = ["again, with another task"] * 3
        if slow:
            show(700, words[0], phi, trail, task, path[:1])
        walk(words[1], task, path, 170 if slow else 40, 700 if slow else 110)
        shares = (0.25, 0.5, 0.75, 1) if slow else (0.5, 1)
        for share in shares:
            pause = 700 if slow and share == 1 else 80
            at = interpolate(phi, new, share)
            show(pause, words[2], at, trail, task, path, whole=True)
        trail, phi = [*trail, phi], new
    show(1000, r"$\phi$ has come near every task", phi, trail)
    path = inner_path(phi, NEW)
    last_words = "a few steps solve a new task"
    show(500, last_words, phi, trail, NEW, path[:1])
    walk(last_words, NEW, path, 170, 1700)
    return frames


def still(card: Card) -> Image.Image:
    """One picture that tells it: the whole trail, and the first meta-step."""
    done = meta_steps()
    task, path, _ = done[0]
    points = [phi for _, _, phi in done]
    card.set(
        r"$\phi$ moves towards one task after the other",
        START, [], task, path, whole=True,
    )  # fmt: skip
    card.trail.set_data(*torch.stack([START, *points]).T)
    card.trail.set(marker="o", ms=6, color=INK, lw=1)
    for line in card.arcs:
        line.set_alpha(1)
    return card.image()


def main(folder: Path = HERE) -> None:
    """Write both pictures into a folder."""
    mpl.use("Agg")
    films.save(folder / "reptile.gif", film(Card()), still(Card()), [0, 6, -1], 48)


if __name__ == "__main__":
    main()
