"""The command line, mostly as real processes: what a user types, sees and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reptile_lib import Reptile, adam, conv4
from reptile_lib.runs import cli
from reptile_lib.runs.run import CHECKPOINT
from reptile_lib.storage import checkpoint

SMALL = [
    *("--data", "glyphs", "--ways", "3", "--train-shots", "2", "--meta-batch", "2"),
    *("--inner-steps", "2", "--inner-batch", "3", "--device", "cpu", "--quiet"),
    *("--eval-steps", "2", "--eval-batch", "3", "--eval-tasks", "4"),
    *("--processes", "1"),
]


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reptile_lib", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def run(*arguments: Any, **options: Any) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    with start(*arguments, **options) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()  # nothing is left of one that took too long
    return process.returncode, out, err


def phi(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in load_file(folder / CHECKPOINT).items()
        if name.startswith("phi/")
    }


@pytest.mark.slow
def test_train_reports_as_json_and_evaluate_repeats_the_number(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    status, text, _ = run("train", *SMALL, "--meta-steps", 5, "--out", out, "--json")
    assert status == 0
    *lines, last = text.splitlines()
    record = json.loads(last)
    assert any("non-transductive" in line for line in lines)
    for protocol in ("transductive", "non_transductive", "support_statistics"):
        assert set(record["metrics"][protocol]) == {"accuracy", "ci95", "tasks"}
        assert record["metrics"][protocol]["tasks"] == 4
    assert record["inner_steps"] == 5 * 2 * 2
    assert record["start_step"] == 0
    rate = record["inner_steps"] / record["train_seconds"]
    assert record["inner_steps_per_second"] == pytest.approx(rate)
    history = json.loads((out / "history.json").read_text())["history"]
    assert [row["meta_step"] for row in history] == [1, 2, 3, 4, 5]

    status, text, _ = run("evaluate", "--checkpoint", out, "--json")
    assert status == 0
    assert json.loads(text.splitlines()[-1])["metrics"] == record["metrics"]


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_phi_bit_for_bit(tmp_path: Path) -> None:
    steps = 200
    options: list[Any] = [*SMALL, "--meta-steps", steps, "--checkpoint-every", 10]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("train", *options, "--out", whole)[0] == 0

    process = start("train", *options, "--out", killed)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if (killed / CHECKPOINT).exists():
            reached = checkpoint.load(killed / CHECKPOINT).metadata["meta_step"]
            if reached >= 0.2 * steps:
                break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    at_kill = checkpoint.load(killed / CHECKPOINT).metadata["meta_step"]
    assert 0.2 * steps <= at_kill < steps, "killed too late to test anything"

    status, text, _ = run("train", *options, "--out", killed, "--resume", "--json")
    assert status == 0
    record = json.loads(text.splitlines()[-1])
    assert record["start_step"] == at_kill
    for name, value in phi(whole).items():
        assert torch.equal(value, phi(killed)[name]), name


def heed_ctrl_c() -> None:
    """Undo what a shell does to commands that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_where_it_stands(processes: int, tmp_path: Path) -> None:
    # fewer inner steps than those from which a run is compiled, which takes a minute
    options: list[Any] = [*SMALL, "--meta-steps", 40_000, "--checkpoint-every", 0]
    options += ["--processes", processes]
    options += ["--validate-every", 0, "--checkpoint-every", 5]
    process = start(
        "train",
        *options,
        "--out",
        tmp_path,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline, reached = time.monotonic() + 200, 0
    while reached < 5 and process.poll() is None and time.monotonic() < deadline:
        if (tmp_path / CHECKPOINT).exists():
            reached = checkpoint.load(tmp_path / CHECKPOINT).metadata["meta_step"]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert checkpoint.load(tmp_path / CHECKPOINT).metadata["meta_step"] >= reached > 0


@pytest.mark.slow
def test_validation_classes_go_into_the_history(tmp_path: Path) -> None:
    arguments = ["train", *SMALL, "--out", str(tmp_path), "--meta-steps", "4"]
    assert cli.main([*arguments, "--validate-every", "2"]) == 0
    history = json.loads((tmp_path / "history.json").read_text())["history"]
    scored = [row["meta_step"] for row in history if "validation_accuracy" in row]
    assert scored == [2, 4]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of two meta-steps."""
    out = tmp_path_factory.mktemp("finished")
    arguments = ["train", *SMALL, "--meta-steps", "2", "--out", str(out)]
    assert cli.main(arguments) == 0
    return out


BAD_TRAINING = {
    "more ways than classes": (["--ways", "5000"], ["5000", "classes"]),
    "more shots than examples": (["--train-shots", "50"], ["50", "at most 20"]),
    "evaluation shots": (["--shots", "20"], ["20", "examples"]),
    "unknown data set": (["--data", "imagenet"], ["imagenet", "glyphs"]),
    "cuda absent": (["--device", "cuda"], ["cuda", "cpu"]),
    "no such device": (["--device", "abacus"], ["abacus", "cpu"]),
    "loss blows up": (["--lr", "1e38"], ["meta-step", "1e+38"]),
    "no learning rate": (["--lr", "0"], ["0", "learning rate"]),
    "negative epsilon": (["--epsilon", "-1"], ["-1", "epsilon"]),
    "no steps": (["--meta-steps", "0"], ["meta_steps = 0"]),
    "no tasks": (["--meta-batch", "0"], ["meta_batch = 0"]),
    "negative seed": (["--seed", "-1"], ["seed = -1"]),
    "no evaluation tasks": (["--eval-tasks", "0"], ["eval_tasks = 0"]),
    "no evaluation batch": (["--eval-batch", "0"], ["eval_batch = 0"]),
    "negative evaluation": (["--eval-steps", "-1"], ["eval_steps = -1"]),
    "negative period": (["--checkpoint-every", "-5"], ["checkpoint_every = -5"]),
    "val classes of glyphs": (["--val-classes", "7"], ["7", "of its own; leave"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "words"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_a_mistake_is_one_line_and_status_two(
    extra: list[str],
    words: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if "cuda" in extra and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments = ["train", *SMALL, "--meta-steps", "2", "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, *extra]) == 2
    error = capfd.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    for word in words:
        assert word in error


def test_a_finished_run_is_not_overwritten(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / CHECKPOINT).read_bytes()
    arguments = ["train", *SMALL, "--out", str(finished)]
    assert cli.main([*arguments, "--meta-steps", "2"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*arguments, "--meta-steps", "3", "--resume"]) == 2
    assert "meta_steps is 3, but the run began with 2" in capsys.readouterr().err
    assert (finished / CHECKPOINT).read_bytes() == before


@pytest.mark.slow
def test_resuming_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", *SMALL, "--out", str(tmp_path / "absent"), "--resume"]
    assert cli.main(arguments) == 2
    assert "absent" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_kept(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / CHECKPOINT
    damaged.write_bytes((finished / CHECKPOINT).read_bytes()[:1000])
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path)]) == 2
    assert str(damaged) in capsys.readouterr().err
    arguments = ["train", *SMALL, "--meta-steps", "2", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--resume"]) == 2
    assert damaged.stat().st_size == 1000


def test_a_checkpoint_without_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / CHECKPOINT
    Reptile(conv4(ways=5), adam(1e-3), inner_steps=1).save(path)
    assert cli.main(["evaluate", "--checkpoint", str(path)]) == 2
    error = capsys.readouterr().err
    assert "does not say how it was trained" in error
    assert "from Python" in error


def test_an_unwritable_folder_is_found_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    assert cli.main(["train", *SMALL, "--meta-steps", "100000", "--out", str(out)]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_omniglot_without_network_is_one_line(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "REPTILE_CACHE": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    arguments = [*SMALL, "--data", "omniglot", "--out", tmp_path / "run"]
    status, _, err = run("train", *arguments, env=environment)
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert "omniglot" in err.lower()
