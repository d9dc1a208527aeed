"""Tasks in groups, one after the other, or one for each CPU core."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reptile_lib.examples import Inputs
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
        return self._ask(self.kernel.losses, theta, batch)

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, ...]."""
        return self._ask(self.kernel.outputs, theta, x)

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""
        return self._ask(self.kernel.gradient, theta, batch)

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""
        act = partial(self.kernel.descend, inner)
        return self._ask(act, theta, state, support, order)

    def _ask(self, act: Callable[..., T], theta: Tensor, *more: object) -> T:
        """Let `act` answer for each group of tasks, and join the answers."""
        if len(theta) <= self.size:
            return act(theta, *more)

        def group(i: int) -> T:
            rows = slice(i * self.size, (i + 1) * self.size)
            return act(*pytree.tree_map(lambda t: t[rows], (theta, *more)))

        count = -(-len(theta) // self.size)
        parts = _on_cores(group, count) if self.threads else [*map(group, range(count))]
        joined: T = pytree.tree_map(lambda *same: torch.cat(same), *parts)
        return joined
