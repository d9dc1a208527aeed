"""The settings of a run: defaults, what a file keeps, what is refused."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from reptile_lib import UserError
from reptile_lib.runs import run
from reptile_lib.runs.settings import (
    EVALUATION,
    LATER,
    TRAINING,
    TWENTY_WAYS,
    Settings,
    complete,
    from_file,
)


def test_defaults_are_the_authors_and_depend_on_the_ways() -> None:
    five, twenty = complete({}), complete({"ways": 20})
    assert (five.ways, five.lr, five.inner_steps, five.inner_batch) == (5, 1e-3, 5, 10)
    assert (five.meta_steps, five.meta_batch, five.eval_batch) == (100_000, 5, 5)
    for name, value in TWENTY_WAYS.items():
        assert getattr(twenty, name) == value != getattr(five, name)
    assert complete({"ways": 20, "lr": 0.5, "meta_steps": None}).lr == 0.5
    assert complete({"meta_steps": None}) == five


def test_settings_are_of_training_or_of_evaluation_and_do_not_change() -> None:
    assert {*TRAINING} | {*EVALUATION} == set(Settings().as_dict())
    assert not {*TRAINING} & {*EVALUATION}
    assert {"shots", "eval_steps", "eval_batch", "eval_tasks"} == {*EVALUATION}
    with pytest.raises(FrozenInstanceError):
        Settings().lr = 1.0  # type: ignore[misc]


def test_a_file_gives_the_settings_back() -> None:
    for settings in (complete({}), complete({"ways": 20, "precision": "bf16"})):
        assert from_file(settings.as_dict(), "x") == settings


def test_a_file_without_later_settings_means_what_was_done_then() -> None:
    kept = {n: v for n, v in complete({}).as_dict().items() if n not in LATER}
    found = from_file(kept, "x")
    assert found.reduction == "mean"
    assert found.precision == "float32"


def test_a_file_that_lacks_a_setting_is_named() -> None:
    kept = complete({}).as_dict()
    del kept["lr"]
    with pytest.raises(UserError, match=r"x does not say .* \(lr is missing"):
        from_file(kept, "x")
    # a later version's settings do not disturb
    assert from_file(complete({}).as_dict() | {"new": 1}, "x") == complete({})


def test_a_run_goes_on_only_with_its_settings_of_training() -> None:
    began = complete({"lr": 0.5})
    complete({"lr": 0.5, "eval_tasks": 7, "shots": 5}).check_same(began)
    with pytest.raises(UserError, match=r"lr is 0.001, but the run began with 0.5"):
        complete({}).check_same(began)


def test_an_evaluation_that_cannot_follow_is_refused() -> None:
    for name, value, least in (
        ("eval_tasks", 0, 1),
        ("eval_batch", 0, 1),
        ("eval_steps", -1, 0),
    ):
        with pytest.raises(UserError, match=f"{name} = {value}; give at least {least}"):
            complete({name: value}).check_evaluation()
    complete({"eval_steps": 0}).check_evaluation()


def test_inner_steps_of_a_whole_training() -> None:
    small = {"meta_steps": 7, "meta_batch": 3, "inner_steps": 2}
    assert complete(small).training_steps == 42


def test_a_checkpoint_keeps_its_settings(tmp_path: Path) -> None:
    settings = complete({"ways": 3, "reduction": "mean", "moments": "reset"})
    learner = run.build(settings, "cpu")
    learner.save(tmp_path / run.CHECKPOINT, settings.as_dict())
    again, found = run.reopen(tmp_path, "cpu")
    assert found == settings
    assert again.moments == "reset"
    _, changed = run.reopen(tmp_path / run.CHECKPOINT, "cpu", shots=5, lr=None)
    assert (changed.shots, changed.lr) == (5, settings.lr)
    old = {n: v for n, v in settings.as_dict().items() if n != "precision"}
    learner.save(tmp_path / run.CHECKPOINT, old)
    assert run.settings_of(tmp_path / run.CHECKPOINT) == settings
