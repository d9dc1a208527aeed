"""Those that race find the library's φ: none does less than the others."""

import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import processes
from benchmarks.contenders import (
    NO_JAX,
    NO_KERAS,
    Library,
    PlainCalls,
    Textbook,
    Torch,
)
from benchmarks.problems import Cell, problem
from reptile_lib.params import layout

CPU = torch.device("cpu")
SINE, CONV4 = Cell("sine", 3, 4), Cell("conv4", 2, 3)
TOLERANCE = {"sine": 1e-10, "conv4": 1e-8}
each_cell = pytest.mark.parametrize("cell", [SINE, CONV4], ids=["sine", "conv4"])


def comparable(phi: Tensor, cell: Cell) -> Tensor:
    """Leave out the convolutions' biases.

    Batch norm takes them away, so their gradient is rounding noise, which Adam turns
    into steps of full size.
    """
    where = layout(problem(cell.problem, cell.ways, CPU).model)
    parts = zip(where.names, phi.split(where.sizes), strict=True)
    biases = re.compile(r"convolutions\.\d\.bias")
    return torch.cat([part for name, part in parts if not biases.fullmatch(name)])


def assert_same_phi(contender: Any, cell: Cell) -> None:
    library = Library(cell, CPU)
    start = comparable(library.phi, cell)
    library(2)
    contender(2)
    found, expected = (comparable(c.phi, cell) for c in (contender, library))
    atol = TOLERANCE[cell.problem]
    assert (expected - start).abs().max() > 1e3 * atol
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.slow
@each_cell
@pytest.mark.usefixtures("float64")
def test_the_textbook_loop_finds_the_librarys_phi(cell: Cell) -> None:
    assert_same_phi(Textbook(cell, CPU), cell)


@pytest.mark.usefixtures("float64")
def test_plain_calls_find_the_librarys_phi() -> None:
    assert_same_phi(PlainCalls(SINE, CPU), SINE)


@pytest.mark.slow
@each_cell
@pytest.mark.usefixtures("float64")
def test_the_torch_loop_finds_the_librarys_phi(cell: Cell) -> None:
    assert_same_phi(Torch(cell, CPU), cell)


# JAX and TensorFlow start threads that a later fork warns of, so each gets a process of
# its own.
ALONE = """
import torch
torch.set_default_dtype(torch.float64)
from benchmarks.contenders import {name}
from tests import test_contenders as tests
for cell in tests.SINE, tests.CONV4:
    contender = {name}(cell, tests.CPU)
    tests.assert_same_phi(contender, cell)
    assert contender.compile_seconds > 0
"""
IN_JAX = 'import jax; jax.config.update("jax_enable_x64", True)' + ALONE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "script", "package", "why"),
    [("Jax", IN_JAX, "jax", NO_JAX), ("Keras", ALONE, "tensorflow", NO_KERAS)],
)
def test_a_compiled_loop_finds_the_librarys_phi(
    name: str, script: str, package: str, why: str
) -> None:
    if not find_spec(package):
        pytest.skip(why)
    command = [sys.executable, "-c", script.format(name=name)]
    subprocess.run(command, cwd=processes.ROOT, check=True)
