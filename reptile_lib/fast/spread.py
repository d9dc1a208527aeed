"""Tasks in groups, one after the other, or one for each CPU core."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from reptile_lib.examples import Inputs, each
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, Kernel
from reptile_lib.tasks import Batch

T = TypeVar("T")


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    # torch releases the interpreter lock inside its kernels, and small operations gain
    # more from a core each than from sharing a core.
    return ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads,)
    )


def _on_cores(fn: Callable[[int], T], n: int) -> list[T]:
    """Call fn(0), ... fn(n - 1), spread over the CPU's cores."""
    cores = torch.get_num_threads()
    if cores == 1 or n == 1:
        return list(map(fn, range(n)))
    # Full rounds of a task a core; then the rest, with several cores a task.
    rest = n % cores
    done = list(_pool(cores, 1).map(fn, range(n - rest)))
    return done + list(
        _pool(max(rest, 1), cores // max(rest, 1)).map(fn, range(n - rest, n))
    )


@dataclass(frozen=True)
class Spread:
    """A kernel that hands another one its tasks in groups.

    Args:
        kernel: computes.
        size: tasks a group.
        threads: whether groups are spread over the CPU's cores.
    """

    kernel: Kernel
    size: int
    threads: bool = False

    def _each(self, fn: Callable[[slice], T], n: int) -> list[T]:
        def group(i: int) -> T:
            return fn(slice(i * self.size, (i + 1) * self.size))

        groups = -(-n // self.size)
        return (
            _on_cores(group, groups)
            if self.threads
            else list(map(group, range(groups)))
        )

    def pack(self, vectors: Tensor) -> Tensor:
        """Bring vectors to the kernel's order."""
        return self.kernel.pack(vectors)

    def unpack(self, vectors: Tensor) -> Tensor:
        """Undo `pack`."""
        return self.kernel.unpack(vectors)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task; differentiable."""
        if theta.requires_grad:  # a graph is built by one thread
            return self.kernel.losses(theta, batch)

        def some(rows: slice) -> Tensor:
            return self.kernel.losses(theta[rows], batch.map(lambda t: t[rows]))

        return torch.cat(self._each(some, len(theta)))

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, ...]."""

        def some(rows: slice) -> Tensor:
            return self.kernel.outputs(theta[rows], each(lambda t: t[rows], x))

        return torch.cat(self._each(some, len(theta)))

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""

        def some(rows: slice) -> tuple[Tensor, Tensor]:
            return self.kernel.gradient(theta[rows], batch.map(lambda t: t[rows]))

        g, losses = zip(*self._each(some, len(theta)), strict=True)
        return torch.cat(g), torch.cat(losses)

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""

        def some(rows: slice) -> Adapted:
            own = {name: value[rows] for name, value in state.items()}
            examples = support.map(lambda t: t[rows])
            return self.kernel.descend(inner, theta[rows], own, examples, order[rows])

        parts = self._each(some, len(order))
        if len(parts) == 1:
            return parts[0]
        states = {n: torch.cat([p.state[n] for p in parts]) for n in parts[0].state}
        return Adapted(
            torch.cat([p.theta for p in parts]),
            states,
            torch.cat([p.losses for p in parts]),
            torch.cat([p.steps for p in parts]),
        )
