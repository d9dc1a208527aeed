"""Which kernel computes a model's gradients, and how it spreads the tasks."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from reptile_lib.examples import Inputs
from reptile_lib.fast import conv4, mlp
from reptile_lib.fast.spread import Spread
from reptile_lib.fast.torch_settings import Precise, Precision
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, Criterion, Kernel, of_model
from reptile_lib.tasks import Batch

Engine = Literal["auto", "serial", "threads", "stacked"]
"""How tasks are spread:

- "serial": one after the other, by plain autograd. Slow, plain, the reference.
- "threads": a task for each CPU core.
- "stacked": all as one batch of operations, weights stacked on a leading axis.
- "auto": what is fastest. Where a gradient is written out (Conv4, dense networks) that
  is known; any other model is tried both ways when it first meets several tasks.
"""

UNSTACKABLE = RuntimeError, NotImplementedError, ValueError  # what `vmap` raises


def make_kernel(
    model: nn.Module,
    criterion: Criterion,
    *,
    device: torch.device,
    engine: Engine = "auto",
    precision: Precision = "float32",
    compiled: bool = False,
) -> Kernel:
    """Return the kernel of a model and a criterion.

    Args:
        model: lends its structure; its parameters stay as they are.
        criterion: criterion(outputs, y) -> scalar loss.
        device: where the vectors will be.
        engine: how tasks are spread.
        precision: how matrices are multiplied.
        compiled: whether the inner steps of Conv4 are compiled.
    """
    bf16 = precision == "bf16"
    reference = of_model(model, criterion, bf16)
    alone = replace(reference, stacks=False)
    on_cpu = device.type == "cpu"
    images = conv4.conv4_kernel(
        model, criterion, reference, bf16=bf16, compiled=compiled
    )
    dense = None if bf16 else mlp.mlp_kernel(model, criterion, reference)
    written = images or dense
    group = conv4.GROUP if images else mlp.GROUP
    found: Kernel
    if engine == "serial":
        found = Spread(alone, 1)
    elif engine == "threads":
        found = Spread(written or alone, 1, threads=True)
    elif written is not None and on_cpu:
        # Of the answers to queries, a stack of convolutions is slower than one a task.
        found = Spread(written, group)
    elif written is not None:
        found = written
    elif engine == "stacked":
        found = reference
    else:
        found = Tried(reference, Spread(alone, 1, threads=on_cpu))
    return Precise(found, precision)


def written_engine(
    model: nn.Module, criterion: Criterion, device: torch.device
) -> Engine:
    """Resolve "auto" where a gradient is written out; else leave it, to be tried.

    A GPU and small layers gain from being stacked. On a CPU with one core to share,
    Conv4 runs faster a task at a time, which fits its cache.
    """
    reference = of_model(model, criterion)
    if mlp.mlp_kernel(model, criterion, reference):
        return "stacked"
    if conv4.conv4_kernel(model, criterion, reference):
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        return "threads" if alone else "stacked"
    return "auto"


def can_stack(
    model: nn.Module, criterion: Criterion, theta: Tensor, two: Batch
) -> bool:
    """Say whether two tasks' gradients can be taken as one `vmap`.

    Args:
        model: the module.
        criterion: the loss.
        theta: [P].
        two: a batch [2, B, ...].
    """
    try:
        of_model(model, criterion).gradient(theta.expand(2, -1), two)
    except UNSTACKABLE as error:
        if _no_memory(error):
            raise
        return False
    return True


def _no_memory(error: Exception) -> bool:
    known = isinstance(error, torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator" in str(error)


@dataclass
class Tried:
    """The faster of two kernels, found out where several tasks are first met.

    The first may not work at all for this model; then it is the second.
    """

    stacked: Kernel
    singly: Kernel
    _faster: dict[int, Kernel] = field(default_factory=dict)  # by number of tasks

    def pack(self, vectors: Tensor) -> Tensor:
        """Return the vectors: both have the model's order."""
        return vectors

    def unpack(self, vectors: Tensor) -> Tensor:
        """Return the vectors."""
        return vectors

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task; differentiable."""
        both = (self.stacked, self.singly) if theta.requires_grad else (self.singly,)
        return _first_that_works([partial(k.losses, theta, batch) for k in both])

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, ...]."""
        return self.singly.outputs(theta, x)

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""
        chosen = self._choose(len(theta), lambda k: k.gradient(theta, batch))
        return chosen.gradient(theta, batch)

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""
        few = order[:, :2]
        chosen = self._choose(
            len(order), lambda k: k.descend(inner, theta, state, support, few)
        )
        return chosen.descend(inner, theta, state, support, order)

    def _choose(self, n: int, run: Callable[[Kernel], object]) -> Kernel:
        if n == 1:
            return self.singly
        if n not in self._faster:
            seconds = {True: inf, False: inf}
            for _ in range(3):
                for first in seconds:
                    began = time.perf_counter()
                    try:
                        run(self.stacked if first else self.singly)
                    except UNSTACKABLE as error:
                        if not first or _no_memory(error):
                            raise
                        continue
                    spent = time.perf_counter() - began
                    seconds[first] = min(seconds[first], spent)
            # Rather not, where it is close: the digits should not depend on a moment.
            wins = seconds[True] * 1.15 < seconds[False]
            self._faster[n] = self.stacked if wins else self.singly
        return self._faster[n]


def _first_that_works(ways: list[Callable[[], Tensor]]) -> Tensor:
    for way in ways[:-1]:
        with suppress(*UNSTACKABLE):
            return way()
    return ways[-1]()
