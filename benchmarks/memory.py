"""Peak bytes of one meta-step against the number of inner steps k."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.problems import BATCH, Cell, episodes, problem
from reptile_lib import FOMAML, MAML, InnerLoop, MetaLearner, Reptile

METHODS: dict[str, Callable[..., MetaLearner]] = {
    "Reptile": Reptile,
    "FOMAML": FOMAML,
    "MAML": MAML,
}
INNER_STEPS = (1, 2, 5, 10, 20)


class LiveTensors(TorchDispatchMode):
    """Follow the bytes in tensors that are alive, from operation to operation."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note the memory it claimed."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        # A storage can grow after it was made, where it is an operation's `out`.
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            weakref.finalize(storage, self._forget, key).atexit = False
        self.now += size - self.alive.get(key, 0)
        self.alive[key] = size

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)


class Peak:
    """The bytes that `measured` found; 0 before it ended."""

    bytes = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of the bytes that are claimed inside the with statement.

    On a CPU these are the bytes in all tensors that are touched, without the buffers
    of the libraries below; on a GPU, what is claimed on top of what was held before.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with LiveTensors() as live:
        yield peak
    peak.bytes = live.peak


def peak_bytes(method: str, cell: Cell, device: torch.device) -> int:
    """Return the peak bytes of one meta-step."""
    it = problem(cell.problem, cell.ways, device)
    learner = METHODS[method](
        it.model,
        it.inner,
        cell.inner_steps,
        BATCH,
        criterion=it.criterion,
        device=device,
        engine="stacked",  # in one thread, so that all tensors are seen
    )
    tasks = episodes(cell, it.tasks, 0, device)
    U = InnerLoop(learner.kernel, learner.inner)
    phi = learner.kernel.pack(learner.phi)
    # The first time claims what is claimed once, so the second one counts.
    for some in (tasks._replace(order=tasks.order[:, :1]), tasks):
        with measured(device) as peak:
            learner.rule(U, phi, some, None)
    return peak.bytes


def curves(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Measure each method on Conv4, 5 tasks (quick: 1 task and few k)."""
    rows = []
    for k in (2, 6) if quick else INNER_STEPS:
        cell = Cell("conv4", 1 if quick else 5, k)
        for method in METHODS:
            found = peak_bytes(method, cell, device)
            print(f"  k = {k}, {method}: {found / 1e6:.0f} MB")
            rows.append(
                {
                    "method": method,
                    "meta_batch": cell.meta_batch,
                    "inner_steps": k,
                    "bytes": found,
                }
            )
    return rows
