"""The control of page 1.2: its numbers, and what its slider and buttons do."""

import copy

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_book.wave_control import LAST_STEP, Fit, fit, wave_control
from reptile_lib import Reptile, Sine, adaptation_curve, draw, mlp, sgd
from reptile_lib.learner import MetaLearner
from reptile_lib.tasks import Episodes

pytestmark = pytest.mark.slow

RATE = 0.02


def learner(seed: int) -> MetaLearner:
    network = mlp(1, 8, 8, 1, activation=nn.Tanh, seed=seed)
    return Reptile(network, sgd(0.5), 1, criterion=F.mse_loss, device="cpu")


@pytest.fixture(scope="module")
def wave() -> Episodes:
    return draw(Sine(points=10), 2)


@pytest.fixture(scope="module")
def fits(wave: Episodes) -> dict[str, Fit]:
    return {name: fit(learner(i), wave, RATE) for i, name in enumerate(("a", "b"))}


def test_a_fit_is_what_plain_torch_does(wave: Episodes, fits: dict[str, Fit]) -> None:
    network = copy.deepcopy(learner(0).model)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    x, y = wave.support.x[0], wave.support.y[0]
    for step in range(LAST_STEP + 1):
        answers = network(wave.query.x[0])[:, 0].detach()
        torch.testing.assert_close(fits["a"].answers[step], answers)
        optimizer.zero_grad()
        F.mse_loss(network(x), y).backward()
        optimizer.step()


def test_losses_are_those_of_the_library(fits: dict[str, Fit]) -> None:
    other = learner(1)
    other.inner = sgd(RATE)
    curve = adaptation_curve(other, Sine(points=10), inner_steps=LAST_STEP, count=1)
    torch.testing.assert_close(fits["b"].losses, curve[0].float())


def test_slider_and_buttons_show_that_fit(wave: Episodes, fits: dict[str, Fit]) -> None:
    control = wave_control(wave, fits)
    pictures = {bytes(control.image.value)}
    for name, steps in (("a", 8), ("b", 8), ("b", LAST_STEP)):
        control.start.value, control.steps.value = name, steps
        loss = fits[name].losses[steps]
        assert control.words.value == f"squared error on the whole wave: {loss:.2f}"
        assert bytes(control.image.value) not in pictures
        pictures.add(bytes(control.image.value))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_the_control_begins_before_the_first_step(
    wave: Episodes, fits: dict[str, Fit]
) -> None:
    control = wave_control(wave, fits)
    assert (control.start.value, control.steps.value) == ("a", 0)
    assert control.words.value.endswith(f"{fits['a'].losses[0]:.2f}")
    assert control.steps.max == LAST_STEP


def test_no_figure_is_left_open_and_no_style_is_changed(
    wave: Episodes, fits: dict[str, Fit]
) -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    wave_control(wave, fits).steps.value = 3
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
