"""What the studies share."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from reptile_book import studies
from reptile_book.sine_starts import kernel_of, losses, network, tuned
from reptile_lib import Sine, UserError, adapt, draw, sgd
from reptile_lib.params import ravel
from reptile_lib.rng import VALIDATE


def test_grids_grow_at_either_end() -> None:
    grid = [1.0, 2.0]
    assert studies.grown(grid, 1.0)
    assert studies.grown(grid, 2.0, 3)
    assert not studies.grown(grid, 1.0)
    assert grid == [0.5, 1.0, 2.0, 6.0]


def test_what_is_recorded_is_not_made_again(tmp_path: Path) -> None:
    path, config = tmp_path / "a" / "b.json", {"x": 1}
    made = studies.kept(path, config, lambda: {"config": {"x": 1, "y": 2}, "z": 3})
    assert studies.kept(path, config, lambda: {"config": config}) == made
    assert json.loads(path.read_text("utf-8")) == made
    with pytest.raises(UserError, match=r"b.json is of other settings"):
        studies.kept(path, {"x": 2}, dict)


def test_seeds_are_numbers() -> None:
    assert studies.seeds_of("0,10") == [0, 10]
    with pytest.raises(UserError, match="--seeds 0,x: give numbers"):
        studies.seeds_of("0,x")


def test_a_mistake_is_told_and_ends_in_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.carried_out(lambda: None) == 0
    assert studies.carried_out(lambda: studies.seeds_of("?")) == 2
    assert capsys.readouterr().err == "--seeds ?: give numbers like 0,1,2\n"


def test_each_number_of_steps_gets_its_best_rate() -> None:
    sizes = (1, 8, 1)
    kernel, phi = kernel_of(sizes), ravel(network(sizes, 0))
    after = (1, 20)
    validation, test = (
        draw(Sine(10), 30, stream=stream, inner_steps=20) for stream in (VALIDATE, 2)
    )
    offered = {("SGD", rate): sgd(rate) for rate in (0.001, 0.05, 0.2)}
    best, found = tuned(kernel, phi, offered, (validation, test), after)
    assert found.shape == (30, 2)
    for j, steps in enumerate(after):
        means = {
            how: losses(kernel, phi, inner, validation, [steps]).mean().item()
            for how, inner in offered.items()
        }
        assert best[j] == min(means, key=means.__getitem__)
        order = test.order[:, :steps]
        there = adapt(kernel, phi, test.support, order, offered[best[j]])
        expected = kernel.losses(there.theta, test.query)
        torch.testing.assert_close(found[:, j], expected)
    assert best[0] != best[1]


def test_losses_are_those_of_plain_torch() -> None:
    sizes = (1, 8, 1)
    model = network(sizes, 3)
    tasks = draw(Sine(10), 1, inner_steps=4)
    kernel, phi = kernel_of(sizes), ravel(model)
    found = losses(kernel, phi, sgd(0.02), tasks, (0, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    x, y = tasks.query.x, tasks.query.y
    assert isinstance(x, torch.Tensor)
    assert isinstance(tasks.support.x, torch.Tensor)
    expected = [F.mse_loss(model(x[0]), y[0])]
    for order in tasks.order[0]:
        optimizer.zero_grad()
        F.mse_loss(
            model(tasks.support.x[0, order]), tasks.support.y[0, order]
        ).backward()
        optimizer.step()
    expected.append(F.mse_loss(model(x[0]), y[0]))
    torch.testing.assert_close(found[0], torch.stack(expected).detach())
