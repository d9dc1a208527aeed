"""Several processes as one learner: the same φ, an even division, and recovery."""

import json
import operator
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reptile_lib import UserError
from reptile_lib.meta import Alone, Target, weighted_mean
from reptile_lib.parallel.launch import launch
from reptile_lib.parallel.team import here, joined
from reptile_lib.runs import cli, run
from reptile_lib.runs.data import load_data
from reptile_lib.runs.run import CHECKPOINT
from reptile_lib.runs.settings import complete
from reptile_lib.storage import checkpoint
from tests.runs.test_cli import SMALL, phi

ROOT = Path(__file__).parents[2]


# --- a meta-batch in parts


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-9, 9)), min_size=1, max_size=6))
def test_targets_of_parts_average_by_their_tasks(
    parts: list[tuple[int, float]],
) -> None:
    def target(value: float) -> Target:
        t = torch.tensor([value, 2 * value], dtype=torch.float64)
        return Target(t, {"v": 3 * t, "step": t[0]}, t[1], 4 * t[0])

    count = sum(n for n, _ in parts)
    found = weighted_mean([(n, target(value)) for n, value in parts], count)
    expected = target(sum(n * value for n, value in parts) / count)
    torch.testing.assert_close(found, expected)


# --- real processes

SCRIPT = """
import sys
import torch
from torch import nn
from torch.nn import functional as F
from reptile_lib import FewShotTasks, Reptile, Sine, adam, conv4, evaluate, linear, load
from reptile_lib import mlp
from reptile_lib.parallel.team import here, joined

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
what, out = sys.argv[1:]
with joined("cpu") as device:
    if what == "sine":
        model, criterion, tasks = mlp(1, 8, 1, activation=nn.Tanh), F.mse_loss, Sine(7)
    else:
        glyphs = load("glyphs")
        model, criterion = conv4(3), F.cross_entropy
        tasks = FewShotTasks(glyphs.train, ways=3, shots=4)
    inner = adam(0.01, (0.5, 0.99))
    learner = Reptile(model.double(), inner, 3, 4, criterion=criterion, device=device)
    learner.fit(tasks, meta_steps=4, meta_batch=5, epsilon=linear(1.0, 0.0), seed=3)
    scores = None
    if what == "glyphs":
        test = FewShotTasks(glyphs.test, ways=3, shots=1)
        found = evaluate(learner, test, inner_steps=3, count=7)
        scores = torch.stack([score.values for score in found])
    for count in (0, 1, 2, 7):  # shares are all things once, and even
        mine = torch.tensor([*here().portion(count)], dtype=torch.int64)
        assert torch.equal(here().gather(mine), torch.arange(count))
        assert count // here().size <= len(mine) <= -(-count // here().size)
    if here().rank == 0:
        losses = [row["loss"] for row in learner.history]
        torch.save((learner.phi, learner.inner_state, losses, scores), out)
"""


