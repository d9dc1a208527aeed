"""The study of page 5.1: the same tasks for all, and no test class behind a choice."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reptile_book import fields, image_starts, records
from reptile_book.image_starts import (
    METHODS,
    NEAREST,
    RANDOM,
    REPTILE,
    ROW,
    TUNED,
    Bench,
    Joint,
    Study,
)
from reptile_lib import FewShotTasks, Reptile, UserError, adam, conv4, evaluate, load
from reptile_lib.params import ravel
from reptile_lib.reading.split import only
from reptile_lib.rng import TEST
from reptile_lib.runs.settings import Settings
from reptile_lib.tasks import draw_tasks

RESULTS = Path(__file__).parents[2] / "results"
TINY = Study(
    shots=(1,),
    test_tasks=4,
    validation_tasks=3,
    rates=(0.002, 0.004),
    joint_rates=(1e-3, 2e-3),
    joint_steps=2,
    doublings=1,
    joint_batch=10,
    widen=0,
)
SETTINGS = Settings(eval_tasks=4, eval_steps=3)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SETTINGS, load("glyphs").test, TEST)


def test_a_new_head_is_zero_and_all_else_is_the_joint_networks() -> None:
    joint = conv4(30, seed=4)
    learner = Reptile(conv4(5), adam(0.1), inner_steps=1)
    phi = fields.with_new_head(learner.model, joint)
    body, head = phi.split([len(phi) - 5 * 257, 5 * 257])
    assert torch.equal(body, ravel(joint)[: len(body)])
    assert torch.equal(head, torch.zeros_like(head))
    assert not torch.equal(learner.phi, phi)  # what it was built with is untouched


def test_random_weights_are_adapted_as_evaluate_does(bench: Bench) -> None:
    learner = Reptile(conv4(5), adam(0.004), inner_steps=1, moments="reset")
    tasks = FewShotTasks(bench.classes, 5, 1)
    score = evaluate(learner, tasks, inner_steps=3, inner_batch=5, count=4)
    found = bench.tuned(image_starts.random_weights, 0.004, 1)
    assert torch.equal(found, score.non_transductive.values)


def test_the_nearest_mean_is_of_features_seen_beside_the_support(bench: Bench) -> None:
    joint = conv4(30, seed=4)
    tasks = draw_tasks(FewShotTasks(bench.classes, 5, 1), 4).for_model(torch.zeros(1))
    expected = []
    joint.out = nn.Identity()
    with torch.no_grad():
        for support, y, query, answer in zip(
            *(tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y),
            strict=True,
        ):
            assert isinstance(support, Tensor)
            hits = 0
            for picture, label in zip(query, answer, strict=True):
                assert isinstance(picture, Tensor)
                seen = joint(torch.cat([support, picture[None]]))[-1]
                far = (joint(support) - seen).square().sum(1)
                hits += int(y[far.argmin()] == label)
            expected.append(hits / len(answer))
    assert bench.nearest(conv4(30, seed=4), 1).tolist() == pytest.approx(expected)


def test_joint_training_learns_its_classes() -> None:
    letters = load("glyphs").train
    some = only(letters, letters.names[:6])
    net = Joint(3e-3, 40).train(SETTINGS, some, 0, 30)
    x = some.to_input(
        torch.stack([t for t in some.by_class() if isinstance(t, Tensor)])
    )
    assert isinstance(x, Tensor)
    with torch.no_grad():
        answers = net(x.flatten(0, 1)).argmax(1).view(6, -1)
    assert (answers == torch.arange(6)[:, None]).double().mean() > 0.9
    turned = Joint(3e-3, 1, turned=True).train(SETTINGS, some, 0, 30)
    assert turned(x[0]).shape[1] == 24


@pytest.mark.slow
def test_records_say_what_was_done(tmp_path: Path) -> None:
    made = image_starts.record("glyphs", [0], tmp_path, TINY, phis=RESULTS)
    choice, scored = made
    assert choice["config"] == scored["config"] == TINY.as_dict()
    assert max(value for _, value in choice["joint_tried"]) == next(
        value for how, value in choice["joint_tried"] if how == choice["joint"]
    )
    scores = scored["metrics"]["1-shot"]
    assert tuple(scores) == METHODS
    for score in scores.values():
        gap = scores[REPTILE]["mean"] - score["mean"]
        assert score["ahead"] == pytest.approx(gap)
    with pytest.raises(UserError, match="other settings"):
        image_starts.record("glyphs", [0], tmp_path, phis=RESULTS)


@pytest.mark.needs_data("omniglot")
def test_no_test_class_of_a_seed_is_chosen_with() -> None:
    found = image_starts.classes_to_choose("omniglot", Study())
    assert len(found.val) > 40
    assert not {*found.val.names} & {*found.train.names}
    for seed in (0, 1, 2):
        tested = {*image_starts.classes_of("omniglot", seed).test.names}
        assert not tested & {*found.val.names, *found.train.names}


def test_the_table_has_the_lead_over_the_best_of_the_others(tmp_path: Path) -> None:
    def scores(reptile: float, *others: float) -> records.Record:
        return {
            method: {"mean": a, "ahead": reptile - a}
            for method, a in zip(METHODS, (reptile, *others), strict=True)
        }

    for seed, (reptile, tuned) in enumerate([(0.9, 0.8), (0.8, 0.76), (0.85, 0.84)]):
        metrics = {
            "1-shot": scores(reptile, 0.3, tuned, 0.5),
            "5-shot": scores(1, 1, 1, 1),
        }
        records.write(tmp_path / ROW / f"glyphs-{seed}.json", {"metrics": metrics})
    first, second = image_starts.table(tmp_path)
    assert first == [
        *("glyphs", "1", "85.0 ± 5.0", "30.0 ± 0.0", "80.0 ± 4.0", "50.0 ± 0.0"),
        "+5.0 (+1.0 to +10.0)",
    ]
    assert second[-1] == "+0.0 (+0.0 to +0.0)"
    assert {RANDOM, TUNED, NEAREST} == {*METHODS[1:]}
