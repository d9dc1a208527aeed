"""Several seeds at once, against each one alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_lib import (
    FOMAML,
    MAML,
    FewShotTasks,
    InnerOptimizer,
    Joint,
    MetaLearner,
    Reptile,
    Sine,
    SwitchEvery,
    UserError,
    adam,
    constant,
    conv4,
    cosine,
    linear,
    load,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.fit.side_by_side import fit_side_by_side
from reptile_lib.meta import fomaml

pytestmark = pytest.mark.usefixtures("float64")
SEEDS = 3, 0, 8


def sine_learner(seed: int, **settings: Any) -> MetaLearner:
    model = mlp(1, 16, 1, activation=nn.Tanh, seed=seed).double()
    how: dict[str, Any] = {
        "inner": sgd(0.05),
        "inner_steps": 4,
        "inner_batch": 5,
        "device": "cpu",
    }
    return Reptile(model, criterion=F.mse_loss, **how | settings)


def picture_learner(seed: int) -> MetaLearner:
    criterion = partial(F.cross_entropy, reduction="sum")
    how: dict[str, Any] = {
        "inner": adam(1e-3),
        "inner_steps": 2,
        "inner_batch": 5,
        "device": "cpu",
    }
    return Reptile(conv4(3, seed=seed).double(), criterion=criterion, **how)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"inner": adam(1e-3)},
        {"inner": adam(1e-3), "moments": "reset", "outer": adam(1e-2, (0.9, 0.99))},
        {"engine": "serial"},
    ],
)
def test_each_run_is_what_it_is_alone(settings: dict[str, Any]) -> None:
    how: dict[str, Any] = {"meta_batch": 2, "epsilon": linear(1.0, 0.0)}
    alone = [sine_learner(seed, **settings) for seed in SEEDS]
    for seed, learner in zip(SEEDS, alone, strict=True):
        learner.fit(Sine(points=10), meta_steps=10, seed=seed, **how)
        learner.fit(Sine(points=10), meta_steps=30, seed=seed, **how)
    together = [sine_learner(seed, **settings) for seed in SEEDS]
    for meta_steps in (10, 30):
        fit_side_by_side(
            together, [Sine(points=10)] * 3, SEEDS, meta_steps=meta_steps, **how
        )
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.phi, one.phi, rtol=0, atol=1e-9)
        assert other.inner_state is not None
        assert one.inner_state is not None
        for name, value in one.inner_state.items():
            torch.testing.assert_close(other.inner_state[name], value)
        assert other.state.meta_step == 30
    for row, *others in zip(
        together[1].history, *(learner.history for learner in alone), strict=True
    ):
        mean = sum(other["loss"] for other in others) / len(others)
        assert row["loss"] == pytest.approx(mean)


METHODS = {"Reptile": Reptile, "FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}
INNERS: dict[str, Callable[[float], InnerOptimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": lambda lr: adam(lr / 10, (0.9, 0.99)),
}
RATES = 0.02, 0.05, 0.1
EPSILONS = linear(0.5, 0.0), constant(0.2), cosine(0.4, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)
@pytest.mark.parametrize("differ", ["seeds", "rates", "epsilons", "all"])
def test_runs_of_every_rule_may_differ_in_seed_rate_and_schedule(
    method: Callable[..., MetaLearner],
    inner: Callable[[float], InnerOptimizer],
    differ: str,
) -> None:
    all_differ = differ == "all"
    seeds = SEEDS if differ == "seeds" or all_differ else (3, 3, 3)
    rates = RATES if differ == "rates" or all_differ else (0.05,) * 3
    epsilons = EPSILONS if differ == "epsilons" or all_differ else EPSILONS[:1] * 3

    def learners() -> list[MetaLearner]:
        return [
            method(
                mlp(1, 8, 1, activation=nn.Tanh, seed=seed).double(),
                inner(rate),
                3,
                4,
                criterion=F.mse_loss,
                device="cpu",
            )
            for seed, rate in zip(seeds, rates, strict=True)
        ]

    tasks, alone, together = Sine(points=8, query_points=9), learners(), learners()
    for meta_steps in (2, 5):  # once more from where they stand
        how: dict[str, Any] = {"meta_steps": meta_steps, "meta_batch": 3}
        for i, learner in enumerate(alone):
            learner.fit(tasks, seed=seeds[i], epsilon=epsilons[i], **how)
        fit_side_by_side(together, [tasks] * 3, seeds, epsilon=epsilons, **how)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.phi, one.phi, rtol=0, atol=1e-12)
        assert (one.inner_state or {}).keys() == (other.inner_state or {}).keys()
        for name, value in (one.inner_state or {}).items():
            found = (other.inner_state or {})[name]
            torch.testing.assert_close(found, value, rtol=0, atol=1e-12)
        assert other.inner.lr == one.inner.lr
        assert other.state.meta_step == 5
        # each is a learner as any other: it goes on alone
        one.fit(tasks, meta_steps=6, epsilon=constant(0.1))
        other.fit(tasks, meta_steps=6, epsilon=constant(0.1))
        torch.testing.assert_close(other.phi, one.phi, rtol=0, atol=1e-12)
    phis = [learner.phi for learner in together]
    same = method is Joint and differ == "rates"  # it takes no inner steps
    assert torch.allclose(phis[0], phis[1]) == same
    assert torch.allclose(phis[1], phis[2]) == same


def test_one_run_side_by_side_is_a_run() -> None:
    alone, other = sine_learner(4), sine_learner(4)
    how: dict[str, Any] = {"meta_steps": 5, "epsilon": linear(1.0, 0.0)}
    alone.fit(Sine(), seed=4, **how)
    fit_side_by_side([other], [Sine()], [4], **how)
    torch.testing.assert_close(other.phi, alone.phi, rtol=0, atol=1e-12)
    assert [row["runs"] for row in other.history] == [1] * 5


def test_networks_without_a_written_gradient_go_side_by_side() -> None:
    def learner(seed: int) -> MetaLearner:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(1, 6), nn.SiLU(), nn.Linear(6, 1)).double()
        return Reptile(model, sgd(0.05), 3, 4, criterion=F.mse_loss, device="cpu")

    how: dict[str, Any] = {"meta_steps": 4, "meta_batch": 2, "epsilon": constant(0.5)}
    alone, together = ([learner(seed) for seed in SEEDS] for _ in range(2))
    for seed, one in zip(SEEDS, alone, strict=True):
        one.fit(Sine(), seed=seed, **how)
    fit_side_by_side(together, [Sine()] * 3, SEEDS, **how)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.phi, one.phi, rtol=0, atol=1e-12)


def test_pictures_with_splits_of_their_own() -> None:
    data = load("glyphs")
    tasks = [FewShotTasks(part, 3, 5) for part in (data.train, data.val)]
    how: dict[str, Any] = {"meta_steps": 2, "epsilon": linear(1.0, 0.5)}
    alone = [picture_learner(seed) for seed in (0, 1)]
    for seed, learner in enumerate(alone):
        learner.fit(tasks[seed], seed=seed, **how)
    together = [picture_learner(seed) for seed in (0, 1)]
    fit_side_by_side(together, tasks, (0, 1), **how)
    for one, other in zip(alone, together, strict=True):
        start = picture_learner(0 if one is alone[0] else 1).phi
        moved = (one.phi - start).norm()
        assert (other.phi - one.phi).norm() < 1e-3 * moved


def test_a_diverging_run_leaves_all_as_they_were() -> None:
    learners = [sine_learner(seed, inner=sgd(1e200)) for seed in SEEDS]
    before = [learner.phi.clone() for learner in learners]
    with pytest.raises(UserError, match="diverged"):
        fit_side_by_side(
            learners, [Sine()] * 3, SEEDS, meta_steps=5, epsilon=linear(1.0, 0.0)
        )
    for learner, phi in zip(learners, before, strict=True):
        assert torch.equal(learner.phi, phi)
        assert learner.state.meta_step == 0


def test_every_learner_keeps_its_own_past() -> None:
    how: dict[str, Any] = {"epsilon": linear(1.0, 0.0)}
    learners = [sine_learner(seed) for seed in SEEDS]
    for seed, learner in zip(SEEDS, learners, strict=True):
        learner.fit(Sine(), meta_steps=4, seed=seed, **how)
    past = [list(learner.history) for learner in learners]
    with pytest.raises(UserError, match="4 done; ask for more"):
        fit_side_by_side(learners, [Sine()] * 3, SEEDS, meta_steps=4, **how)
    assert [learner.history for learner in learners] == past
    fit_side_by_side(learners, [Sine()] * 3, SEEDS, meta_steps=6, **how)
    for learner, rows in zip(learners, past, strict=True):
        assert learner.history[: len(rows)] == rows
        assert [row["runs"] for row in learner.history[len(rows) :]] == [3, 3]


def test_tasks_with_other_ways_are_refused() -> None:
    learners = [picture_learner(seed) for seed in (0, 1)]
    tasks = [FewShotTasks(load("glyphs").train, ways, 5) for ways in (3, 4)]
    with pytest.raises(UserError, match="3 classes apart, the tasks have 4 ways"):
        fit_side_by_side(
            learners, tasks, (0, 1), meta_steps=1, epsilon=linear(1.0, 0.0)
        )


def one_of_its_own() -> InnerOptimizer:
    return InnerOptimizer("mine", 0.05, lambda theta: {}, lambda g, s, t: (t - g, s))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"inner": momentum(0.05)}, "differ in inner: sgd and momentum; only its rate"),
        ({"inner": sgd(torch.tensor(0.1))}, "differ in inner: .* a number, may differ"),
        ({"inner": sgd(0.05).until(SwitchEvery(2))}, "differ in inner"),
        ({"inner": one_of_its_own()}, "differ in inner"),
        ({"inner_steps": 5}, "differ in inner_steps: 4 and 5"),
        ({"criterion": F.l1_loss}, "differ in criterion"),
        ({"rule": fomaml}, "differ in rule"),
    ],
)
def test_learners_that_differ_are_refused(other: dict[str, Any], message: str) -> None:
    learner = sine_learner(0)
    for name, value in other.items():
        setattr(learner, name, value)
    with pytest.raises(UserError, match=message):
        fit_side_by_side(
            [sine_learner(1), learner],
            [Sine()] * 2,
            (0, 1),
            meta_steps=1,
            epsilon=linear(1.0, 0.0),
        )


def test_one_of_everything_for_each() -> None:
    with pytest.raises(UserError, match="1 learners, 2 tasks, 1 seeds"):
        fit_side_by_side(
            [sine_learner(0)],
            [Sine()] * 2,
            (0,),
            meta_steps=1,
            epsilon=linear(1.0, 0.0),
        )


def test_other_models_and_other_places_are_refused() -> None:
    wide = Reptile(
        mlp(1, 17, 1, activation=nn.Tanh).double(),
        criterion=F.mse_loss,
        inner=sgd(0.05),
        inner_steps=4,
        inner_batch=5,
        device="cpu",
    )
    how: dict[str, Any] = {"meta_steps": 9, "epsilon": linear(1.0, 0.0)}
    with pytest.raises(UserError, match="different models"):
        fit_side_by_side([sine_learner(0), wide], [Sine()] * 2, (0, 1), **how)
    ahead = sine_learner(1)
    ahead.fit(Sine(), meta_steps=1, epsilon=linear(1.0, 0.0))
    with pytest.raises(UserError, match="meta-steps 0 and 1"):
        fit_side_by_side([sine_learner(0), ahead], [Sine()] * 2, (0, 1), **how)
