"""Peak bytes of one meta-step against the number of inner steps k."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.problems import BATCH, Cell, episodes, problem
from reptile_book.costs import PeakBytes
from reptile_lib import FOMAML, MAML, InnerLoop, MetaLearner, Reptile

METHODS: dict[str, Callable[..., MetaLearner]] = {
    "Reptile": Reptile,
    "FOMAML": FOMAML,
    "MAML": MAML,
}
INNER_STEPS = (1, 2, 5, 10, 20)


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
    with PeakBytes(touched=True) as memory:
        yield peak
    peak.bytes = memory.peak


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
