"""The GPU kit's checks and profiles; where there is a GPU, the checks themselves."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import checks, correctness, profiles
from benchmarks.gpu.jax_process import JaxProcess
from benchmarks.gpu.job import Job
from benchmarks.gpu.record import Report
from reptile_lib import Reptile, adam, conv4
from tests.gpu.readme import ROOT

CPU = torch.device("cpu")


def test_a_check_passes_fails_or_raises(tmp_path: Path) -> None:
    def broken() -> float:
        raise ZeroDivisionError("CUDA error")

    def verdict(difference: Any, left: float = 9.0) -> tuple[Any, Any]:
        job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, time.time() + left)
        row = correctness.carry_out(correctness.Check("x", difference, 0.1), job)
        return row["ok"], row["traceback"]

    assert verdict(lambda: 0.1) == (True, None)
    assert verdict(lambda: 0.2) == (False, None)
    assert verdict(lambda: math.nan) == (False, None)
    assert verdict(broken)[0] is False
    assert "CUDA error" in verdict(broken)[1]
    assert verdict(broken, left=0.0) == (None, None)


def test_a_difference_is_relative_to_the_move() -> None:
    learner = Reptile(conv4(5), adam(1e-3), 1, device="cpu")
    start = learner.phi.clone()
    expected = start + 1
    learner.state = learner.state._replace(phi=start + 0.75)
    assert checks.apart(learner, expected, start) == pytest.approx(0.25, rel=1e-5)
    assert checks.apart(learner, start, start) == math.inf


def test_gaps_are_where_no_kernel_is_at_work() -> None:
    times = [("a", 0, 2), ("b", 1, 3), ("a", 6, 1), ("c", 6.5, 0.25), ("b", 8, 2)]
    events = [{"name": n, "ts": 100 + ts, "dur": dur} for n, ts, dur in times]
    found = profiles.table(events, 5)
    assert found["span_seconds"] == pytest.approx(10e-6)
    assert found["busy_seconds"] == pytest.approx(7e-6)
    assert (found["gaps"], found["launches"]) == (2, 5)
    assert found["longest_gaps_seconds"] == pytest.approx([2e-6, 1e-6])
    assert [(k["name"], k["calls"]) for k in found["kernels"]] == [
        ("b", 2),
        ("a", 2),
        ("c", 1),
    ]


def test_jax_that_takes_too_long_is_given_up() -> None:
    with (
        JaxProcess("cpu") as process,
        pytest.raises(RuntimeError, match="no time for it: import jax"),
    ):
        process.ask(0.0)
    assert process.process.poll() is not None


@pytest.mark.slow
def test_this_machines_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    visible = os.environ["REPTILE_GPUS"]
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if visible != "all":
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", "correctness"]
    command += ["--out", str(tmp_path), "--minutes", "8"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = json.loads((tmp_path / "correctness.json").read_text(encoding="utf-8"))
    if "finds no CUDA GPU" in (found["traceback"] or ""):
        pytest.skip("torch finds no CUDA GPU")
    assert found["status"] == "ok", found["stderr"]
    assert [row for row in found["result"]["checks"] if not row["ok"]] == []
