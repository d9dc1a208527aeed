"""The book's films: small, looping, and made of what the library computes."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
FILMS = {
    "reptile": ROOT / "_static" / "make_animation.py",
    "manifolds": ROOT / "chapters" / "03-algorithm" / "make_manifolds.py",
}


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def script():
    return module(FILMS["reptile"])


def distances(script, point):
    return ((point - script.ARCS[:3, :2]).norm(dim=1) - script.ARCS[:3, 2]).abs()


def test_outer_steps_lead_near_every_task(script):
    phi = script.START
    for step, (task, path, new) in enumerate(script.meta_steps()):
        assert torch.equal(path[0], phi)
        assert distances(script, path[-1])[task] < 0.2 * distances(script, phi)[task]
        epsilon = script.EPSILON(step / script.META_STEPS)
        torch.testing.assert_close(new, phi + epsilon * (path[-1] - phi))
        phi = new
    assert (distances(script, phi) < 0.75).all()
    assert (distances(script, script.START) > 1.5).all()


@pytest.mark.parametrize("name", FILMS)
def test_the_film_is_small_and_loops(name):
    path = FILMS[name].with_name(f"{name}.gif")
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        seconds = 0
        for frame in range(film.n_frames):
            film.seek(frame)
            seconds += film.info["duration"] / 1000
        with Image.open(path.with_suffix(".png")) as still:
            assert still.size == film.size
    assert 6 < seconds < 20
    assert path.stat().st_size < 400_000


def frames(path):
    """Return the pixels of every eighth frame and of the last, and all durations."""
    with Image.open(path) as film:
        durations, pixels = [], []
        for frame in range(film.n_frames):
            film.seek(frame)
            durations.append(film.info["duration"])
            if frame % 8 == 0 or frame == film.n_frames - 1:
                pixels.append(np.asarray(film.convert("L"), dtype=float) / 255)
        return np.stack(pixels), durations


@pytest.mark.parametrize("name", FILMS)
def test_the_stored_film_is_what_its_script_makes(name, tmp_path):
    copy = Path(shutil.copy(FILMS[name], tmp_path))
    module(copy).main()
    (stored, times), (made, new_times) = (
        frames(folder / f"{name}.gif") for folder in (FILMS[name].parent, tmp_path)
    )
    assert new_times == times
    # Letters are drawn a little differently by other versions of the fonts' library;
    # a point or line elsewhere would be some hundred pixels.
    assert np.abs(made - stored).mean(axis=(1, 2)).max() < 1e-3
    assert np.abs(stored[0] - stored[-1]).mean() > 5e-3  # what a difference amounts to
