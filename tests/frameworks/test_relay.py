"""What one framework has trained, the others and the library use: answer by answer."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from reptile_book import relay
from reptile_book.conformance import FRAMEWORKS, installed

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_frameworks_answer_alike_whoever_trained() -> None:
    if missing := {*FRAMEWORKS} - {*installed()}:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    # a process of its own: JAX and TensorFlow keep threads, and warn of forks
    done = subprocess.run(
        [sys.executable, "-m", "reptile_book.relay"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for line, trainer in zip(done.stdout.splitlines(), FRAMEWORKS, strict=True):
        name, share, readers = line.split(": ")
        assert name == trainer
        assert float(share.split()[0]) > 35, "chance is 20 %"
        assert readers == "torch, jax, keras, library"


def test_answers_that_differ_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    torch = replace(relay.torch_twin(), meta_step=lambda phi, tasks, epsilon: phi)

    def negated(phi: Any, x: NDArray[Any]) -> NDArray[Any]:
        return -torch.answer(phi, x)

    assert not relay.compare({"torch": torch, "jax": replace(torch, answer=negated)})
    out = capsys.readouterr().out
    assert out.count("alike: torch, NOT jax, NOT library") == 1
    assert out.count("alike: NOT torch, jax, NOT library") == 1
