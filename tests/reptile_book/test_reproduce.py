"""Recorded rows: made by a run, written once, shown in a table made from them."""

import _thread
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from reptile_book import records, reproduce, rows, sine_row
from reptile_book.__main__ import main, parser
from reptile_book.rows import row_name
from reptile_lib import FewShotTasks, Sine, UserError, adaptation_curve, load
from reptile_lib.runs import run
from reptile_lib.runs.data import load_data
from reptile_lib.runs.settings import LATER
from reptile_lib.storage import checkpoint

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "results"
TINY = {
    "ways": 3,
    "train_shots": 2,
    "inner_steps": 2,
    "inner_batch": 3,
    "meta_batch": 2,
    "meta_steps": 4,
    "eval_steps": 2,
    "eval_batch": 3,
    "eval_tasks": 4,
}


Recorded = tuple[Path, records.Record]


def tiny(folder: Path, row: str = "glyphs-5way", **options: Any) -> records.Record:
    """Record seed 0 of a row with few and small steps."""
    how: dict[str, Any] = {"device": "cpu", "trial": TINY} | options
    return reproduce.reproduce(row, 0, "short", folder, **how)


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """A results folder with one tiny row."""
    return tmp_path, tiny(tmp_path)


def reached(path: Path) -> int:
    """Return the meta-steps that a checkpoint holds; -1 if there is none."""
    if not path.exists():
        return -1
    done: int = checkpoint.load(path).metadata["meta_step"]
    return done


@contextmanager
def interrupted_after(path: Path, meta_step: int = 0) -> Iterator[None]:
    """Press Ctrl-C when a checkpoint has got somewhere."""

    def press() -> None:
        while reached(path) < meta_step:
            time.sleep(0.02)
        _thread.interrupt_main()

    # also where a shell in the background has it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    finger = threading.Thread(target=press, daemon=True)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    finger.join()


def test_a_row_is_recorded_whole(recorded: Recorded) -> None:
    folder, record = recorded
    stored = json.loads((folder / "glyphs-5way-short" / "seed-0.json").read_text())
    assert stored == record
    assert stored["inner_steps"] == 4 * 2 * 2
    assert set(stored["metrics"]) == {"1-shot", "5-shot"}
    assert "--budget short --processes 1" in stored["command"]
    left = sorted(path.name for path in (folder / "glyphs-5way-short").iterdir())
    assert left == ["seed-0.json", "seed-0.safetensors"]


def test_the_recorded_phi_repeats_the_number(recorded: Recorded) -> None:
    folder, record = recorded
    phi = folder / "glyphs-5way-short" / "seed-0.safetensors"
    for shots in rows.SHOTS:
        learner, config = run.reopen(phi, "cpu", shots=shots)
        tasks = FewShotTasks(load_data(config).test, config.ways, shots)
        scores = run.score(learner, config, tasks)
        assert scores.as_dict() == record["metrics"][f"{shots}-shot"]


def test_a_recorded_row_is_not_overwritten(recorded: Recorded) -> None:
    folder, _ = recorded
    with pytest.raises(UserError, match="recorded already; delete it"):
        tiny(folder)


@pytest.mark.slow
def test_a_stopped_run_is_continued_to_the_same_phi(tmp_path: Path) -> None:
    small = {"ways": 2, "inner_steps": 1, "inner_batch": 2, "meta_batch": 1}
    trial = TINY | small | {"meta_steps": 1_300, "eval_tasks": 2}
    tiny(tmp_path / "whole", trial=trial)
    folder = tmp_path / "again" / "glyphs-5way-short"
    with interrupted_after(folder / "run-0" / run.CHECKPOINT, 1_000):
        tiny(tmp_path / "again", trial=trial)
    assert reached(folder / "run-0" / run.CHECKPOINT) >= 1_000
    tiny(tmp_path / "again", trial=trial)
    again, whole = (
        checkpoint.load(tmp_path / name / "glyphs-5way-short" / "seed-0.safetensors")
        for name in ("again", "whole")
    )
    for name, value in whole.phi.items():
        assert torch.equal(value, again.phi[name])


