"""The way from φ to φ̃ of page 2.3: losses along it, its picture, and its control.

One wave pulls: its inner loop leads from φ to φ̃. Other waves, each given by a few
points, are adapted to from a place on the straight line through both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from ipywidgets import HTML, Image, IntSlider, SelectionSlider, ToggleButtons, VBox
from matplotlib.axes import Axes
from torch import Tensor

from reptile_book import plots
from reptile_lib.inner_loop import adapt
from reptile_lib.learner import MetaLearner
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.params import interpolate
from reptile_lib.tasks import Batch, Episodes

RATE = 0.02
"""Learning rate at which other waves are adapted to; 1.2 finds it to be the best."""

PLACES = tuple(round(0.05 * i, 2) for i in range(-4, 25))
"""Parts of the way at which the control can stand."""


def inner_loops(learner: MetaLearner, waves: Episodes) -> Tensor:
    """Return φ̃ of each wave, [n, P], by the minibatches that the waves come with."""
    start, inner = learner.phi, learner.inner
    return adapt(learner.kernel, start, waves.support, waves.order, inner).theta


def losses(learner: MetaLearner, theta: Tensor, waves: Episodes) -> Tensor:
    """Return the squared errors [n] of theta [n, P], each on a wave of its own."""
    answers = _answers(learner, theta, waves.query)
    return (answers - waves.query.y[..., 0]).square().mean(1)


def losses_once_adapted(learner: MetaLearner, theta: Tensor, waves: Episodes) -> Tensor:
    """Adapt to every wave from every row of theta [m, P].

    Returns:
        [m, n] squared errors on the whole waves.
    """
    answers = _answers_once_adapted(learner, theta, waves)
    return (answers - waves.query.y[..., 0]).square().mean(2)


class Way(NamedTuple):
    """What the network answers at places on the way to the φ̃ of one wave."""

    pulling: Batch
    """The wave that pulls: x [Q], y [Q]."""
    given: Batch
    """The points of the others, x [n, S], y [n, S]."""
    others: Batch
    """The other waves, x [n, Q], y [n, Q]."""
    before: Tensor
    """[places, Q]: answers for the wave that pulls, as the network stands there."""
    after: Tensor
    """[places, n, Q]: answers for each of the others, once adapted from there."""

    @property
    def own_losses(self) -> Tensor:
        """[places]."""
        return (self.before - self.pulling.y).square().mean(1)

    @property
    def other_losses(self) -> Tensor:
        """[places, n]."""
        return (self.after - self.others.y).square().mean(2)


def way(
    learner: MetaLearner, pulling: Episodes, others: Episodes, number: int = 0
) -> Way:
    """Go along the way that wave `number` of `pulling` asks for, by `PLACES`."""
    wave = pulling.map(lambda t: t[number : number + 1])
    end = inner_loops(learner, wave)
    stops = [interpolate(learner.phi, end, epsilon) for epsilon in PLACES]
    before = [_answers(learner, theta, wave.query)[0] for theta in stops]
    after = [_answers_once_adapted(learner, theta, others)[0] for theta in stops]
    return Way(
        pulling=wave.query.map(lambda t: t[0, :, 0]),
        given=others.support.map(lambda t: t[..., 0]),
        others=others.query.map(lambda t: t[..., 0]),
        before=torch.stack(before),
        after=torch.stack(after),
    )


def _answers(learner: MetaLearner, theta: Tensor, batch: Batch) -> Tensor:
    kernel = learner.kernel
    return kernel.outputs(kernel.pack(theta), batch.x)[..., 0]


def _answers_once_adapted(
    learner: MetaLearner, theta: Tensor, waves: Episodes
) -> Tensor:
    """Return [m, n, Q] of theta [m, P]."""
    m, n = len(theta), len(waves.order)
    support, query, order = waves.map(lambda t: t.repeat(m, *[1] * (t.dim() - 1)))
    starts = theta.repeat_interleave(n, 0)
    ends = adapt(learner.kernel, starts, support, order, sgd(RATE)).theta
    return _answers(learner, ends, query).view(m, n, -1)


def draw(axes: Sequence[Axes], found: Way, place: int, other: int) -> None:
    """Draw both fits, and both losses along the way with a mark at the place."""
    own, after = found.own_losses, found.other_losses[:, other]
    fits = (
        ("the wave that pulls", found.pulling, found.before[place], plots.BLUE),
        (
            "another, adapted",
            found.others.map(lambda t: t[other]),
            found.after[place, other],
            plots.GREEN,
        ),
    )
    for axis, (title, wave, answer, colour) in zip(axes[:2], fits, strict=True):
        axis.plot(wave.x, wave.y, color="0.5", ls="-", lw=5, alpha=0.4)
        axis.plot(wave.x, answer, color=colour, ls="-")
        axis.set(title=title, xlabel="x", xticks=[-5, 0, 5], ylim=(-6, 6))
    given = found.given.map(lambda t: t[other])
    axes[1].plot(given.x, given.y, "o", ms=4, color="0.2")
    curves = (own, plots.BLUE), (after, plots.GREEN)
    for axis, (curve, colour) in zip(axes[2:], curves, strict=True):
        axis.plot(PLACES, curve, color=colour, ls="-")
        axis.plot(PLACES[place], curve[place], "o", color=colour)
        axis.set(xlabel="part ε of the way", xticks=[0, 0.5, 1])
        axis.set_ylim(0, 1.1 * curve.max().item())
    for axis in (axes[0], axes[2]):
        axis.set_ylabel("y" if axis is axes[0] else "squared error")


def picture(found: Way, place: int, other: int) -> bytes:
    """Return the drawing as PNG."""
    with plots.as_png(4.6) as (figure, png):
        draw(list(figure.subplots(2, 2).flat), found, place, other)
    return png.getvalue()


class SegmentControl(VBox):  # type: ignore[misc]
    """A start, a place on the way from it, the fits there, and the losses."""

    def __init__(self, ways: Mapping[str, Way]) -> None:
        self.ways = dict(ways)
        self.start = ToggleButtons(options=list(self.ways), description="φ")
        options = [(f"{place:.2f}", i) for i, place in enumerate(PLACES)]
        self.place = SelectionSlider(
            options=options, value=PLACES.index(0), description="ε"
        )
        count = len(self.ways[self.start.value].given.y)
        self.other = IntSlider(1, 1, count, description="other wave")
        self.image, self.words = Image(format="png"), HTML()
        for chosen in (self.start, self.place, self.other):
            chosen.observe(self.show, "value")
        super().__init__([self.start, self.place, self.other, self.words, self.image])
        self.show()

    def show(self, _: object = None) -> None:
        """Draw what is chosen and say how far off the network is."""
        found = self.ways[self.start.value]
        place, other = self.place.value, self.other.value - 1
        self.image.value = picture(found, place, other)
        own, after = found.own_losses[place], found.other_losses[place]
        self.words.value = (
            f"squared error of the wave that pulls: {own:.2f}; of the other one, once"
            f" adapted: {after[other]:.2f} (mean of {len(after)}: {after.mean():.2f})"
        )


def segment_control(ways: Mapping[str, Way]) -> SegmentControl:
    """Return the control.

    Args:
        ways: by name of the start, with as many other waves each.
    """
    return SegmentControl(ways)
