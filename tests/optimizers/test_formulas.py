"""Inner optimisers and rules that stop, in the head; `test_kernels` runs the loops."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from reptile_lib import (
    SwitchEvery,
    UserError,
    adam,
    gd,
    momentum,
    sgd,
)
from reptile_lib.inner import InnerOptimizer
from reptile_lib.optimizers.formulas import same_but_rate, with_rates


def test_momentum_by_hand() -> None:
    # g = 1, then 2: m = 1, then 0.5·1 + 2 = 2.5; θ = 0 − 0.1·1 − 0.1·2.5
    inner = momentum(0.1, 0.5)
    theta, state = torch.zeros(1), inner.init(torch.zeros(1))
    for g in (1.0, 2.0):
        theta, state = inner.update(torch.tensor([g]), state, theta)
    assert theta.item() == pytest.approx(-0.35)
    assert state["m"].item() == pytest.approx(2.5)


def test_first_adam_step_without_moments_is_a_step_of_full_size() -> None:
    # v̂ = g² after one step, so θ moves by lr whatever the gradient's size: the reason
    # why resetting moments between tasks is another procedure than carrying them.
    inner = adam(1e-3, betas=(0.0, 0.999))
    g, theta = torch.tensor([1e-4, -7.0]), torch.zeros(2)
    moved, state = inner.update(g, inner.init(theta), theta)
    torch.testing.assert_close(moved, torch.tensor([-1e-3, 1e-3]), rtol=2e-4, atol=0)
    assert "m" not in state


def test_adams_bias_correction_is_exact_in_float32() -> None:
    # a constant gradient gives v̂ = g² at every step, also late in training
    inner = adam(1.0, betas=(0.0, 0.999))
    g = torch.tensor([0.5])
    for step in (0.0, 1.0, 10.0, 1e4, 2e6):
        v = 0.25 * (1 - 0.999**step)
        state = {"step": torch.tensor(step), "v": torch.tensor([v])}
        moved, _ = inner.update(g, state, torch.zeros(1))
        assert moved.item() == pytest.approx(-1, rel=1e-6)


def test_a_rate_for_each_weight_in_the_head() -> None:
    # g = (1, 1): rates of 1 and 2 go 1 and 2 down; halved momentum, half of it again
    rates = torch.tensor([1.0, 2.0])
    for inner, ends in (
        (sgd(rates), [-2.0, -4.0]),
        (momentum(rates, 0.5), [-2.5, -5.0]),
        (adam(rates), [-2.0, -4.0]),
    ):
        theta = torch.zeros(2)
        state = inner.init(theta)
        for _ in range(2):
            theta, state = inner.update(torch.ones(2), state, theta)
        assert theta.tolist() == pytest.approx(ends)
        assert torch.equal(state["lr"], rates)


MADE = [
    sgd(0.1),
    gd(0.1),
    momentum(0.1, 0.5),
    adam(0.1),
    adam(0.1, (0.5, 0.9)),
    sgd(torch.tensor([[0.1], [0.2]], dtype=torch.float64)),
    momentum(torch.tensor(0.1, dtype=torch.float64)),
    adam(torch.tensor([[0.1], [0.2]], dtype=torch.float64), (0.5, 0.9)),
]


@pytest.mark.parametrize("inner", MADE, ids=lambda inner: inner.name)
def test_the_formula_is_the_update(inner: InnerOptimizer) -> None:
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(2, 5, generator=g, dtype=torch.float64)
    state = inner.init(theta)
    own, mine = theta.clone(), {n: v.clone() for n, v in state.items()}
    assert inner.formula is not None
    for _ in range(3):
        gradient = torch.randn(2, 5, generator=g, dtype=torch.float64)
        before = gradient.clone()
        theta, state = inner.update(gradient, state, theta)
        inner.formula.in_place(gradient, mine, own)
        assert torch.equal(gradient, before)
        torch.testing.assert_close(own, theta, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(mine, state, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("inner", MADE, ids=lambda inner: inner.name)
@pytest.mark.parametrize(
    "again", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy]
)
def test_optimisers_can_be_copied(
    inner: InnerOptimizer, again: Callable[[InnerOptimizer], InnerOptimizer]
) -> None:
    twin = again(inner.until(SwitchEvery(2)))
    assert (twin.name, twin.full_batch) == (inner.name, inner.full_batch)
    assert twin.stop == SwitchEvery(2)
    theta, g = torch.zeros(2, 3).double(), torch.ones(2, 3).double()
    moved, _ = twin.update(g, twin.init(theta), theta)
    assert torch.equal(moved, inner.update(g, inner.init(theta), theta)[0])


def test_an_optimiser_of_ones_own_does_not_know_itself_at_other_rates() -> None:
    own = InnerOptimizer("own", 1.0, lambda theta: {}, lambda g, s, t: (t - g, s))
    with pytest.raises(UserError, match=r"'own' does not say .*; make it anew"):
        with_rates(own, torch.tensor([[0.5]]))


def test_other_rates_in_the_place_of_others_and_a_rule_that_stops_stays() -> None:
    stopping = momentum(0.1, 0.5).until(SwitchEvery(1))
    once = with_rates(stopping, torch.tensor([[0.1], [0.2]]))
    twice = with_rates(once, torch.tensor([[0.5], [0.25]]))
    assert twice.stop == SwitchEvery(1)
    theta = torch.zeros(2, 3)
    moved, _ = twice.update(torch.ones(2, 3), twice.init(theta), theta)
    assert moved[:, 0].tolist() == [-0.5, -0.25]


def test_optimisers_that_are_the_same_but_for_a_rate() -> None:
    assert same_but_rate(sgd(0.1), sgd(0.5))
    assert same_but_rate(adam(0.1, (0.5, 0.9)), adam(0.2, (0.5, 0.9)))
    own = InnerOptimizer("own", 1.0, lambda theta: {}, lambda g, s, t: (t - g, s))
    assert same_but_rate(own, own)
    rates = torch.tensor([[0.1], [0.2]])
    for one, other in (
        (sgd(0.1), gd(0.1)),
        (sgd(0.1), momentum(0.1)),
        (momentum(0.1, 0.5), momentum(0.1, 0.6)),
        (sgd(0.1), sgd(0.1).until(SwitchEvery(1))),
        (own, sgd(1.0)),
        (own, replace(own, lr=2.0)),
        (sgd(rates), sgd(rates.clone())),
        (sgd(rates), sgd(0.1)),
    ):
        assert not same_but_rate(one, other)


@pytest.mark.parametrize("make", [sgd, gd, momentum, adam])
@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_named(
    make: Callable[[float], InnerOptimizer], lr: float
) -> None:
    with pytest.raises(UserError, match=f"{make.__name__}: lr = {lr} .* positive"):
        make(lr)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(UserError, match=rf"beta = {beta}; .* \[0, 1\)"):
        momentum(0.1, beta)
    with pytest.raises(UserError, match=rf"betas\[0\] = {beta}; .* \[0, 1\)"):
        adam(0.1, (beta, 0.9))
    with pytest.raises(UserError, match=rf"betas\[1\] = {beta}; .* \[0, 1\)"):
        adam(0.1, (0.0, beta))
