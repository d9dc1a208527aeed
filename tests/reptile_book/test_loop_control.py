"""The control of page 1.1: its numbers, and what its buttons and sliders do."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from reptile_book.loop_control import (
    CURVATURES,
    LAST_MOVE,
    SOLUTIONS,
    START,
    Stepper,
    meta_steps,
    stepper,
)

pytestmark = pytest.mark.slow


def expected(count: int, epsilon: float, alpha: float, k: int) -> Tensor:
    """Return φ by the closed form: k steps leave (1 − αh)^k of the way to w."""
    phi = START
    for step in range(count):
        w, h = SOLUTIONS[step % 4], CURVATURES[step % 4]
        adapted = w + (1 - alpha * h) ** k * (phi - w)
        phi = phi + epsilon * (adapted - phi)
    return phi


def shown(control: Stepper) -> str:
    return str(control.words.value)


def words(count: int, epsilon: float, alpha: float, k: int) -> str:
    first, second = expected(count, epsilon, alpha, k).tolist()
    return f"{count} meta-steps done, φ = ({first:.2f}, {second:.2f})"


@pytest.mark.parametrize(("epsilon", "alpha", "k"), [(0.4, 0.45, 6), (1, 0.05, 1)])
def test_meta_steps_are_the_recursion(epsilon: float, alpha: float, k: int) -> None:
    rounds = meta_steps(9, epsilon, alpha, k)
    assert [step.task for step in rounds] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    for number, step in enumerate(rounds):
        assert step.inner.shape == (k + 1, 2)
        before = expected(number, epsilon, alpha, k)
        torch.testing.assert_close(step.inner[0], before)
        after = expected(number + 1, epsilon, alpha, k)
        torch.testing.assert_close(step.phi, after)


def test_the_first_inner_step_in_the_head() -> None:
    # task 1: w = (0.7, 2.5), h = (1, 0.15), from the origin at α = ½, ε = 1
    (step,) = meta_steps(1, 1.0, 0.5, 1)
    torch.testing.assert_close(step.inner[1], torch.tensor([0.35, 0.1875]))
    assert torch.equal(step.phi, step.inner[1])


def test_two_clicks_are_a_meta_step() -> None:
    control = stepper()
    assert control.next.description == "inner loop on task 1"
    assert shown(control) == "0 meta-steps done, φ = (0.00, 0.00)"
    pictures = {bytes(control.image.value)}
    for count in range(1, 4):
        control.next.click()
        assert control.next.description == "outer step"
        assert shown(control) == words(count - 1, 0.4, 0.45, 6)
        pictures.add(bytes(control.image.value))
        control.next.click()
        assert control.next.description == f"inner loop on task {count % 4 + 1}"
        assert shown(control) == words(count, 0.4, 0.45, 6)
        pictures.add(bytes(control.image.value))
    assert len(pictures) == 7
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_a_slider_draws_the_same_moves_with_its_value() -> None:
    control = stepper()
    control.moves = 6
    for name, value in (("epsilon", 1.0), ("k", 2), ("alpha", 0.8)):
        before = control.image.value
        getattr(control, name).value = value
        assert control.image.value != before
        settings = control.epsilon.value, control.alpha.value, control.k.value
        assert shown(control) == words(3, *settings)


def test_one_starts_again_and_comes_to_an_end() -> None:
    control = stepper()
    first = control.image.value
    control.moves = LAST_MOVE - 1
    control.next.click()
    assert control.next.disabled
    control.again.click()
    assert control.image.value == first
    assert not control.next.disabled


def test_no_figure_is_left_open_and_no_style_is_changed() -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    stepper().next.click()
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
