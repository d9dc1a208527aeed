"""The book's films: small, looping, and made of what the library computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reptile_book import animation, manifolds

HERE = manifolds.HERE


def distances(point: Tensor) -> Tensor:
    arcs = animation.ARCS
    return ((point - arcs[:, :2]).square().sum(1).sqrt() - arcs[:, 2]).abs()


def test_outer_steps_lead_near_every_task() -> None:
    phi = animation.START
    for task, path, new in animation.meta_steps(animation.SHOWN):
        assert torch.equal(path[0], phi)
        assert distances(path[-1])[task] < 0.2 * distances(phi)[task]
        torch.testing.assert_close(new, phi + animation.EPSILON * (path[-1] - phi))
        phi = new
    assert (distances(phi) < 0.8).all()
    assert (distances(animation.START) > 1.5).all()


def test_the_film_is_small_and_loops() -> None:
    path = HERE / "manifolds.gif"
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        with Image.open(path.with_suffix(".png")) as still:
            assert still.size == film.size
    _, durations = frames(path)
    assert 6 < sum(durations) / 1000 < 20
    assert path.stat().st_size < 400_000


def frames(path: Path) -> tuple[NDArray[np.float64], list[int]]:
    """Return the pixels of every eighth frame and of the last, and all durations."""
    durations, pixels = [], []
    with Image.open(path) as film:
        count = getattr(film, "n_frames", 1)
        for frame in range(count):
            film.seek(frame)
            durations.append(film.info["duration"])
            if frame % 8 == 0 or frame == count - 1:
                pixels.append(np.asarray(film.convert("L"), dtype=np.float64) / 255)
    return np.stack(pixels), durations


def shades(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float64) / 255


# Letters are drawn a little differently by other versions of the fonts' library;
# a point or line elsewhere would be some hundred pixels.
ALIKE = 1e-3


@pytest.mark.slow
def test_the_stored_film_is_what_its_module_makes(tmp_path: Path) -> None:
    manifolds.main(tmp_path)
    (stored, times), (made, new_times) = (
        frames(folder / "manifolds.gif") for folder in (HERE, tmp_path)
    )
    assert new_times == times
    assert np.abs(made - stored).mean(axis=(1, 2)).max() < ALIKE
    assert np.abs(stored[0] - stored[-1]).mean() > 5e-3  # what a difference amounts to


@pytest.mark.slow
def test_the_stored_picture_is_what_its_module_makes(tmp_path: Path) -> None:
    animation.main(tmp_path)
    stored, made = (shades(f / "reptile.png") for f in (animation.HERE, tmp_path))
    assert np.abs(made - stored).mean() < ALIKE
    assert np.abs(stored - 1).mean() > 5e-3  # what all lines amount to
