"""The data flow of one batched meta-step, with the names that the library gives it."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

TALL = 0.58
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "size": 11}
LINE: dict[str, Any] = {"color": "0.2", "ls": "-", "lw": 1}
ARROW = {"arrowstyle": "-|>", "color": "0.2", "shrinkA": 0, "shrinkB": 0}
# In the loop: its name, the heights of the highest and the lowest box that it covers.
NAMES = [
    ("MetaState", 5.0, 5.0),
    ("drawn", 3.9, 3.9),
    ("rule", 2.75, 0.9),
    ("outer_step", 0.0, 0.0),
]

Point = tuple[float, float]


def box(axis: Axes, x: float, y: float, words: str, wide: float, tall: float) -> None:
    """Put words into a box around (x, y)."""
    corner = x - wide / 2, y - tall / 2
    axis.add_patch(Rectangle(corner, wide, tall, fill=False, lw=1.4))
    axis.text(x, y, words, **CENTRED)


def arrow(axis: Axes, *points: Point) -> None:
    """Draw lines from point to point, the last one with a head."""
    xs, ys = zip(*points[:-1], strict=True)
    axis.plot(xs, ys, **LINE)
    axis.annotate("", points[-1], points[-2], arrowprops=ARROW)


def draw(axis: Axes) -> None:
    """Draw it: φ at the top, three of n tasks below, and the new φ at the bottom."""
    axis.set(xlim=(-0.75, 3.55), ylim=(-0.35, 5.35))
    axis.axis("off")
    box(axis, 1, 5, r"$\phi$, the same for all", 1.6, TALL)
    for x, i in enumerate("12n"):
        near = 1 + 0.4 * (x - 1)  # where its arrows meet the boxes for all
        box(axis, x, 3.9, f"support\nset of $\\tau_{i}$", 0.76, 0.74)
        box(axis, x, 2.75, "$k$ inner\nsteps", 0.76, 0.74)
        box(axis, x, 1.8, f"$\\tilde\\phi_{i}$", 0.5, 0.46)
        arrow(axis, (near, 4.71), (x, 4.27))
        arrow(axis, (x, 3.53), (x, 3.12))
        arrow(axis, (x, 2.38), (x, 2.03))
        arrow(axis, (x, 1.57), (near, 1.19))
    for y in (3.9, 2.75, 1.8):
        axis.text(1.5, y, "…", **CENTRED)
    box(axis, 1, 0.9, r"target: the mean of the $\tilde\phi_i$", 2, TALL)
    box(axis, 1, 0, r"$\phi + \epsilon\,(\mathrm{target} - \phi)$", 1.6, TALL)
    arrow(axis, (1, 0.61), (1, 0.29))
    arrow(axis, (0.2, 0), (-0.65, 0), (-0.65, 5), (0.2, 5))
    for name, high, low in NAMES:
        ends = [low - TALL / 2, high + TALL / 2]
        axis.plot([2.53, 2.53], ends, **LINE | {"color": "0.6"})
        axis.text(2.63, sum(ends) / 2, name, va="center", family="monospace")
