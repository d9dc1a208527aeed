"""The preface's picture: small, looping, and made of what the library computes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

STATIC = Path(__file__).parents[2] / "_static"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "make_animation", STATIC / "make_animation.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_film_is_small_and_loops():
    with Image.open(STATIC / "reptile.gif") as film:
        assert film.info["loop"] == 0
        seconds = 0
        for frame in range(film.n_frames):
            film.seek(frame)
            seconds += film.info["duration"] / 1000
        with Image.open(STATIC / "reptile.png") as still:
            assert still.size == film.size
    assert 6 < seconds < 12
    assert (STATIC / "reptile.gif").stat().st_size < 400_000
