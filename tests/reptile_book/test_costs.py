"""Costs: what is counted is what was done."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_book import costs
from reptile_lib import FOMAML, MAML, Reptile, Sine, mlp, sgd
from reptile_lib.fast.choose import Engine
from reptile_lib.learner import MetaLearner


def learner(make: object, inner_steps: int) -> MetaLearner:
    assert callable(make)
    made = make(
        mlp(1, 8, 1, activation=nn.Tanh),
        inner=sgd(0.1),
        inner_steps=inner_steps,
        inner_batch=4,
        criterion=F.mse_loss,
        device="cpu",
        engine="serial",
    )
    assert isinstance(made, MetaLearner)
    return made


def test_memory_that_is_given_back_is_counted_once() -> None:
    with costs.PeakBytes() as memory:
        kept = [torch.zeros(25) for _ in range(3)]
        kept.clear()
        torch.zeros(10)
    assert (memory.now, memory.peak) == (0, 300)


def test_views_and_what_was_there_before_cost_nothing() -> None:
    before = torch.zeros(100)
    with costs.PeakBytes() as memory:
        views = [before[:50], before.view(10, 10), before.add_(1)]
    assert memory.peak == 0
    assert len(views) == 3


def test_what_was_there_before_counts_where_it_is_touched() -> None:
    before, unused = torch.zeros(100), torch.zeros(7)
    with costs.PeakBytes(touched=True) as memory:
        after = before[:50] + 1
        assert memory.now == 400 + 200
        del after
    assert (memory.now, memory.peak) == (400, 600)
    assert unused.numel() == 7


def test_what_autograd_keeps_is_counted_until_it_is_let_go() -> None:
    x = torch.zeros(100, requires_grad=True)
    with costs.PeakBytes() as memory:
        y = x.exp().exp()  # the first factor is kept for the way back
        assert memory.now == 800
        del y
        assert memory.now == 0


def test_operations_of_a_linear_layer() -> None:
    layer = nn.Linear(5, 7, bias=False)
    x = torch.zeros(3, 5)
    assert costs.operations(lambda: layer(x)) == 2 * 3 * 5 * 7
    both_ways = costs.operations(lambda: layer(x).sum().backward())
    assert both_ways == 2 * 2 * 3 * 5 * 7  # x asks for no gradient


def test_only_maml_keeps_its_steps() -> None:
    tasks = Sine(points=8, query_points=4)

    def more(make: object) -> int:
        few, many = (costs.meta_step(learner(make, k), tasks) for k in (2, 12))
        return costs.peak_bytes(many) - costs.peak_bytes(few)

    losses, weights = 4 * 10, 4 * 25
    assert (more(Reptile), more(FOMAML)) == (losses, losses)  # kept to be reported
    assert more(MAML) > 10 * weights
    reptile, fomaml, maml = (
        costs.operations(costs.meta_step(learner(make, 4), tasks))
        for make in (Reptile, FOMAML, MAML)
    )
    assert fomaml == reptile + reptile // 4  # one gradient more
    assert maml > 2 * reptile


def test_a_meta_step_leaves_the_learner_and_repeats() -> None:
    it = learner(Reptile, 3)
    before = it.phi.clone()
    act = costs.meta_step(it, Sine(points=8), meta_batch=2)
    assert costs.operations(act) == costs.operations(act)
    assert costs.peak_bytes(act) == costs.peak_bytes(act)
    assert torch.equal(it.phi, before)
    assert not it.history


def test_the_slower_one_takes_more_seconds() -> None:
    order: list[str] = []

    def wait(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    found = costs.seconds(
        {"a": lambda: wait("a", 0.001), "b": lambda: wait("b", 0.02)}, rounds=3
    )
    assert order == ["a", "b"] * 3
    assert found["b"] > found["a"]


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_counts_do_not_depend_on_the_engine(engine: Engine) -> None:
    it = learner(MAML, 4)
    it.criterion = lambda out, y: F.mse_loss(out, y)  # no gradient by hand for it
    act = costs.meta_step(it, Sine(points=8))
    it.engine = engine
    again = costs.meta_step(it, Sine(points=8))
    assert costs.operations(again) == costs.operations(act)
    assert costs.peak_bytes(again) == costs.peak_bytes(act)
