"""The control of page 4.2: its numbers, and what its sliders do."""

import re

import matplotlib.pyplot as plt
import pytest
import torch

from reptile_book.first_steps_control import (
    BETAS,
    FAR,
    NEAR,
    PAST,
    STEPS,
    first_steps_control,
    walk,
)


def by_torch(w: float, alpha: float, beta2: float, past: list[float]) -> list[float]:
    """Let PyTorch's Adam see the past gradients, put the weight back, and walk."""
    weight = torch.nn.Parameter(torch.zeros(1).double())
    optimizer = torch.optim.Adam([weight], lr=alpha, betas=(0.0, beta2))
    for gradient in past:
        weight.grad = torch.tensor([gradient]).double()
        optimizer.step()
    weight.data.zero_()
    path = [0.0]
    for _ in range(STEPS):
        weight.grad = weight.detach() - w
        optimizer.step()
        path.append(weight.item())
    return path


@pytest.mark.parametrize("w", [FAR, NEAR])
@pytest.mark.parametrize(("alpha", "beta2"), [(0.3, 0.999), (0.5, 0.9)])
def test_the_walks_are_those_of_torch(w: float, alpha: float, beta2: float) -> None:
    for memory, past in (("fresh", []), ("carried", [1.0, -1.0] * (PAST // 2))):
        expected = by_torch(w, alpha, beta2, past)
        assert walk(w, alpha, beta2, memory).tolist() == pytest.approx(expected)


@pytest.mark.slow
def test_a_slider_shows_the_ends_of_its_value() -> None:
    control = first_steps_control()
    pictures = set()
    for alpha, beta2 in ((0.3, 0.999), (0.3, 0.5), (0.8, 0.5)):
        control.alpha.value, control.beta2.value = alpha, beta2
        told = re.findall(r"(?:fresh|carried) (-?[\d.]+\d)", str(control.words.value))
        expected = [
            walk(w, alpha, beta2, memory)[-1].item()
            for w in (FAR, NEAR)
            for memory in ("fresh", "carried")
        ]
        assert [float(n) for n in told] == pytest.approx(expected, abs=0.006)
        pictures.add(bytes(control.image.value))
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert control.beta2.options == BETAS


@pytest.mark.slow
def test_no_figure_is_left_open_and_no_style_is_changed() -> None:
    figures, width = plt.get_fignums(), plt.rcParams["figure.figsize"]
    first_steps_control().alpha.value = 0.7
    assert plt.get_fignums() == figures
    assert plt.rcParams["figure.figsize"] == width
