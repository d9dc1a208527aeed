"""The study of page 2.1: heads that are right, chosen on validation tasks, paired."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from reptile_book import glyph_heads, records
from reptile_book.glyph_heads import (
    ROW,
    Settings,
    cross_entropy_head,
    nearest_mean,
    run,
)
from reptile_lib import UserError

RESULTS = Path(__file__).parents[2] / "results"
TINY = Settings(
    shots=(1,),
    validation_tasks=3,
    test_tasks=4,
    ridges=(0.1, 1.0),
    steps=(1, 2),
    rates=(0.1, 0.2),
    joint_rates=(1e-3, 2e-3),
    joint_steps=2,
    joint_choice_steps=2,
    joint_batch=10,
    widen=0,
)


def problem(tasks: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features [tasks, 10, 7] in float64 and labels [tasks, 10] of 5 classes."""
    torch.manual_seed(0)
    y = torch.arange(5).repeat(2).expand(tasks, -1)
    return torch.randn(tasks, 10, 7, dtype=torch.float64), y


def test_cross_entropy_head_is_at_a_minimum() -> None:
    x, y = problem()
    head = cross_entropy_head(x, y, 5, 0.3)
    theta, b = head.theta.requires_grad_(), head.b.requires_grad_()
    scores = x @ theta + b.unsqueeze(-2)
    loss = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="sum")
    (loss + 0.3 * theta.square().sum()).backward()
    assert theta.grad is not None
    assert b.grad is not None
    assert max(theta.grad.abs().max(), b.grad.abs().max()) < 1e-4


def test_cross_entropy_heads_of_a_stack_are_those_of_its_tasks() -> None:
    x, y = problem()
    stack = cross_entropy_head(x, y, 5)
    for i in range(3):
        alone = cross_entropy_head(x[i], y[i], 5)
        assert torch.allclose(alone.theta, stack.theta[i], atol=1e-4)
        assert torch.allclose(alone.b, stack.b[i], atol=1e-4)


def test_nearest_mean_is_nearest() -> None:
    x, y = problem()
    new = torch.randn(3, 20, 7, dtype=torch.float64)
    means = torch.stack([x[:, y[0] == c].mean(1) for c in range(5)], 1)
    nearest = torch.cdist(new, means).argmin(-1)
    assert torch.equal(nearest_mean(x, y, 5)(new).argmax(-1), nearest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a tiny study."""
    into = tmp_path_factory.mktemp("results")
    run([0], into, TINY, say=lambda line: None, phis=RESULTS)
    return into


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / ROW / f"{name}.json").read_text("utf-8"))


@pytest.mark.slow
def test_records_say_what_was_done(folder: Path) -> None:
    record, choice = read(folder, "seed-0"), read(folder, "choice")
    assert record["config"] == choice["config"] == TINY.as_dict()
    assert record["chosen"] == choice["chosen"]
    scores = record["metrics"]["1-shot"]
    assert len(scores) == 4 * 3 + 2 * 2
    reference = scores["phi, closed form"]
    assert reference["above"] == 0
    for score in scores.values():
        gap = score["accuracy"] - reference["accuracy"]
        assert score["above"] == pytest.approx(gap)
    for own in choice["chosen"]["1-shot"].values():
        assert own["validation"] == max(own["tried"].values())


@pytest.mark.slow
def test_nothing_is_overwritten(folder: Path) -> None:
    with pytest.raises(UserError, match="recorded already"):
        run([0], folder, TINY, phis=RESULTS)
    with pytest.raises(UserError, match="other settings"):
        run([1], folder, Settings(), phis=RESULTS)


@pytest.mark.slow
def test_body_and_steps_are_those_of_the_library() -> None:
    learner = glyph_heads._phi(RESULTS, 0)
    from reptile_lib import FewShotTasks, evaluate, load, sgd

    tasks = glyph_heads._tasks(load("glyphs"), 1, TINY, test=True)
    _, found = glyph_heads.adapted(learner, tasks, 0.1, 2)
    learner.inner, learner.inner_batch = sgd(0.1), None
    score = evaluate(
        learner,
        FewShotTasks(load("glyphs").test, 5, 1),
        inner_steps=2,
        inner_batch=5,
        count=4,
    )
    assert torch.equal(found, score.non_transductive.values)


@pytest.mark.parametrize("path", sorted((RESULTS / ROW).glob("seed-*.json")), ids=str)
def test_a_records_command_is_one(path: Path) -> None:
    record = records.read_one(path)
    assert record["row"] == ROW
    assert record["command"].endswith(f"--seeds {record['seed']}")
    assert record["config"] == Settings().as_dict()


def test_wrong_seeds_are_told(tmp_path: Path) -> None:
    assert glyph_heads.main(["--seeds", "a", "--results", str(tmp_path)]) == 2
