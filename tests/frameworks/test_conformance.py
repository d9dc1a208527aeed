"""The loops of other frameworks find the library's φ: the whole table, in processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reptile_book.conformance import BOUNDS, FRAMEWORKS, cells, installed

ROOT = Path(__file__).parents[2]
# JAX compiles for longer than it then runs.
HASTY = "--xla_backend_optimization_level=0"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_cell_is_within_its_bound(framework: str) -> None:
    if framework not in installed():
        pytest.skip(f"{FRAMEWORKS[framework]} is not installed")
    # a process of its own: JAX and TensorFlow keep threads, and warn of forks
    command = [sys.executable, "-m", "reptile_book.conformance", "--json"]
    done = subprocess.run(
        [*command, "--only", framework],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": HASTY},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(list(cells())), done.stderr[-3000:]
    for row in rows:
        assert row["difference"] <= BOUNDS[row["precision"]], row
        assert row["same_answers"], row
        assert row["left_out"] < 200, row  # of about 1,800 weights
    assert done.returncode == 0


def test_the_library_needs_no_framework_but_torch() -> None:
    code = (
        "import sys; import reptile_lib; import reptile_lib.frameworks;"
        "print(sorted({'jax', 'tensorflow', 'keras'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
