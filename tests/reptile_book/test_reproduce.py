"""Recorded rows: made by a run, written once, shown in a table made from them."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from reptile_lib import (
    checkpoint,
    cli,
    headline,
    meta_step,
    reproduce,
    results,
    rows,
    runs,
    sine_row,
)
from reptile_lib.errors import UserError
from reptile_lib.tasks import FewShotTasks

RESULTS = Path(__file__).parents[1] / "results"
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


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A results folder with one tiny row."""
    monkeypatch.setitem(rows.ROWS, "glyphs-5way", {"data": "glyphs"})
    monkeypatch.setitem(rows.BUDGETS, "short", TINY)
    record = reproduce.reproduce("glyphs-5way", 0, "short", tmp_path, device="cpu")
    return tmp_path, record


def test_a_row_is_recorded_whole(recorded):
    folder, record = recorded
    stored = json.loads((folder / "glyphs-5way-short" / "seed-0.json").read_text())
    assert stored == record
    assert stored["inner_steps"] == 4 * 2 * 2
    assert set(stored["metrics"]) == {"1-shot", "5-shot"}
    assert "--budget short --processes 1" in stored["command"]
    left = sorted(path.name for path in (folder / "glyphs-5way-short").iterdir())
    assert left == ["seed-0.json", "seed-0.safetensors"]


def test_the_recorded_phi_repeats_the_number(recorded):
    folder, record = recorded
    phi = folder / "glyphs-5way-short" / "seed-0.safetensors"
    for shots in rows.SHOTS:
        learner, config = runs.reopen(phi, "cpu", shots=shots)
        tasks = FewShotTasks(runs.load_data(config).test, config["ways"], shots)
        scores = runs.score(learner, config, tasks)
        assert scores.as_dict() == record["metrics"][f"{shots}-shot"]


def test_a_recorded_row_is_not_overwritten(recorded):
    folder, _ = recorded
    with pytest.raises(UserError, match="recorded already; delete it"):
        reproduce.reproduce("glyphs-5way", 0, "short", folder, device="cpu")


