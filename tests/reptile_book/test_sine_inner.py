"""The study of page 4.1: chosen on validation tasks, recorded once, paired."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reptile_book import records, sine_inner
from reptile_book.sine_inner import ROW, Settings, Way, run, ways
from reptile_lib import UserError

TINY = Settings(
    bill=500,
    first_rates=2,
    epsilons=(0.5, 1.0),
    widen=0,
    steps=(10,),
    batches=(10, 50),
    validation_tasks=3,
    test_tasks=4,
    choice_seeds=(100, 101),
)

SGD = Way("SGD", 10, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two seeds."""
    into = tmp_path_factory.mktemp("results")
    run([0, 1], into, TINY, say=lambda line: None)
    return into


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / ROW / f"{name}.json").read_text("utf-8"))


@pytest.mark.slow
def test_records_say_what_was_done(folder: Path) -> None:
    names = {way.name for way in ways(TINY)}
    for seed in (0, 1):
        record = read(folder, f"seed-{seed}")
        assert record["config"] == TINY.as_dict()
        assert str(seed) in record["command"]
        assert {"device", "versions", "commit"} <= set(record)
        assert set(record["metrics"]) == names == set(record["chosen"])
        assert record["metrics"][SGD.name]["above_sgd"] == 0
        sgd = record["metrics"][SGD.name]["loss"]
        for score in record["metrics"].values():
            assert score["above_sgd"] == pytest.approx(score["loss"] - sgd, rel=1e-3)


@pytest.mark.slow
def test_choice_is_the_best_of_what_was_tried(folder: Path) -> None:
    choice = read(folder, "choice")
    for name, chosen in choice["chosen"].items():
        best = min(choice["tried"][name], key=lambda v: v["validation_loss"])
        assert {key: chosen[key] for key in best} == best
        assert not chosen["inside"]  # two values have no inside
        assert len(choice["tried"][name]) == 4


@pytest.mark.slow
def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recorded already"):
        run([0, 1], folder, TINY)
    with pytest.raises(UserError, match="of other settings"):
        run([2], folder, Settings())
    (tmp_path / ROW).mkdir()
    kept = read(folder, "choice") | {"seconds": "not chosen anew"}
    records.write(tmp_path / ROW / "choice.json", kept)
    (made,) = run([0], tmp_path, TINY, say=lambda line: None)
    loss = read(folder, "seed-0")["metrics"][SGD.name]["loss"]
    assert made["metrics"][SGD.name]["loss"] == pytest.approx(loss, rel=0.05)
    assert read(tmp_path, "choice") == kept


@pytest.mark.slow
def test_a_grid_grows_where_an_edge_wins() -> None:
    settings = replace(TINY, widen=1, epsilons=(0.01, 0.02))
    choice = sine_inner.choose(settings, [SGD], say=lambda line: None)
    assert len(choice["tried"][SGD.name]) > 4


@pytest.mark.slow
def test_a_run_that_overflows_is_told() -> None:
    way = Way("momentum", 10, 10, "carry")
    calm, wild = sine_inner.train(way, [(0.001, 1.0), (1e30, 1.0)], [0, 0], TINY)
    assert calm is not None
    assert calm.isfinite().all()
    assert wild is None
    choice = {"chosen": {w.name: {"alpha": 1e30, "epsilon": 1.0} for w in ways(TINY)}}
    (record,) = sine_inner.finals([0], choice, TINY)
    assert all(score == {"loss": None} for score in record["metrics"].values())


def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sine_inner.main(["--seeds", "a", "--results", str(tmp_path)]) == 2
    assert "give numbers like" in capsys.readouterr().err
    (tmp_path / ROW).mkdir()
    (tmp_path / ROW / "seed-0.json").write_text("{}")
    assert sine_inner.main(["--seeds", "0", "--results", str(tmp_path)]) == 2
    assert "of other settings" in capsys.readouterr().err
