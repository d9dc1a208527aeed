"""The process in which JAX is; `jax_process` is its other end.

It answers a line of JSON to each order, also a line of JSON, from stdin. Where JAX is
missing it says so before anything else is imported.
"""

import json
import sys
from functools import cache
from typing import Any

MARK = "answer:"
"""Starts a line that is an answer; other lines come from libraries."""


def serve(device: str) -> None:
    """Answer orders until there are no more."""
    try:
        _answer(version=_version(device))
    except Exception as error:
        _answer(error=f"{type(error).__name__}: {error}")
        return
    import torch

    from benchmarks.contenders import Jax
    from benchmarks.problems import Cell

    # The tasks are drawn on the CPU, the same as anywhere: torch takes no memory of the
    # GPU here.
    contender = cache(lambda cell: Jax(cell, torch.device("cpu")))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            jax = contender(Cell(**order["cell"]))
            if order["do"] == "run":
                _answer(seconds=jax(order["meta_steps"]))
            else:
                _answer(seconds=jax.compile_seconds)
        except Exception as error:
            _answer(error=f"{type(error).__name__}: {error}")


def _version(device: str) -> str:
    import jax

    backend = jax.default_backend()
    if device == "cuda" and backend != "gpu":
        raise RuntimeError(f"jax {jax.__version__} computes on {backend}, not on a GPU")
    version: str = jax.__version__
    return version


def _answer(**values: Any) -> None:
    print(MARK + json.dumps(values), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
