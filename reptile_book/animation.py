"""Draw the preface's picture: Reptile on a plane of two parameters.

    python -m reptile_book.animation        # a few seconds

writes `_static/reptile.png`. Where scripts run, the picture moves:
`_static/moving-loop-tasks.js` has the same numbers. The points are not drawn by hand:
they are what the library's inner and outer step make of three tasks. A task is an arc:
all points on it solve the task equally well.
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
from reptile_book.plots import BLUE, GREEN, ORANGE
from reptile_lib import Batch, adapt, sgd
from reptile_lib.kernel import of_loss
from reptile_lib.params import interpolate
from reptile_lib.rng import TRAIN, draws

HERE = Path(__file__).parents[1] / "_static"
COLOURS, DASHES = (BLUE, ORANGE, GREEN), ("-", (0, (7, 2)), (0, (5, 2, 1, 2)))

# Centre and radius of each arc.
ARCS = torch.tensor([[4.9, 12.9, 9.0], [13.3, 1.0, 7.0], [0.1, -1.6, 7.5]])
START = torch.tensor([1.2, 1.0])
ACROSS, UP = (0, 10), (0.3, 6.6)
INNER_STEPS, EPSILON, ALPHA, SEED = 5, 0.5, 0.35, 18
SHOWN = 8
"""Meta-steps of the picture."""


def loss(theta: Tensor, arc: Batch) -> Tensor:
    """Half the squared distance of theta [2] from the arc x [1, 2], y [1]."""
    distance: Tensor = torch.linalg.vector_norm(theta - arc.x[0])
    return 0.5 * (distance - arc.y[0]).square()


def inner_path(phi: Tensor, task: int, k: int, alpha: float) -> Tensor:
    """Return the points [k + 1, 2] of the inner loop from `phi` to φ̃."""
    arcs = ARCS.to(phi)
    arc = Batch(arcs[task, :2].view(1, 1, 2), arcs[task, 2].view(1, 1))
    path = [phi]
    for _ in range(k):
        one_step = torch.zeros(1, 1, 1, dtype=torch.int64)
        theta = adapt(of_loss(loss), path[-1], arc, one_step, sgd(alpha)).theta
        path.append(theta[0])
    return torch.stack(path)


def order(count: int) -> list[int]:
    """Return the tasks that the first meta-steps draw."""
    who = draws(SEED, TRAIN, range(count), range(1), START.device)
    return (len(ARCS) * who.uniform(0, 1)).long().flatten().tolist()


def meta_steps(
    count: int,
    epsilon: float = EPSILON,
    k: int = INNER_STEPS,
    alpha: float = ALPHA,
    start: Tensor = START,
) -> list[tuple[int, Tensor, Tensor]]:
    """Run Reptile; return task, inner path and the new φ of every meta-step."""
    phi, done = start, []
    for task in order(count):
        path = inner_path(phi, task, k, alpha)
        phi = interpolate(phi, path[-1], epsilon)
        done.append((task, path, phi))
    return done


def _point(at: Tensor) -> tuple[float, float]:
    x, y = at.tolist()
    return x, y


def still() -> Image.Image:
    """Draw the way of φ, and the first inner loop."""
    done = meta_steps(SHOWN)
    task, path, _ = done[0]
    figure = films.paper((6.4, 4.05))
    axis = figure.add_axes((0.015, 0.015, 0.97, 0.97))
    axis.set(xlim=ACROSS, ylim=UP, xticks=[], yticks=[], facecolor=PAPER)
    axis.spines[:].set_color(FAINT)
    axis.text(9.85, 0.45, "parameter 1", ha="right", size=13, color="#666666")
    axis.text(0.13, 1.9, "parameter 2", rotation=90, size=13, color="#666666")
    turn = np.linspace(0, 2 * math.pi, 2000)
    for i, (x, y, r) in enumerate(ARCS.tolist()):
        circle = x + r * np.cos(turn), y + r * np.sin(turn)
        axis.plot(*circle, color=COLOURS[i], ls=DASHES[i], lw=4.5 if i == task else 2)
    for x, y, name, colour in (
        (0.25, 4.15, "task A", BLUE),
        (7.0, 3.0, "task B", "#A87400"),
        (0.25, 6.08, "task C", GREEN),
    ):
        axis.text(x, y, name, size=16, color=colour, weight="bold")
    big: dict[str, Any] = {"size": 22, "ha": "center", "va": "center"}
    axis.text(0.78, 1.05, r"$\phi$", **big)
    x, y = _point(path[-1])
    axis.text(x, y + 0.45, r"$\tilde\phi$", **big)
    axis.plot(*path[[0, -1]].T, ":", color=INK, lw=1.2)
    axis.plot(*path.T, "o", ms=8, mec=PAPER, color=COLOURS[task])
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
    for _, path, phi in done:
        axis.annotate("", _point(phi), _point(path[0]), arrowprops=arrow)
    axis.plot(*START, "o", ms=15, color=INK, mec=PAPER)
    return films.drawn(figure)


def main(folder: Path = HERE) -> None:
    """Write the picture into a folder."""
    mpl.use("Agg")
    picture = still()
    (few_colours,) = films.quantized([picture], [picture], 48)
    few_colours.save(folder / "reptile.png", optimize=True)


if __name__ == "__main__":
    main()
