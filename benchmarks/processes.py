"""Several processes at work on one meta-batch: how much faster they are.

A `Team` is a group of processes that torchrun starts. Its first process takes orders,
a line of JSON each, from stdin, tells the others, and answers on stdout; between two
orders all of them sleep. So a team can take turns with other contenders.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from benchmarks.contenders import Library
from benchmarks.problems import Cell, problem
from benchmarks.timing import Contender, Effort, measure, synchronize
from reptile_lib.parallel.team import Processes, here, joined
from reptile_lib.params import ravel

ROOT = Path(__file__).parents[1]
META_BATCHES = (4, 5, 8)
INNER_STEPS = 5
MARK = "answer:"
"""Starts a line that is an answer; other lines come from libraries."""

Record = dict[str, Any]


class Team:
    """Processes that wait for orders; use it in a with statement."""

    def __init__(self, count: int, threads: int, device: torch.device) -> None:
        """Start `count` processes with `threads` threads each."""
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node"]
        start = [*torchrun, str(count), "-m"] if count > 1 else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *start, __name__, device.type],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()  # closes stdin: no more orders, so they end

    def ask(self, **order: Any) -> float:
        """Have all processes carry out an order; return the seconds it took.

        Raises:
            RuntimeError: the processes are gone; what they say is on stderr.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):  # then there is no answer below
            print(json.dumps(order), file=stdin, flush=True)
        for line in stdout:
            if line.startswith(MARK):
                return float(line.removeprefix(MARK))
        raise RuntimeError(f"the processes ended before they answered {order}")

    def contender(self, cell: Cell) -> Contender:
        """Return the library over these processes as a contender."""
        return partial(self._fit, cell)

    def _fit(self, cell: Cell, meta_steps: int) -> float:
        return self.ask(do="fit", cell=vars(cell), meta_steps=meta_steps)


def serve(device: torch.device) -> None:
    """Carry out orders until there are no more."""
    contender = cache(lambda cell: Library(cell, device))
    while (order := _next_order()) is not None:
        if order["do"] == "fit":
            run: Contender = contender(Cell(**order["cell"]))
            count = order["meta_steps"]
        else:
            run = partial(_all_reduce, torch.zeros(order["floats"], device=device))
            count = order["count"]
        if here().size > 1:
            dist.barrier()
        seconds = run(count)
        if here().rank == 0:
            print(MARK, seconds, flush=True)


def _next_order() -> Record | None:
    orders: list[Record | None] = [None]
    if here().rank == 0:
        line = sys.stdin.readline()
        orders = [json.loads(line) if line else None]
    if here().size > 1:
        dist.broadcast_object_list(orders)
    return orders[0]


def _all_reduce(values: torch.Tensor, count: int) -> float:
    team = here()
    assert isinstance(team, Processes)
    began = time.perf_counter()
    for _ in range(count):
        team.add_up([values])
    synchronize(values.device)
    return time.perf_counter() - began


class Teams(NamedTuple):
    """The processes that are compared."""

    one: Team
    """One process with one thread."""
    two: Team
    """Two processes with one thread each."""
    shared: Team
    """Two processes that share all cores."""


@contextmanager
def teams(device: torch.device) -> Iterator[Teams | None]:
    """Start the teams; yield None where two processes would not have a GPU each."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        print("two processes are left out: they need a GPU each")
        yield None
        return
    threads = max(1, torch.get_num_threads() // 2)
    with ExitStack() as stack:
        one, two = (stack.enter_context(Team(n, 1, device)) for n in (1, 2))
        shared = two
        if threads > 1:
            shared = stack.enter_context(Team(2, threads, device))
        yield Teams(one, two, shared)


def scaling(teams: Teams, effort: Effort) -> Record:
    """Time the library in one and in two processes of one thread each.

    Returns:
        What README.md says under "processes".
    """
    rows = [_row(teams, n, effort) for n in META_BATCHES]
    short, long = (
        measure({"": teams.one.contender(Cell("conv4", 1, k))}, effort)[""].seconds
        for k in (1, 10)
    )
    reduced = [_message(teams.two, n, effort) for n in _sizes()]
    latency, rate = line(reduced)
    return {
        "scaling": rows,
        "inner_step_seconds": (long - short) / 9,
        "all_reduce": reduced,
        "latency_seconds": latency,
        "bytes_per_second": rate,
    }


def _row(teams: Teams, meta_batch: int, effort: Effort) -> Record:
    cell = Cell("conv4", meta_batch, INNER_STEPS)
    racing = {"1": teams.one.contender(cell), "2": teams.two.contender(cell)}
    found = measure(racing, effort)
    times = {name: timing.as_dict() for name, timing in found.items()}
    ratio = found["1"].seconds / found["2"].seconds
    print(f"  {meta_batch} tasks: 2 processes are {ratio:.2f} times as fast as 1")
    return {
        "meta_batch": meta_batch,
        "inner_steps": INNER_STEPS,
        "processes": times,
        "ratio": ratio,
    }


def _sizes() -> list[int]:
    """Return lengths of messages; two φ, weights and moments, are a meta-step's."""
    phi = len(ravel(problem("conv4", 5, torch.device("cpu")).model))
    return [1_000, 10_000, phi, 2 * phi, 1_000_000, 4_000_000]


def _message(team: Team, floats: int, effort: Effort) -> Record:
    def run(count: int) -> float:
        return team.ask(do="all_reduce", floats=floats, count=count)

    found = measure({"": run}, effort)[""]
    return {"floats": floats, **found.as_dict()}


def line(messages: list[Record]) -> tuple[float, float]:
    """Fit seconds = latency + bytes / rate; relative errors count alike.

    Returns:
        Seconds, and bytes a second.
    """
    seconds = torch.tensor([m["seconds"] for m in messages], dtype=torch.float64)
    size = torch.tensor([4.0 * m["floats"] for m in messages], dtype=torch.float64)
    rows = torch.stack([torch.ones_like(size), size], 1) / seconds[:, None]
    latency, slope = torch.linalg.lstsq(rows, torch.ones_like(size)[:, None]).solution
    return latency.item(), 1 / slope.item()


if __name__ == "__main__":
    with joined(sys.argv[1]) as name:
        serve(torch.device(name))