def test_a_stopped_run_is_continued_to_the_same_phi(recorded, tmp_path, monkeypatch):
    folder, _ = recorded
    whole = (folder / "glyphs-5way-short" / "seed-0.safetensors").read_bytes()
    again = tmp_path / "again"

    steps = meta_step.take

    def interrupted(learner, run, numbers):
        if numbers.start == 2:
            raise KeyboardInterrupt
        return steps(learner, run, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(meta_step, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce.reproduce("glyphs-5way", 0, "short", again, device="cpu")
    stopped, _ = runs.reopen(again / "glyphs-5way-short" / "run-0", "cpu")
    assert stopped.state.meta_step == 2
    reproduce.reproduce("glyphs-5way", 0, "short", again, device="cpu")
    phi = again / "glyphs-5way-short" / "seed-0.safetensors"
    # The same tensors; the header holds seconds.
    assert phi.read_bytes()[-400_000:] == whole[-400_000:]


HOLD = """
import sys, time
from pathlib import Path
from reptile_lib import runs
with runs.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("row", "seeds"), [("glyphs-5way", "0"), ("sine", "0,1")])
def test_two_processes_do_not_work_on_one_run(
    row, seeds, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(rows.ROWS, "glyphs-5way", {"data": "glyphs"})
    tiny = {"meta_steps": 4, "eval_tasks": 2}
    monkeypatch.setitem(rows.BUDGETS, "short", tiny if row == "sine" else TINY)
    run = tmp_path / f"{row}-short" / "run-0"
    command = ["reproduce", row, "--seeds", seeds, "--budget", "short", "--quiet"]
    command += ["--results", str(tmp_path), "--processes", "1", "--device", "cpu"]
    other = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE)
    with other:
        assert other.stdout.readline() == b"held\n"
        assert cli.main(command) == 2
        assert f"another process is at work in {run}; wait" in capsys.readouterr().err
        assert not (run / runs.CHECKPOINT).exists()
        other.kill()  # the system lets go of what it held
        other.wait()
    assert cli.main(command) == 0
    assert not run.exists()


def test_a_short_row_is_scored_with_both_choices_of_moments(recorded):
    folder, record = recorded
    phi = folder / "glyphs-5way-short" / "seed-0.safetensors"
    switched = record["metrics_switched_moments"]
    assert switched != record["metrics"]
    learner, config = runs.reopen(phi, "cpu", shots=1)
    tasks = FewShotTasks(runs.load_data(config).test, config["ways"], 1)
    scores = runs.score(learner, config, tasks, moments="reset")
    assert scores.as_dict() == switched["1-shot"]


def test_a_row_of_another_configuration_is_not_taken_for_this_one(recorded):
    folder, _ = recorded
    path = folder / "glyphs-5way-short" / "seed-0.json"
    record = json.loads(path.read_text())
    record["config"]["lr"] = 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"lr was 0.5 and is now 0.001; delete it"):
        reproduce.reproduce("glyphs-5way", 0, "short", folder, device="cpu")


def test_the_reset_rows_forget_the_moments(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.BUDGETS, "short", TINY)
    record = reproduce.reproduce("glyphs-5way-reset", 0, "short", tmp_path)
    assert record["config"]["moments"] == "reset"
    phi = tmp_path / "glyphs-5way-reset-short" / "seed-0.safetensors"
    learner, _ = runs.reopen(phi, "cpu")
    assert learner.inner_state["step"].item() == TINY["inner_steps"]


def test_the_sine_row_records_losses(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.BUDGETS, "short", {"meta_steps": 300, "eval_tasks": 50})
    record = reproduce.reproduce("sine", 1, "short", tmp_path)
    stored = json.loads((tmp_path / "sine-short" / "seed-1.json").read_text())
    assert stored == record
    assert list(record["metrics"]) == ["0-steps", "1-steps", "8-steps", "32-steps"]
    loss = {name: value["loss"] for name, value in record["metrics"].items()}
    assert loss["32-steps"] < loss["0-steps"] / 2
    assert record["inner_steps"] == 300 * 10
    assert (tmp_path / "sine-short" / "seed-1.safetensors").exists()


def test_a_checkpoint_without_a_later_setting_means_what_was_done_then(tmp_path):
    config = runs.complete(TINY)
    learner = runs.build(config, "cpu")
    old = {name: value for name, value in config.items() if name != "precision"}
    learner.save(tmp_path / runs.CHECKPOINT, old)
    _, found = runs.reopen(tmp_path, "cpu")
    assert found == config


def test_an_unknown_row_is_named():
    with pytest.raises(UserError, match="unknown row 'imagenet'; choose one of glyphs"):
        reproduce.reproduce("imagenet", 0)


def test_the_table_shows_measured_beside_published(tmp_path):
    for seed, accuracy in enumerate((0.95, 0.97)):
        score = {"accuracy": accuracy, "ci95": 0.01, "tasks": 10}
        protocols = {"transductive": score, "non_transductive": score}
        record = {"metrics": {"1-shot": protocols, "5-shot": protocols}}
        path = tmp_path / "omniglot-5way" / f"seed-{seed}.json"
        results.write(path, record | {"train_seconds": 90.0 + seed * 60})
    lines = headline.headline(tmp_path).splitlines()
    assert sum(line.startswith("| omniglot-5way |") for line in lines) == 2
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "omniglot-5way",
        "1",
        # mean of 95 and 97, their standard deviation, and what is published
        "96.0 ± 1.4 (97.68 ± 0.04)",
        "96.0 ± 1.4 (95.39 ± 0.09)",
        "2",
        "2.0",
    ]
    # what nobody has run stays visibly empty
    assert (
        "| omniglot-20way | 1 | – (89.43 ± 0.14) | – (88.14 ± 0.15) | 0 |  |" in lines
    )
    assert not any(line.startswith("| glyphs") for line in lines)


def test_the_committed_table_is_made_from_the_committed_records():
    table = (RESULTS / "headline.md").read_text(encoding="utf-8")
    assert table == headline.headline(RESULTS)


def test_seeds_of_the_sine_row_are_trained_together(tmp_path, monkeypatch):
    budget = {"meta_steps": 50, "eval_tasks": 20}
    monkeypatch.setitem(rows.BUDGETS, "short", budget)
    together, alone = tmp_path / "together", tmp_path / "alone"
    sine_row.train_together((1, 2), "short", together)
    found = {}
    for folder in (together, alone):
        for seed in (1, 2):
            found[folder, seed] = reproduce.reproduce("sine", seed, "short", folder)
    for seed in (1, 2):
        assert found[together, seed]["trained_together"] == 2
        assert found[alone, seed]["trained_together"] == 1
        for steps, one in found[alone, seed]["metrics"].items():
            both = found[together, seed]["metrics"][steps]
            assert both["loss"] == pytest.approx(one["loss"], rel=1e-2)


def test_what_has_begun_is_not_trained_together(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.BUDGETS, "short", {"meta_steps": 5})
    (tmp_path / "sine-short" / "run-1").mkdir(parents=True)
    (tmp_path / "sine-short" / "run-1" / runs.CHECKPOINT).touch()
    sine_row.train_together((1, 2), "short", tmp_path)
    assert not (tmp_path / "sine-short" / "run-2").exists()


def test_several_seeds_go_on_with_those_that_are_left(recorded, capsys):
    folder, _ = recorded
    whole = (folder / "glyphs-5way-short" / "seed-0.json").read_bytes()
    command = ["reproduce", "glyphs-5way", "--budget", "short", "--quiet"]
    command += ["--results", str(folder), "--processes", "1", "--device", "cpu"]
    assert cli.main([*command, "--seeds", "0,1"]) == 0
    assert "recorded already: seed-0" in capsys.readouterr().out
    assert (folder / "glyphs-5way-short" / "seed-0.json").read_bytes() == whole
    assert (folder / "glyphs-5way-short" / "seed-1.json").exists()
    assert cli.main([*command, "--seeds", "0,1"]) == 2
    assert "recorded already; delete it" in capsys.readouterr().err


def test_a_damaged_record_is_named(recorded):
    folder, _ = recorded
    path = folder / "glyphs-5way-short" / "seed-0.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"seed-0.json is not JSON .*restore it"):
        reproduce.reproduce("glyphs-5way", 0, "short", folder, device="cpu")


def test_a_phi_that_cannot_be_kept_leaves_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.ROWS, "glyphs-5way", {"data": "glyphs"})
    monkeypatch.setitem(rows.BUDGETS, "short", TINY)

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reproduce.shutil, "copyfile", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left"):
            reproduce.reproduce("glyphs-5way", 0, "short", tmp_path, device="cpu")
    folder = tmp_path / "glyphs-5way-short"
    assert [path.name for path in folder.iterdir()] == ["run-0"]
    reproduce.reproduce("glyphs-5way", 0, "short", tmp_path, device="cpu")
    assert (folder / "seed-0.safetensors").exists()


def test_a_sine_run_begun_with_other_settings_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.BUDGETS, "short", {"meta_steps": 6, "eval_tasks": 2})

    def interrupted(learner, run, numbers):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(meta_step, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce.reproduce("sine", 0, "short", tmp_path)
    monkeypatch.setitem(rows.SINE, "lr", 0.5)
    with pytest.raises(UserError, match=r"lr is 0.5, but the run began with 0.02"):
        reproduce.reproduce("sine", 0, "short", tmp_path)


def test_seeds_stopped_together_are_continued(tmp_path, monkeypatch):
    budget = {"meta_steps": 40, "eval_tasks": 5}
    monkeypatch.setitem(rows.BUDGETS, "short", budget)
    steps = meta_step.take

    def interrupted(learner, run, numbers):
        if numbers.start >= 20:
            raise KeyboardInterrupt
        return steps(learner, run, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(meta_step, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sine_row.train_together((1, 2), "short", tmp_path)
    for seed in (1, 2):
        kept = checkpoint.load(
            tmp_path / "sine-short" / f"run-{seed}" / runs.CHECKPOINT
        )
        assert kept.metadata["meta_step"] >= 20
    record = reproduce.reproduce("sine", 1, "short", tmp_path)
    assert set(record["metrics"]) == {"0-steps", "1-steps", "8-steps", "32-steps"}
