"""Minibatches, and what holds for the tasks of every distribution."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_lib import (
    Episodes,
    Examples,
    FewShotTasks,
    GroupTasks,
    Quadratics,
    Sine,
    draw,
    load,
)
from reptile_lib.rng import TEST, TRAIN, Draws, draws
from reptile_lib.tasks import Tasks, minibatches
from tests.kit import CPU, many, tensors


def orders(who: Draws, size: int, k: int, b: int | None) -> Tensor:
    """Return the minibatches [m, k, b] of support sets of `size` examples."""
    episodes = Sine(points=size).sample(who)
    return minibatches(episodes, who, k, b).order


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 12),
    k=st.integers(0, 6),
    b=st.integers(1, 15),
)
def test_minibatches_are_reshuffled_passes(
    seed: int, size: int, k: int, b: int
) -> None:
    order = orders(many(2, seed), size, k, b)
    assert order.shape == (2, k, b)
    for row in order.flatten(1).tolist():
        for start in range(0, k * b, size):  # the last pass may be cut short
            one_pass = row[start : start + size]
            assert len(set(one_pass)) == len(one_pass)
            assert set(one_pass) <= set(range(size))


def test_each_pass_is_shuffled_anew_and_a_minibatch_spans_the_seam() -> None:
    order = orders(many(500), 6, 3, 4).flatten(1)  # 12 = two passes
    first, second = order[:, :6], order[:, 6:]
    assert (first != second).any(1).float().mean() > 0.99  # 719/720
    assert (first[1:] != first[:-1]).any(1).float().mean() > 0.99
    places = torch.bincount((second * 6 + torch.arange(6)).flatten(), minlength=36)
    assert ((places - 500 / 6) ** 2 / (500 / 6)).sum() < 65  # 25 d. o. f.


def test_full_batch_takes_every_example_in_every_step() -> None:
    order = orders(many(3), 7, 4, None)
    assert torch.equal(order.sort().values, torch.arange(7).expand(3, 4, 7))


DISTRIBUTIONS = [
    FewShotTasks(load("glyphs").test, ways=3, shots=3),
    Sine(points=7, query_points=9),
    Quadratics(torch.eye(3).expand(5, 3, 3), torch.arange(15.0).view(5, 3)),
    FewShotTasks(
        Examples([torch.randn(n, 2) for n in (4, 9, 5, 4)], tuple("abcd")), 3, 3
    ),
    GroupTasks(torch.randn(30, 2), torch.randn(30), torch.arange(30) % 4, shots=5),
]
each_distribution = pytest.mark.parametrize(
    "tasks", DISTRIBUTIONS, ids=lambda tasks: type(tasks).__name__
)


@each_distribution
@pytest.mark.parametrize("inner_batch", [2, None])
def test_a_task_does_not_depend_on_the_tasks_beside_it(
    tasks: Tasks, inner_batch: int | None
) -> None:
    def cut(who: Draws) -> Episodes:
        return minibatches(tasks.sample(who), who, 4, inner_batch)

    together = cut(draws(3, TRAIN, range(10, 14), range(5), CPU))
    for i, (step, task) in enumerate(product(range(10, 14), range(5))):
        alone = tensors(cut(Draws(3, TRAIN, torch.tensor([[step, task]]))))
        part = [t[i : i + 1] for t in tensors(together)]
        assert all(torch.equal(a, b) for a, b in zip(alone, part, strict=True))


@each_distribution
def test_no_step_and_the_other_device_are_served(tasks: Tasks) -> None:
    assert draw(tasks, 2, inner_batch=3).order.shape == (2, 0, 3)
    moved = tasks.to(CPU)
    pairs = zip(*(tensors(t.sample(many(2))) for t in (tasks, moved)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@each_distribution
def test_drawing_shows_the_tasks_that_evaluation_draws(tasks: Tasks) -> None:
    who = draws(7, TEST, range(1), range(3), CPU)
    expected = minibatches(tasks.sample(who), who, 2, 3)
    found = draw(tasks, 3, 7, inner_steps=2, inner_batch=3)
    pairs = zip(tensors(found), tensors(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
