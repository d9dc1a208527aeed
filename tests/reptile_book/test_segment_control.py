"""The control of page 2.3: its numbers, and what its sliders do."""

import copy

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from reptile_book.segment_control import (
    PLACES,
    RATE,
    Way,
    inner_loops,
    losses,
    losses_once_adapted,
    segment_control,
    way,
)
from reptile_lib import Reptile, Sine, draw, mlp, sgd
from reptile_lib.learner import MetaLearner
from reptile_lib.tasks import Episodes

pytestmark = pytest.mark.slow

TRAINED_AT, STEPS = 0.05, 3


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    network = mlp(1, 8, 8, 1, activation=nn.Tanh, seed=0)
    return Reptile(network, sgd(TRAINED_AT), STEPS, criterion=F.mse_loss, device="cpu")


@pytest.fixture(scope="module")
def pulling() -> Episodes:
    tasks = Sine(points=12, query_points=15)
    return draw(tasks, 2, inner_steps=STEPS, inner_batch=5)


@pytest.fixture(scope="module")
def others() -> Episodes:
    return draw(Sine(points=6, query_points=15), 3, seed=1, inner_steps=STEPS)


@pytest.fixture(scope="module")
def found(learner: MetaLearner, pulling: Episodes, others: Episodes) -> Way:
    return way(learner, pulling, others, number=1)


def network_at(learner: MetaLearner, theta: Tensor) -> nn.Module:
    network = copy.deepcopy(learner.model)
    vector_to_parameters(theta.clone(), network.parameters())
    return network


def by_hand(network: nn.Module, waves: Episodes, number: int, rate: float) -> None:
    """Adapt with plain torch to one of the waves."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for rows in waves.order[number]:
        optimizer.zero_grad()
        x, y = waves.support.map(lambda t: t[number])
        F.mse_loss(network(x[rows]), y[rows]).backward()
        optimizer.step()


def off(network: nn.Module, waves: Episodes, number: int) -> Tensor:
    with torch.no_grad():
        x, y = waves.query.map(lambda t: t[number])
        return F.mse_loss(network(x), y)


def test_the_far_end_is_what_plain_torch_reaches(
    learner: MetaLearner, pulling: Episodes
) -> None:
    ends = inner_loops(learner, pulling)
    for number in range(2):
        network = copy.deepcopy(learner.model)
        by_hand(network, pulling, number, TRAINED_AT)
        reached = nn.utils.parameters_to_vector(network.parameters())
        torch.testing.assert_close(ends[number], reached.detach())
        expected = off(network, pulling, number)
        torch.testing.assert_close(losses(learner, ends, pulling)[number], expected)


def test_others_are_adapted_to_from_every_row(
    learner: MetaLearner, pulling: Episodes, others: Episodes
) -> None:
    starts = inner_loops(learner, pulling)
    measured = losses_once_adapted(learner, starts, others)
    assert measured.shape == (2, 3)
    for row, start in enumerate(starts):
        for number in range(3):
            network = network_at(learner, start)
            by_hand(network, others, number, RATE)
            expected = off(network, others, number)
            torch.testing.assert_close(measured[row, number], expected)


def test_a_way_leads_through_both_ends(
    learner: MetaLearner, pulling: Episodes, others: Episodes, found: Way
) -> None:
    end = inner_loops(learner, pulling)
    for place, theta in ((0.0, learner.phi.expand(2, -1)), (1.0, end)):
        i = PLACES.index(place)
        own = losses(learner, theta, pulling)[1]
        torch.testing.assert_close(found.own_losses[i], own)
        after = losses_once_adapted(learner, theta, others)[1]
        torch.testing.assert_close(found.other_losses[i], after)
    assert (PLACES[0], PLACES[-1]) == (-0.2, 1.2)
    assert found.after.shape == (len(PLACES), 3, 15)


def test_sliders_and_buttons_show_that_place_and_that_wave(
    learner: MetaLearner, pulling: Episodes, others: Episodes, found: Way
) -> None:
    ways = {"a": found, "b": way(learner, pulling, others, number=0)}
    control = segment_control(ways)
    assert (control.start.value, control.place.label) == ("a", "0.00")
    pictures = {bytes(control.image.value)}
    for start, place, other in (("a", 1.0, 1), ("a", 0.3, 3), ("b", 0.3, 3)):
        i = PLACES.index(place)
        control.start.value, control.place.value, control.other.value = start, i, other
        own, after = ways[start].own_losses[i], ways[start].other_losses[i]
        assert control.words.value == (
            f"squared error of the wave that pulls: {own:.2f}; of the other one, once"
            f" adapted: {after[other - 1]:.2f} (mean of 3: {after.mean():.2f})"
        )
        assert bytes(control.image.value) not in pictures
        pictures.add(bytes(control.image.value))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert control.other.max == 3


def test_no_figure_is_left_open_and_no_style_is_changed(found: Way) -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    segment_control({"a": found}).place.value = 3
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
