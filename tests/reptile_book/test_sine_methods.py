"""The study of page 1.4: chosen on validation tasks, recorded once, paired."""

import json
from pathlib import Path
from typing import Any

import pytest

from reptile_book import records, sine_methods
from reptile_book.sine_methods import ROW, OwnTask, Settings, Training, run, searched
from reptile_lib import UserError
from reptile_lib.rng import TEST, TRAIN, VALIDATE, Draws

pytestmark = pytest.mark.slow

TINY = Settings(
    bill=60,
    inner_steps=2,
    meta_batches=(1, 2),
    joint_batches=(5,),
    widen=0,
    inner_rates=(0.01, 0.02),
    outer_rates=(0.02, 0.04),
    epsilons=(0.5, 1.0),
    adam_rates=(0.002, 0.004),
    validation_tasks=4,
    test_tasks=5,
    share=20,
    sgd_tried=(0.005, 0.01, 0.02),
    adam_tried=(0.005, 0.01),
)
TINY_OWN = OwnTask(
    points=(10, 20),
    shown=(1, 3),
    sgd_tried=(0.01,),
    adam_tried=(0.01,),
    validation_tasks=2,
    test_tasks=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two seeds."""
    into = tmp_path_factory.mktemp("results")
    run([0, 1], into, TINY)
    run([0], into, TINY, own=TINY_OWN)
    return into


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / ROW / f"{name}.json").read_text("utf-8"))


def test_records_say_what_was_done(folder: Path) -> None:
    for seed in (0, 1):
        record = read(folder, f"seed-{seed}")
        assert record["config"] == TINY.as_dict()
        assert record["seed"] == seed
        assert record["commit"] is None or isinstance(record["commit"], str)
        assert {"device", "versions", "command", "train_seconds"} <= set(record)
        assert str(seed) in record["command"]
        trained = {m.name for m in sine_methods.methods(TINY)}
        others = {"answer zero", "untrained", sine_methods.TRIPLE}
        scratch = {"from scratch, SGD", "from scratch, Adam"}
        assert set(record["metrics"]) == trained | others | scratch
        for scores in record["metrics"].values():
            assert set(scores) == {"1-steps", "8-steps", "32-steps"}
            assert all(s["tasks"] == TINY.test_tasks for s in scores.values())


def test_single_tasks_have_a_record_of_their_own(folder: Path) -> None:
    record = read(folder, "own-task-0")
    assert record["config"]["own_task"]["shown"] == [1, 3] == record["steps"]
    assert set(record["points"]) == {"10", "20"}
    for starts in record["points"].values():
        assert set(starts) == {"from phi", "from scratch"}
        assert all(len(found["loss"]) == 2 for found in starts.values())
    with pytest.raises(UserError, match="recorded already"):
        run([0], folder, TINY, own=TINY_OWN)


def test_scores_are_paired_with_those_of_reptile(folder: Path) -> None:
    metrics = read(folder, "seed-0")["metrics"]
    assert metrics["Reptile"]["8-steps"]["above_reptile"] == 0
    for scores in metrics.values():
        for steps, score in scores.items():
            gap = score["loss"] - metrics["Reptile"][steps]["loss"]
            assert score["above_reptile"] == pytest.approx(gap, abs=1e-4)


def test_scratch_gets_its_share_of_the_bill(folder: Path) -> None:
    metrics = read(folder, "seed-0")["metrics"]
    assert metrics["from scratch, Adam"]["8-steps"]["steps"] == 60 // 20 + 8
    assert metrics["untrained"]["8-steps"]["steps"] == 8


def test_zero_does_not_depend_on_the_seed_of_training(folder: Path) -> None:
    zero = [read(folder, f"seed-{s}")["metrics"]["answer zero"] for s in (0, 1)]
    assert zero[0]["8-steps"]["loss"] == zero[1]["8-steps"]["loss"]


def test_choice_is_the_best_of_what_was_tried(folder: Path) -> None:
    choice = read(folder, "choice")
    for name, chosen in choice["chosen"].items():
        mine = [v for v in choice["values"] if v["method"] == name]
        best = min(mine, key=lambda value: value["validation_loss"])
        assert {key: chosen[key] for key in best} == best
    assert len([v for v in choice["values"] if v["method"] == "MAML"]) == 2 * 2 * 4
    assert read(folder, "seed-1")["chosen"] == choice["chosen"]


def test_choice_sees_validation_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    uniform = Draws.uniform

    def watched(self: Draws, slot: int, *shape: int) -> Any:
        seen.add(self._key)
        return uniform(self, slot, *shape)

    monkeypatch.setattr(Draws, "uniform", watched)
    sine_methods.choose(TINY, say=lambda line: None)
    streams = {stream for _, stream in seen}
    assert streams == {TRAIN, VALIDATE}
    assert TEST not in streams
    tuned = {seed for seed, stream in seen if stream == VALIDATE}
    assert tuned == {TINY.choice_seed}


def test_nothing_is_overwritten(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in (folder / ROW).iterdir()}
    with pytest.raises(UserError, match="recorded already"):
        run([0, 1], folder, TINY)
    with pytest.raises(UserError, match="of other settings"):
        run([0], folder, Settings())
    assert {p.name: p.read_bytes() for p in (folder / ROW).iterdir()} == before


def test_a_study_goes_on_with_the_seeds_left(folder: Path, tmp_path: Path) -> None:
    kept = {
        name: read(folder, name) | {"kept": "not made anew"}
        for name in ("choice", "seed-1")
    }
    for name, record in kept.items():
        records.write(tmp_path / ROW / f"{name}.json", record)
    (made,) = run([0, 1], tmp_path, TINY, say=lambda line: None)
    assert made["seed"] == 0
    assert all(read(tmp_path, name) == record for name, record in kept.items())
    both = read(folder, "seed-0")["metrics"], read(tmp_path, "seed-0")["metrics"]
    for name, scores in both[0].items():
        for steps, score in scores.items():
            assert both[1][name][steps]["loss"] == pytest.approx(
                score["loss"], rel=0.05
            )


def test_a_grid_grows_towards_an_edge_that_wins() -> None:
    def measure(some: list[Training]) -> list[float]:
        return [abs(t.inner_rate - 0.08) + abs(t.outer_rate - 0.25) for t in some]

    start = Training("Reptile", "plain", 1, 1.0, 1.0)
    found = searched(measure, start, [0.01, 0.02], [0.5, 1.0], widen=9)
    best = min(found, key=found.__getitem__)
    assert (best.inner_rate, best.outer_rate) == (0.08, 0.25)
    assert max(t.inner_rate for t in found) == 0.16
    assert min(t.outer_rate for t in found) == 0.125


def test_a_run_that_overflows_is_not_chosen() -> None:
    reptile = sine_methods.methods(TINY)[0]
    pair = [Training("Reptile", "plain", 1, rate, 1.0) for rate in (0.01, 1e30)]
    calm, wild = sine_methods.train(reptile, pair, [0, 0], TINY)
    assert calm is not None
    assert calm.isfinite().all()
    assert wild is None


def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sine_methods.main(["--seeds", "a", "--results", str(tmp_path)]) == 2
    assert "give numbers like" in capsys.readouterr().err
