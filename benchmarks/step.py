"""One inner step of Conv4 on paper: arithmetic, bytes, and calls of a device.

::

    python -m benchmarks.step

An inner step is what a fourth step costs more than three: the calls that torch passes
to the device, those that only view memory left out, and the bytes that they read and
write if nothing stays in a cache. Counted on a CPU, on the path that a GPU takes too
(all tasks stacked); no GPU is needed. `gpu-plan.md` says what follows.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.limit import conv4_flops
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.examples import Examples
from reptile_lib.fast.choose import make_kernel
from reptile_lib.models.conv4 import conv4
from reptile_lib.optimizers.formulas import adam
from reptile_lib.params import ravel
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import Batch, minibatches

WAYS, SHOTS, BATCH = 5, 10, 10
FLOPS, BYTES = 67e12, 4.8e12
"""Of one H200, per second, in float32 without tensor cores: NVIDIA's data sheet."""


@dataclass
class Cost:
    """What was passed to the device."""

    calls: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def less(self, other: "Cost") -> "Cost":
        """Return the difference."""
        return Cost(self.calls - other.calls, self.bytes - other.bytes)


class Counting(TorchDispatchMode):
    """Counts calls while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count a call, and make it."""
        found = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        known = {t.untyped_storage().data_ptr() for t in given}
        views = func.is_view or func._schema.name.startswith(
            ("aten::empty", "aten::detach")
        )
        if not views:
            self.cost.calls[func._schema.name.removeprefix("aten::")] += 1
            fresh = [t for t in made if t.untyped_storage().data_ptr() not in known]
            self.cost.bytes += sum(t.numel() * t.element_size() for t in given + fresh)
        return found


def counted(act: Callable[[], object]) -> Cost:
    """Return what an action passes to the device."""
    counting = Counting()
    with counting:
        act()
    return counting.cost


def inner_step(tasks: int) -> Cost:
    """Return the cost of one more inner step for so many tasks, stacked."""
    model = conv4(WAYS)
    kernel = make_kernel(
        model, F.cross_entropy, device=torch.device("cuda")
    )  # which stacks all tasks; no tensor is put there
    theta = kernel.pack(ravel(model)).expand(tasks, -1).contiguous()
    inner, g = adam(1e-3), torch.Generator().manual_seed(0)
    x = torch.rand(tasks, WAYS * SHOTS, 1, 28, 28, generator=g)
    y = torch.arange(WAYS).repeat_interleave(SHOTS).expand(tasks, -1)
    order = torch.arange(4 * BATCH).view(4, BATCH).expand(tasks, -1, -1)

    def steps(k: int) -> Cost:
        state = inner.init(theta)
        support = Batch(x, y)
        kernel.descend(inner, theta, state, support, order[:, :k])  # makes buffers
        return counted(
            lambda: kernel.descend(inner, theta, state, support, order[:, :k])
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a CPU with several shares products out in further calls
    try:
        return steps(4).less(steps(3))
    finally:
        torch.set_num_threads(threads)


def drawing(tasks: int) -> Cost:
    """Return the cost of drawing so many tasks, with their minibatches."""
    pictures = torch.zeros(100, 20, 1, 28, 28, dtype=torch.uint8)
    classes = Examples(pictures, tuple(map(str, range(100))))
    few_shot = FewShotTasks(classes, WAYS, SHOTS)
    who = draws(0, TRAIN, range(1), range(tasks), torch.device("cpu"))
    few_shot.sample(who)  # puts on the device what stays there
    return counted(lambda: minibatches(few_shot.sample(who), who, 5, BATCH))


def main() -> int:
    """Print a table and the kinds of calls."""
    print("tasks  GFLOP  at peak, us   MB moved  at peak, us  calls")
    for tasks in (5, 15, 256):
        flops = tasks * conv4_flops(BATCH, WAYS)
        cost = inner_step(tasks)
        least = flops / FLOPS * 1e6, cost.bytes / BYTES * 1e6
        print(
            f"{tasks:5}  {flops / 1e9:5.2f}  {least[0]:11.1f}  {cost.bytes / 1e6:9.1f}"
            f"  {least[1]:11.1f}  {sum(cost.calls.values()):5}"
        )
    kinds = ", ".join(f"{n} {name}" for name, n in cost.calls.most_common())
    print(f"calls: {kinds}")
    for tasks in (5, 255):
        cost = drawing(tasks)
        print(
            f"drawing {tasks} tasks: {sum(cost.calls.values())} calls,"
            f" {cost.bytes / 1e6:.1f} MB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
