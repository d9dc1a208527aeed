"""The control of page 3.3: its numbers, and what its sliders do."""

import re

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from reptile_book.rest_control import LAST_K, loss_after, rest_control, starts, walk
from reptile_lib import Quadratics

pytestmark = pytest.mark.slow

BOWLS = Quadratics(
    H=torch.tensor(
        [[[1.8, 0.4], [0.4, 0.5]], [[0.3, 0.0], [0.0, 1.0]], [[0.5, -0.2], [-0.2, 0.4]]]
    ).double(),
    w=torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]]).double(),
)


def descended(phi: Tensor, alpha: float, k: int) -> float:
    """Return the mean loss after k steps of gradient descent on every bowl."""
    losses = []
    for H, w in zip(BOWLS.H, BOWLS.w, strict=True):
        theta = phi
        for _ in range(k):
            theta = theta - alpha * H @ (theta - w)
        losses.append(float((theta - w) @ H @ (theta - w) / 2))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("alpha", "k"), [(0.5, 5), (0.1, 1), (0.9, 2)])
def test_the_loss_after_k_steps_is_that_of_gradient_descent(
    alpha: float, k: int
) -> None:
    for phi in starts(BOWLS, alpha, k):
        assert loss_after(phi, BOWLS, alpha, k) == pytest.approx(
            descended(phi, alpha, k)
        )


def test_the_best_start_is_the_best_and_one_step_is_joint_training() -> None:
    at = starts(BOWLS, 0.3, 1)
    torch.testing.assert_close(at.rest, at.joint)
    left = [loss_after(phi, BOWLS, 0.3, 1) for phi in at]
    assert left[2] < left[1]
    nearby = at.best + torch.tensor([0.01, -0.02])
    assert left[2] < loss_after(nearby, BOWLS, 0.3, 1)


def test_the_walk_leads_from_joint_training_to_the_mean_of_the_minima() -> None:
    path = walk(BOWLS, 0.5)
    assert path.shape == (LAST_K, 2)
    torch.testing.assert_close(path[0], starts(BOWLS, 0.5, 1).joint)
    torch.testing.assert_close(path[-1], BOWLS.w.mean(0), rtol=0, atol=1e-3)
    assert (path - path[0]).norm(dim=1).diff().min() > 0


def test_a_slider_shows_the_numbers_of_its_value() -> None:
    control = rest_control(BOWLS)
    pictures = set()
    for alpha, k in ((0.5, 5), (0.5, 20), (0.9, 20), (0.9, 2)):
        control.alpha.value, control.k.value = alpha, k
        at = starts(BOWLS, alpha, k)
        told = [
            float(n)
            for n in re.findall(r"-?\d[\d.]*(?:e-\d+)?", str(control.words.value))
        ]
        assert told[:2] == pytest.approx(at.rest.tolist(), abs=0.006)
        assert told[2] == k
        expected = [descended(phi, alpha, k) for phi in at]
        assert told[3:] == pytest.approx(expected, rel=0.06)
        pictures.add(bytes(control.image.value))
    assert len(pictures) == 4
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_no_figure_is_left_open_and_no_style_is_changed() -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    rest_control(BOWLS).k.value = 2
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
