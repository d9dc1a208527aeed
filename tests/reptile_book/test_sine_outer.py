"""The study of page 3.2: chosen on validation tasks, recorded once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reptile_book import records, sine_outer
from reptile_book.sine_outer import ROW, WAYS, Settings, Way, run
from reptile_lib import UserError

TINY = Settings(
    bills=(250, 500),
    alphas=(0.02, 0.04),
    widen=0,
    choice_seeds=(100, 101),
    validation_tasks=3,
    test_tasks=4,
)


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
    for seed in (0, 1):
        record = read(folder, f"seed-{seed}")
        assert record["config"] == TINY.as_dict()
        assert str(seed) in record["command"]
        assert {"device", "versions", "commit"} <= set(record)
        for bill in ("250", "500"):
            scores = record["metrics"][bill]
            assert set(scores) == {way.name for way in WAYS}
            assert all(score["loss"] > 0 for score in scores.values())


@pytest.mark.slow
def test_choice_has_the_lowest_mean_over_the_seeds(folder: Path) -> None:
    choice = read(folder, "choice")
    for bill, ways in choice["chosen"].items():
        for name, chosen in ways.items():
            tried = choice["tried"][bill][name]
            assert len(tried) == 8
            best = min(tried, key=lambda t: sum(t["validation_losses"]))
            assert (chosen["alpha"], chosen["rate"]) == (best["alpha"], best["rate"])
            mean = sum(best["validation_losses"]) / 2
            assert chosen["validation_loss"] == pytest.approx(mean)
            assert not chosen["inside"]  # two values have no inside


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
    both = made["metrics"]["500"], read(folder, "seed-0")["metrics"]["500"]
    plain = [found[Way().name]["loss"] for found in both]
    assert plain[0] == pytest.approx(plain[1], rel=0.05)
    assert read(tmp_path, "choice") == kept


@pytest.mark.slow
def test_a_grid_grows_where_an_edge_wins() -> None:
    values = sine_outer.search(Way(), 500, replace(TINY, widen=1))
    assert len(values) > 8
    assert all(len(losses) == 2 for losses in values.values())


@pytest.mark.slow
def test_a_run_that_overflows_is_told() -> None:
    pairs = [(0.02, 0.5), (1e30, 0.5)]
    calm, wild = sine_outer.train(Way("momentum"), pairs, [0, 0], 500, TINY)
    assert calm is not None
    assert calm.isfinite().all()
    assert wild is None
    ways = {way.name: {"alpha": 1e30, "rate": 1.0} for way in WAYS}
    choice = {"chosen": dict.fromkeys(("250", "500"), ways)}
    (made,) = sine_outer.finals([0], choice, TINY, say=lambda line: None)
    assert made["metrics"]["500"][Way().name] == {"loss": None}


@pytest.mark.slow
def test_every_way_moves_phi_differently() -> None:
    ends = [sine_outer.train(way, [(0.02, 0.1)], [0], 500, TINY)[0] for way in WAYS]
    found = {tuple(end[:5].tolist()) for end in ends if end is not None}
    assert len(found) == len(WAYS)


def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sine_outer.main(["--seeds", "a", "--results", str(tmp_path)]) == 2
    assert "give numbers like" in capsys.readouterr().err
    (tmp_path / ROW).mkdir()
    (tmp_path / ROW / "seed-0.json").write_text("{}")
    assert sine_outer.main(["--seeds", "0", "--results", str(tmp_path)]) == 2
    assert "of other settings" in capsys.readouterr().err
