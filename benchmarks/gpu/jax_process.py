"""JAX in a process of its own, so that it can be missing, break, or hang by itself."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.gpu.jax_server import MARK
from benchmarks.gpu.record import Record
from benchmarks.problems import Cell
from benchmarks.timing import Contender

SERVER = "benchmarks.gpu.jax_server"


class JaxProcess:
    """The process as seen from outside; use it in a with statement."""

    def __init__(self, device: str) -> None:
        """Start the process for "cuda" or "cpu"; its first answer is its version."""
        ours = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # torch needs memory, too
        if device == "cpu":
            ours["JAX_PLATFORMS"] = "cpu"
        self.process = subprocess.Popen(
            [sys.executable, "-m", SERVER, device],
            env=os.environ | ours,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                self.lines.put(line.removeprefix(MARK))
        self.lines.put(None)  # it has ended

    def __enter__(self) -> "JaxProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def ask(self, seconds: float, **order: Any) -> Record:
        """Have an order carried out; return the answer.

        Raises:
            RuntimeError: it took longer than `seconds`, the process has ended, or the
                answer is that it failed.
        """
        if order:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):  # then it has ended, as is seen below
                print(json.dumps(order), file=self.process.stdin, flush=True)
        what = " ".join(map(str, order.values())) or "import jax"
        try:
            line = self.lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise RuntimeError(f"no time for it: {what}") from None
        if line is None:
            raise RuntimeError(f"the process ended: {what}")
        answer: Record = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def contender(self, cell: Cell, left: Callable[[], float]) -> Contender:
        """Return JAX on a cell as a contender; left() are the seconds it may take."""

        def run(meta_steps: int) -> float:
            order = {"do": "run", "cell": vars(cell), "meta_steps": meta_steps}
            seconds: float = self.ask(left(), **order)["seconds"]
            return seconds

        return run
