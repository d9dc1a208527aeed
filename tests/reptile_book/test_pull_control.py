"""The control of page 2.2: its numbers, and what its slider does."""

import re

import matplotlib.pyplot as plt
import pytest
import torch

from reptile_book.pull_control import DISTANCES, edge, pull_control, pulls
from reptile_lib import SwitchAtThreshold, SwitchEvery

pytestmark = pytest.mark.slow


def test_a_fixed_number_of_steps_goes_a_part_of_the_way() -> None:
    pull, steps = pulls(SwitchEvery(2), 0.5, DISTANCES)
    torch.testing.assert_close(pull, 0.75 * DISTANCES)
    assert set(steps.tolist()) == {2}


@pytest.mark.parametrize("alpha", [0.5, 0.05])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_a_threshold_leads_just_over_its_edge(alpha: float, c: float) -> None:
    pull, steps = pulls(SwitchAtThreshold(c), alpha, DISTANCES)
    r, left = edge(c), DISTANCES - pull
    near, far = r - 1e-9 > DISTANCES, r + 1e-9 < DISTANCES
    assert pull[near].eq(0).all()
    assert steps[near].eq(0).all()
    assert left[far].max() < r + 1e-9
    assert left[far].min() > (1 - alpha) * r - 1e-9


def test_the_example_of_the_page() -> None:
    minima = torch.tensor([16.0, 4.0, 1.0])
    pull, steps = pulls(SwitchAtThreshold(1.0), 0.5, minima)
    assert pull.tolist() == [15, 3, 0]
    assert steps.tolist() == [4, 2, 0]


def test_the_slider_shows_the_numbers_of_its_value() -> None:
    control = pull_control()
    pictures = set()
    for c in (0.5, 2.0, 8.0):
        control.c.value = c
        told = [
            float(n) for n in re.findall(r"\d+(?:\.\d+)?", str(control.words.value))
        ]
        d = torch.tensor([2.5, 7.5])
        pull, steps = pulls(SwitchAtThreshold(c), 0.5, d)
        assert told[0] == pytest.approx((2 * c) ** 0.5, abs=0.006)
        assert told[2::3] == d.tolist()
        assert told[3::3] == steps.tolist()
        assert told[4::3] == pytest.approx(pull.tolist(), abs=0.006)
        pictures.add(bytes(control.image.value))
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_no_figure_is_left_open_and_no_style_is_changed() -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    pull_control().c.value = 1.0
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
