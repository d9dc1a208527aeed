"""The study of page 4.2: chosen on validation classes, recorded once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reptile_book import records, rows
from reptile_book.adam_rates import (
    CHOICES,
    ROW,
    Choice,
    Study,
    ZeroedHead,
    choose,
    file_name,
    load,
    main,
    record,
    train,
)
from reptile_lib import FewShotTasks, Reptile, UserError, adam, adapt, draw, mlp
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.runs.run import body_of
from reptile_lib.runs.settings import Settings

TINY = Study(
    meta_steps=2,
    choice_steps=1,
    rates=(0.001, 0.002),
    widen=1,
    validation_tasks=2,
    test_tasks=2,
    eval_steps=2,
    shots=(1, 5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one choice and one seed."""
    into = tmp_path_factory.mktemp("results")
    record("glyphs", "carry", [3], into, TINY, say=lambda line: None)
    return into


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / ROW / f"{name}.json").read_text("utf-8"))


@pytest.mark.slow
def test_records_say_what_was_done(folder: Path) -> None:
    choice, final = read(folder, "glyphs-2-carry"), read(folder, "glyphs-2-carry-3")
    tried = choice["validation_accuracy"]
    assert choice["alpha"] in {float(rate) for rate in tried}
    assert tried[str(choice["alpha"])] == max(tried.values())
    assert len(tried) > 2  # an edge won
    assert final["alpha"] == choice["alpha"]
    assert final["seed"] == 3
    for found in (choice, final):
        assert found["config"] == TINY.as_dict()
        assert "adam_rates glyphs carry --meta-steps 2" in found["command"]
    assert final["metrics"]["5-shot"]["transductive"]["tasks"] == 2
    assert set(final["metrics_switched_moments"]) == {"1-shot", "5-shot"}


def test_files_of_another_length_have_it_in_their_name() -> None:
    assert file_name("glyphs", "carry") == "glyphs-carry"
    assert file_name("glyphs", "carry", 250) == "glyphs-250-carry"


@pytest.mark.slow
def test_what_is_recorded_is_kept(folder: Path) -> None:
    before = read(folder, "glyphs-2-carry-3")
    record("glyphs", "carry", [3], folder, TINY, say=lambda line: None)
    assert read(folder, "glyphs-2-carry-3") == before
    with pytest.raises(UserError, match="of other settings"):
        record("glyphs", "carry", [3], folder, replace(TINY, test_tasks=3))


@pytest.mark.slow
def test_a_rate_that_diverges_is_not_chosen() -> None:
    study = replace(TINY, rates=(0.001, 0.002, 1e30), widen=0)
    said: list[str] = []
    found = choose("glyphs", CHOICES["reset"], study, said.append)
    assert found["validation_accuracy"]["1e+30"] is None
    assert found["alpha"] < 1
    assert any("diverged" in line for line in said)


@pytest.mark.slow
def test_choices_differ_in_what_they_are_named_for() -> None:
    settings, data = Settings(lr=0.01), load("glyphs", TINY)
    phis = {
        name: train(choice, replace(settings, moments=choice.moments), data, 2).phi
        for name, choice in CHOICES.items()
    }
    for name, phi in phis.items():
        assert phi.isfinite().all()
        same = [other for other, there in phis.items() if torch.equal(phi, there)]
        assert same == [name]
        zeroed = (phi[-5 * 64 - 5 :] == 0).all()
        assert zeroed == CHOICES[name].zeroed


def test_tasks_start_with_a_head_of_zeros() -> None:
    learner = Reptile(
        nn.Sequential(nn.Flatten(), mlp(28 * 28, 8, 5)), adam(0.01), 2, 5, device="cpu"
    )
    body = body_of(learner.model)
    assert (body == 0).sum() == 8 * 5 + 5
    assert body[: -8 * 5 - 5].all()
    data = load("glyphs", TINY).train
    tasks = draw(FewShotTasks(data, 5, 1), 3, inner_steps=2, inner_batch=5)
    U = InnerLoop(learner.kernel, learner.inner)
    found = ZeroedHead(learner)(U, learner.phi, tasks, None)
    start = learner.phi * body
    each = adapt(learner.kernel, start, tasks.support, tasks.order, learner.inner)
    torch.testing.assert_close(found.phi, each.theta.mean(0))
    assert Choice("carry").beta2 == 0.999


def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(tmp_path)]
    assert main(["glyphs", "keep", *where]) == 2
    assert "unknown choice 'keep'" in capsys.readouterr().err
    assert main(["glyphs", "carry", "--seeds", "a", *where]) == 2
    assert "give numbers" in capsys.readouterr().err
    assert main(["glyphs", "carry", "--meta-steps", "0", *where]) == 2
    assert "meta_steps = 0" in capsys.readouterr().err
    assert main(["letters", "carry", *where]) == 2
    assert "letters" in capsys.readouterr().err


def test_the_tuned_row_has_the_rate_that_was_chosen() -> None:
    chosen = records.read_one(
        Path(__file__).parents[2] / "results/adam-rates/omniglot-carry.json"
    )
    assert rows.ROWS["omniglot-5way-tuned"] == {
        "data": "omniglot",
        "lr": chosen["alpha"],
    }
