"""Runs JavaScript of the book in Node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

STATIC = Path(__file__).parents[2] / "_static"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(
    NODE is None, reason="no Node: the book's scripts were not run"
)

FRAME = """
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const plain = (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
const found = (function () { %s })();
process.stdout.write(JSON.stringify(found, plain));
"""


def run(body: str, **given: Any) -> Any:
    """Run a function's body, which sees `Reptile` and `given`; return what it returns.

    Tensors become arrays of numbers, and typed arrays come back as lists.
    """
    assert NODE is not None
    engine = json.dumps(str(STATIC / "reptile.js"))
    script = f"const Reptile = require({engine});" + FRAME % body
    sent = json.dumps(given, default=lambda t: t.tolist())
    told = subprocess.run(
        [NODE, "-e", script], input=sent, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def tensor(numbers: Any, like: Tensor) -> Tensor:
    """Return what came back as a tensor of the type of `like`."""
    return torch.tensor(numbers, dtype=like.dtype)
