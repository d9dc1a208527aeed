"""Several seeds at once, against each one alone."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_lib import (
    FOMAML,
    FewShotTasks,
    MetaLearner,
    Reptile,
    Sine,
    UserError,
    adam,
    conv4,
    linear,
    load,
    mlp,
    sgd,
)
from reptile_lib.together import fit_together

pytestmark = pytest.mark.usefixtures("float64")
SEEDS = 3, 0, 8


def sine_learner(seed: int, **settings: Any) -> MetaLearner:
    model = mlp(1, 16, 1, activation=nn.Tanh, seed=seed).double()
    how = {"inner": sgd(0.05), "inner_steps": 4, "inner_batch": 5, "device": "cpu"}
    return Reptile(model, criterion=F.mse_loss, **how | settings)


def picture_learner(seed: int) -> MetaLearner:
    criterion = partial(F.cross_entropy, reduction="sum")
    how = {"inner": adam(1e-3), "inner_steps": 2, "inner_batch": 5, "device": "cpu"}
    return Reptile(conv4(3, seed=seed).double(), criterion=criterion, **how)


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
        fit_together(
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


def test_pictures_with_splits_of_their_own() -> None:
    data = load("glyphs")
    tasks = [FewShotTasks(part, 3, 5) for part in (data.train, data.val)]
    how: dict[str, Any] = {"meta_steps": 2, "epsilon": linear(1.0, 0.5)}
    alone = [picture_learner(seed) for seed in (0, 1)]
    for seed, learner in enumerate(alone):
        learner.fit(tasks[seed], seed=seed, **how)
    together = [picture_learner(seed) for seed in (0, 1)]
    fit_together(together, tasks, (0, 1), **how)
    for one, other in zip(alone, together, strict=True):
        start = picture_learner(0 if one is alone[0] else 1).phi
        moved = (one.phi - start).norm()
        assert (other.phi - one.phi).norm() < 1e-3 * moved


def test_a_diverging_run_leaves_all_as_they_were() -> None:
    learners = [sine_learner(seed, inner=sgd(1e200)) for seed in SEEDS]
    before = [learner.phi.clone() for learner in learners]
    with pytest.raises(UserError, match="diverged"):
        fit_together(
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
        fit_together(learners, [Sine()] * 3, SEEDS, meta_steps=4, **how)
    assert [learner.history for learner in learners] == past
    fit_together(learners, [Sine()] * 3, SEEDS, meta_steps=6, **how)
    for learner, rows in zip(learners, past, strict=True):
        assert learner.history[: len(rows)] == rows
        assert [row["runs"] for row in learner.history[len(rows) :]] == [3, 3]


def test_tasks_with_other_ways_are_refused() -> None:
    learners = [picture_learner(seed) for seed in (0, 1)]
    tasks = [FewShotTasks(load("glyphs").train, ways, 5) for ways in (3, 4)]
    with pytest.raises(UserError, match="3 classes apart, the tasks have 4 ways"):
        fit_together(learners, tasks, (0, 1), meta_steps=1, epsilon=linear(1.0, 0.0))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"inner": sgd(0.1)}, "differ in inner"),
        ({"inner_steps": 5}, "differ in inner_steps: 4 and 5"),
        ({"criterion": F.l1_loss}, "differ in criterion"),
        ({"rule": FOMAML.keywords["rule"]}, "only Reptile"),
    ],
)
def test_learners_that_differ_are_refused(other: dict[str, Any], message: str) -> None:
    learner = sine_learner(0)
    for name, value in other.items():
        setattr(learner, name, value)
    with pytest.raises(UserError, match=message):
        fit_together(
            [sine_learner(1), learner],
            [Sine()] * 2,
            (0, 1),
            meta_steps=1,
            epsilon=linear(1.0, 0.0),
        )


def test_one_of_everything_for_each() -> None:
    with pytest.raises(UserError, match="1 learners, 2 tasks, 1 seeds"):
        fit_together(
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
        fit_together([sine_learner(0), wide], [Sine()] * 2, (0, 1), **how)
    ahead = sine_learner(1)
    ahead.fit(Sine(), meta_steps=1, epsilon=linear(1.0, 0.0))
    with pytest.raises(UserError, match="meta-steps 0 and 1"):
        fit_together([sine_learner(0), ahead], [Sine()] * 2, (0, 1), **how)


class StoppedError(Exception):
    """Raised by a checkpoint that ends the training."""


def test_a_checkpoint_sees_the_learners_and_may_end_the_training() -> None:
    how: dict[str, Any] = {"meta_steps": 8, "epsilon": linear(1.0, 0.0)}
    tasks = [Sine(points=10)] * 3
    whole = [sine_learner(seed, inner=adam(1e-3)) for seed in SEEDS]
    fit_together(whole, tasks, SEEDS, **how)
    learners = [sine_learner(seed, inner=adam(1e-3)) for seed in SEEDS]
    seen: list[tuple[list[int], int]] = []

    def stop_at_4() -> None:
        steps = [learner.state.meta_step for learner in learners]
        seen.append((steps, len(learners[2].history)))
        if steps[0] == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit_together(
            learners, tasks, SEEDS, checkpoint=stop_at_4, checkpoint_every=2, **how
        )
    assert seen == [([0, 0, 0], 0), ([2, 2, 2], 2), ([4, 4, 4], 4)]
    fit_together(learners, tasks, SEEDS, **how)
    for one, other in zip(whole, learners, strict=True):
        assert torch.equal(one.phi, other.phi)
        steps = [[row["meta_step"] for row in x.history] for x in (one, other)]
        assert steps[0] == steps[1] == list(range(1, 9))
