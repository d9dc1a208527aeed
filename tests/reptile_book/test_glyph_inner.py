"""The letters of pages 4.1 and 4.3: every script is a test script once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reptile_book import glyph_inner
from reptile_book.glyph_inner import (
    GROUPS,
    Study,
    letters,
    record,
    train,
    training_scripts,
    validation_scripts,
)
from reptile_lib import UserError, load

TINY = Study(
    gradients=250,
    ways=2,
    train_shots=2,
    inner_steps=1,
    inner_batch=2,
    meta_batch=1,
    rates=(("sgd", (0.1, 0.2)), ("adam", (0.004,)), ("gd", (0.2,))),
    widen=1,
    validation_tasks=2,
    test_tasks=3,
    eval_steps=2,
    eval_batch=2,
)


def test_groups_hold_each_script_once() -> None:
    scripts = [script for group in GROUPS for script in group]
    known = {name.split("/")[0] for part in load("glyphs") for name in part.names}
    assert sorted(scripts) == sorted(known)
    sizes = [len(letters([script])) for script in scripts]
    assert min(sizes) >= Study().ways
    assert sum(sizes) == sum(map(len, load("glyphs")))


def test_all_ways_spend_the_same() -> None:
    study = Study()
    spent = {
        way: study.meta_steps(way) * study.meta_batch * study.inner_steps * batch
        for way, batch in (("sgd", 10), ("adam", 10), ("gd", 50))
    }
    assert set(spent.values()) == {study.gradients}


@pytest.mark.parametrize("group", range(4))
def test_a_script_has_one_part(group: int) -> None:
    parts = training_scripts(group), validation_scripts(group), GROUPS[group]
    scripts = [script for part in parts for script in part]
    assert len(scripts) == len(set(scripts)) == 12


def test_records_say_what_was_chosen_and_are_kept(tmp_path: Path) -> None:
    choice, first = record("sgd", 1, [0], tmp_path, TINY, say=lambda _: None)
    tried = {(alpha, epsilon) for alpha, epsilon, *_ in choice["validation_accuracy"]}
    assert {(0.1, 1.0), (0.2, 1.0), (choice["alpha"], 0.5)} <= tried
    at_first = {
        alpha: value
        for alpha, *rest, value in choice["validation_accuracy"]
        if rest == [1.0, 1.0]
    }
    assert choice["alpha"] == max(at_first, key=at_first.__getitem__)
    assert set(first["accuracy"]) == set(GROUPS[1])
    again, second = record("sgd", 1, [0], tmp_path, TINY, say=lambda _: None)
    assert (again, second) == (choice, first)
    learner = train("sgd", 1, (choice["alpha"], choice["epsilon"]), 0, TINY)
    other = train("sgd", 1, (choice["alpha"], choice["epsilon"]), 1, TINY)
    assert not torch.equal(learner.phi, other.phi)
    with pytest.raises(UserError, match="other settings"):
        record("sgd", 1, [0], tmp_path, replace(TINY, test_tasks=4))


def test_an_unknown_way_is_named() -> None:
    assert glyph_inner.main(["sgdd"]) == 2