def torchrun(processes: int, script: Path, *arguments: Any) -> None:
    """Run a script in some processes, through PyTorch's own launcher."""
    command = [sys.executable, str(script), *map(str, arguments)]
    if processes > 1:
        options = ["--standalone", "--nproc-per-node", str(processes)]
        command[1:1] = ["-m", "torch.distributed.run", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr


def found_by(processes: int, what: str, tmp_path: Path) -> Any:
    """Train in some processes; return what they found."""
    script, out = tmp_path / "train.py", tmp_path / f"{what}-{processes}.pt"
    script.write_text(SCRIPT)
    torchrun(processes, script, what, out)
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "processes"), [("sine", 2), ("glyphs", 3)])
def test_several_processes_find_the_phi_of_one(
    what: str, processes: int, tmp_path: Path
) -> None:
    one, other = (found_by(n, what, tmp_path) for n in (1, processes))
    assert one[2][0] != one[2][-1]  # something was learned, or equality says nothing
    torch.testing.assert_close(other, one, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_processes_of_two_machines_find_the_phi_of_one(tmp_path: Path) -> None:
    one, script = found_by(1, "glyphs", tmp_path), tmp_path / "train.py"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    # A launcher a machine; that both are this one, the processes cannot tell.
    machines = [
        subprocess.Popen(
            [
                *[sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"],
                *["--node-rank", str(rank), "--nproc-per-node", "1"],
                *["--master-addr", "localhost", "--master-port", str(port)],
                *[str(script), "glyphs", str(tmp_path / "two.pt")],
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for machine in machines:
        _, errors = machine.communicate(timeout=300)
        assert machine.returncode == 0, errors
    torch.testing.assert_close(torch.load(tmp_path / "two.pt"), one, rtol=0, atol=1e-11)


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reptile_lib", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process numbers of the workers, which have children of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [
        pid
        for pid in map(int, children.split())
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers through /proc")
def test_a_killed_worker_is_replaced_and_the_run_ends_with_the_same_phi(
    tmp_path: Path,
) -> None:
    steps = 300
    options = [
        *SMALL,
        "--meta-steps",
        steps,
        "--checkpoint-every",
        20,
        "--processes",
        2,
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start("train", *options, "--out", whole)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err

    process = start("train", *options, "--out", killed, "--json")
    deadline = time.monotonic() + 200
    reached = 0
    while time.monotonic() < deadline and reached < 30:
        if (killed / CHECKPOINT).exists():
            reached = checkpoint.load(killed / CHECKPOINT).metadata["meta_step"]
        time.sleep(0.005)
    alive = workers_of(process)
    assert 30 <= reached < steps, "too early or too late to test anything"
    assert len(alive) == 2
    os.kill(alive[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    record = json.loads(out.splitlines()[-1])
    assert 30 <= record["start_step"] < steps
    for name, value in phi(whole).items():
        assert torch.equal(value, phi(killed)[name]), name


@pytest.mark.slow
def test_a_mistake_is_told_once_and_starts_nothing_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    deep = tmp_path / (8 * "a long way down") / "to a socket"
    deep.mkdir(parents=True)
    cases: list[tuple[list[object], str]] = [
        (["--meta-batch", 1], "meta_batch = 1 for 2 processes"),
        (["--lr", "1e38"], "training diverged"),
        (["--out", "/dev/null/x"], "cannot write"),
        ([], "set TMPDIR to a folder with a short path"),
    ]
    for extra, words in cases:
        settings = [*SMALL, "--meta-steps", 5, "--processes", 2]
        out = tmp_path / words[:4]
        if not extra:
            monkeypatch.setenv("TMPDIR", str(deep))
            monkeypatch.setattr("tempfile.tempdir", None)  # to be asked for anew
        given = [*settings, "--out", out, *extra]
        assert cli.main(["train", *map(str, given)]) == 2
        err = capfd.readouterr().err  # of the workers, too
        assert err.count("reptile_lib:") == 1
        assert words in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_what_a_process_died_of_is_told_in_a_line() -> None:
    with pytest.raises(
        UserError, match=r"process \d died \(TypeError: .*integer\) and 0"
    ):
        launch(operator.index, [], 2, restarts=0)  # type: ignore[arg-type]


def test_a_second_launcher_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli.main(["train", "--out", str(tmp_path), "--processes", "2"]) == 2
    assert "a launcher has started 4; leave --processes out" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_process_without_a_gpu_of_its_own_is_told(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match=r"2 processes on 1 GPUs: .* a process a GPU"),
        joined(device),
    ):
        pass


def test_a_refused_folder_is_not_taken_over_by_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = complete({"meta_steps": 2, "meta_batch": 1, "inner_steps": 1})
    data = load_data(config)
    run.train(config, data, tmp_path, device="cpu")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="already holds a run"):
        run.train(config, data, tmp_path, device="cpu")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    run.train(config, data, tmp_path, device="cpu", resume="always")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    _, start_step = run.train(config, data, tmp_path, device="cpu")
    assert start_step == 2


@pytest.mark.parametrize("bad", ["0", "-1", "many"])
def test_no_number_of_processes_is_named(
    bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x")
    assert cli.main(["train", "--out", out, "--processes", bad]) == 2
    assert f"--processes {bad}: give a number" in capsys.readouterr().err


def test_outside_a_group_there_is_one_process() -> None:
    team = here()
    assert isinstance(team, Alone)
    assert (team.rank, team.size) == (0, 1)
    assert team.first_alone(lambda: 7) == 7
    assert team.portion(5) == range(5)
    values = torch.ones(2)
    assert team.gather(values) is values
    with pytest.raises(UserError, match="as it is"):
        team.first_alone(fail)


def fail() -> None:
    raise UserError("as it is")