HOLD = """
import sys, time
from pathlib import Path
from reptile_lib.runs import run
with run.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("row", "seeds"), [("glyphs-5way", [0]), ("sine", [0, 1])])
def test_two_processes_do_not_work_on_one_run(
    row: str, seeds: list[int], tmp_path: Path
) -> None:
    trial = {"meta_steps": 4, "eval_tasks": 2} if row == "sine" else TINY
    folder = tmp_path / f"{row}-short" / "run-0"

    def command() -> list[records.Record]:
        how: dict[str, Any] = {"device": "cpu", "trial": trial}
        return reproduce.several(row, seeds, "short", tmp_path, **how)

    holder = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as caught:
            command()
        assert f"another process is at work in {folder}; wait" in str(caught.value)
        assert not (folder / run.CHECKPOINT).exists()
        other.kill()  # the system lets go of what it held
        other.wait()
    assert len(command()) == len(seeds)
    assert not folder.exists()


def test_a_short_row_is_scored_with_both_choices_of_moments(recorded: Recorded) -> None:
    folder, record = recorded
    phi = folder / "glyphs-5way-short" / "seed-0.safetensors"
    switched = record["metrics_switched_moments"]
    assert switched != record["metrics"]
    learner, config = run.reopen(phi, "cpu", shots=1)
    tasks = FewShotTasks(load_data(config).test, config.ways, 1)
    scores = run.score(learner, config, tasks, moments="reset")
    assert scores.as_dict() == switched["1-shot"]


def test_a_row_of_another_configuration_is_not_taken_for_this_one(
    recorded: Recorded,
) -> None:
    folder, _ = recorded
    path = folder / "glyphs-5way-short" / "seed-0.json"
    record = json.loads(path.read_text())
    record["config"]["lr"] = 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"lr was 0.5 and is now 0.001; delete it"):
        tiny(folder)


def test_the_reset_rows_forget_the_moments(tmp_path: Path) -> None:
    record = tiny(tmp_path, "glyphs-5way-reset")
    assert record["config"]["moments"] == "reset"
    phi = tmp_path / "glyphs-5way-reset-short" / "seed-0.safetensors"
    learner, _ = run.reopen(phi, "cpu")
    assert learner.inner_state is not None
    assert learner.inner_state["step"].item() == TINY["inner_steps"]


def test_the_sine_row_records_losses(tmp_path: Path) -> None:
    trial = {"meta_steps": 300, "eval_tasks": 50}
    record = reproduce.reproduce("sine", 1, "short", tmp_path, trial=trial)
    stored = json.loads((tmp_path / "sine-short" / "seed-1.json").read_text())
    assert stored == record
    assert list(record["metrics"]) == ["0-steps", "1-steps", "8-steps", "32-steps"]
    loss = {name: value["loss"] for name, value in record["metrics"].items()}
    assert loss["32-steps"] < loss["0-steps"] / 2
    assert record["inner_steps"] == 300 * 10
    assert (tmp_path / "sine-short" / "seed-1.safetensors").exists()


def test_an_unknown_row_is_named() -> None:
    with pytest.raises(UserError, match="unknown row 'imagenet'; choose one of glyphs"):
        reproduce.reproduce("imagenet", 0)


def test_seeds_of_the_sine_row_are_trained_together(tmp_path: Path) -> None:
    how: dict[str, Any] = {"trial": {"meta_steps": 50, "eval_tasks": 20}}
    folders = {"together": tmp_path / "together", "alone": tmp_path / "alone"}
    both = reproduce.several("sine", [1, 2], "short", folders["together"], **how)
    for seed, found in zip((1, 2), both, strict=True):
        one = reproduce.reproduce("sine", seed, "short", folders["alone"], **how)
        assert found["trained_together"] == 2
        assert one["trained_together"] == 1
        for steps, value in one["metrics"].items():
            loss = found["metrics"][steps]["loss"]
            assert loss == pytest.approx(value["loss"], rel=1e-2)


def test_what_has_begun_is_not_trained_together(tmp_path: Path) -> None:
    (tmp_path / "sine-short" / "run-1").mkdir(parents=True)
    (tmp_path / "sine-short" / "run-1" / run.CHECKPOINT).touch()
    sine_row.train_together((1, 2), "short", tmp_path, trial={"meta_steps": 5})
    assert not (tmp_path / "sine-short" / "run-2").exists()


def test_several_seeds_go_on_with_those_that_are_left(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = recorded
    whole = (folder / "glyphs-5way-short" / "seed-0.json").read_bytes()
    how: dict[str, Any] = {"device": "cpu", "trial": TINY}
    reproduce.several("glyphs-5way", [0, 1], "short", folder, **how)
    assert "recorded already: seed-0" in capsys.readouterr().out
    assert (folder / "glyphs-5way-short" / "seed-0.json").read_bytes() == whole
    assert (folder / "glyphs-5way-short" / "seed-1.json").exists()
    with pytest.raises(UserError, match="recorded already; delete it"):
        reproduce.several("glyphs-5way", [0, 1], "short", folder, **how)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["imagenet"], "unknown row 'imagenet'; choose one of"),
        (["sine", "--seeds", "0,x"], "--seeds 0,x: give numbers like 0,1,2"),
        (["sine", "--budget", "full"], "recorded already; delete it"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *command, "--results", str(RESULTS), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_damaged_record_is_named(recorded: Recorded) -> None:
    folder, _ = recorded
    path = folder / "glyphs-5way-short" / "seed-0.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"seed-0.json is not JSON .*restore it"):
        tiny(folder)


def test_a_phi_that_cannot_be_kept_leaves_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "glyphs-5way-short"
    in_the_way = folder / "seed-0.safetensors"
    in_the_way.mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*\(Is a directory\)"):
        tiny(tmp_path)
    in_the_way.rmdir()
    assert [path.name for path in folder.iterdir()] == ["run-0"]
    tiny(tmp_path)
    assert in_the_way.is_file()


@pytest.mark.slow
def test_a_sine_run_begun_with_other_settings_is_not_continued(tmp_path: Path) -> None:
    trial = {"meta_steps": 20_000, "eval_tasks": 2}
    began = tmp_path / "sine-short" / "run-0" / run.CHECKPOINT
    with interrupted_after(began):
        reproduce.reproduce("sine", 0, "short", tmp_path, trial=trial)
    with pytest.raises(UserError, match=r"lr is 0.5, but the run began with 0.02"):
        reproduce.reproduce("sine", 0, "short", tmp_path, trial=trial | {"lr": 0.5})


@pytest.mark.slow
def test_seeds_stopped_together_are_continued(tmp_path: Path) -> None:
    trial = {"meta_steps": 3_000, "eval_tasks": 5}
    row = tmp_path / "sine-short"
    paths = [row / f"run-{seed}" / run.CHECKPOINT for seed in (1, 2)]
    with interrupted_after(paths[1]):
        sine_row.train_together((1, 2), "short", tmp_path, trial=trial)
    (stands,) = {reached(path) for path in paths}
    assert 0 <= stands < 3_000, "too late to test anything"
    record = reproduce.reproduce("sine", 1, "short", tmp_path, trial=trial)
    assert set(record["metrics"]) == {"0-steps", "1-steps", "8-steps", "32-steps"}


# --- what is committed

PHIS = sorted(RESULTS.glob("*/seed-*.safetensors"))
NAMES = [f"{path.parent.name}-{path.stem}" for path in PHIS]


def test_every_row_that_trains_keeps_its_phi() -> None:
    """Untrained weights follow from the seed, and studies keep numbers alone."""
    assert len(PHIS) >= 22
    found = sorted(RESULTS.glob("*/seed-*.json"))
    without = {p.parent.name for p in found} - {p.parent.name for p in PHIS}
    assert without <= {f"{row}-untrained" for row in rows.ROWS} | {
        "sine-methods",
        "sine-inner",
        "sine-outer",
        "glyph-heads",
        "movielens",
        "breast-cancer",
    }
    trained = [p for p in found if p.parent.name not in without]
    assert [p.with_suffix(".json") for p in PHIS] == trained


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*-untrained/*.json")), ids=str)
def test_an_untrained_records_command_is_one(path: Path) -> None:
    record = records.read_one(path)
    options = parser().parse_args(record["command"].split()[3:])
    assert f"{options.row}-untrained" == record["row"] == path.parent.name
    assert options.seeds == str(record["seed"])


@pytest.mark.parametrize("path", PHIS, ids=NAMES)
def test_a_records_command_is_one(path: Path) -> None:
    record = records.read_one(path.with_suffix(".json"))
    python, m, module, *arguments = record["command"].split()
    assert (python, m, module) == ("python", "-m", "reptile_book")
    options = parser().parse_args(arguments)
    assert row_name(options.row, options.budget) == record["row"] == path.parent.name
    assert options.seeds == str(record["seed"])
    assert options.processes == str(record["processes"])
    config = rows.config(options.row, options.budget, record["seed"])
    known = {**LATER, **record["config"]}
    assert {name: known[name] for name in config} == config


@pytest.mark.parametrize("path", PHIS, ids=NAMES)
def test_a_committed_phi_is_read_and_scores(path: Path) -> None:
    record = records.read_one(path.with_suffix(".json"))
    if path.parent.name.startswith("sine"):
        learner = sine_row.learner_of(rows.sine_settings("full", record["seed"]), "cpu")
        learner.restore(path)
        losses = adaptation_curve(learner, Sine(10), inner_steps=8, count=20).mean(0)
        assert losses[8] < losses[0] / 5
    else:
        learner, settings = run.reopen(path, "cpu", eval_tasks=6, eval_steps=5)
        assert settings.data == path.parent.name.split("-")[0]
        tasks = FewShotTasks(load("glyphs").test, settings.ways, settings.shots)
        scores = run.score(learner, settings, tasks)
        assert scores.transductive.accuracy > 0.4  # chance is a fifth
    assert learner.state.meta_step == record["config"]["meta_steps"]
    assert learner.phi.isfinite().all()
