"""Several processes, on one machine or more, as one learner.

::

    torchrun --standalone --nproc-per-node 2 -m reptile_lib train --out runs/demo

Every process holds φ, works on its share of each meta-batch, and adds what it found to
the others' with one all-reduce of a flat vector. Tasks are named by (seed, meta-step,
task), so it does not matter who draws them: φ is that of one process, but for the
order of summation.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from reptile_lib.device import find_device
from reptile_lib.errors import UserError
from reptile_lib.inner import State
from reptile_lib.meta import Alone, Target, Team, Training, reptile, weighted_mean
from reptile_lib.parallel.cores import core_count, pin, unpin
from reptile_lib.parallel.pieces import Mail, Piece, pieces, reptile_in_pieces
from reptile_lib.parallel.shared_memory import Shared
from reptile_lib.tasks import Episodes

T = TypeVar("T")

_team: Team | None = None  # of processes that `joined`


def here() -> Team:
    """Return the team that this process is in."""
    if _team is not None:
        return _team
    return Processes() if dist.is_available() and dist.is_initialized() else Alone()


def say(text: str) -> None:
    """Print, if this is the first process."""
    if here().rank == 0:
        print(text, flush=True)


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the group that torchrun started, if it did; yield this process's device.

    "auto" and "cuda" become the GPU of this process's number on its machine.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield device
        return
    cores: set[int] = set()
    found = find_device(device)
    if found.type == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if ":" in device or number >= count:
            raise UserError(
                f"device {device!r} for {os.environ['LOCAL_WORLD_SIZE']} processes on"
                f" {count} GPUs: start at most a process a GPU, with --device cuda"
            )
        device = f"cuda:{number}"
        torch.cuda.set_device(device)
    elif os.environ.get("LOCAL_WORLD_SIZE") == str(core_count()):
        # A process for each core: keep it there, near what its cache holds.
        cores = pin(int(os.environ["LOCAL_RANK"]))
    # The store that processes meet in can outlive a restart: without a prefix, new
    # processes may find the addresses of those that died.
    store, rank, size = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if found.type == "cuda" else "gloo",
        store=PrefixStore(f"attempt {attempt}", store),
        rank=rank,
        world_size=size,
    )
    global _team
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
    shared = Shared() if one_machine and found.type == "cpu" else None
    _team = Processes(shared)
    try:
        yield device
    finally:
        _team = None
        if shared is not None:
            shared.close()
        dist.destroy_process_group()
        unpin(cores)


@dataclass(frozen=True)
class Processes:
    """The team of all processes of the group.

    Args:
        shared: memory that they share, if they are on one machine.
    """

    shared: Shared | None = None

    @property
    def rank(self) -> int:
        """Which process this is."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size()

    def share(self, run: Training) -> range:
        """Return which tasks of a meta-batch are this process's, cut ones included."""
        work = self._work(run)
        if work is None:
            return self.portion(run.meta_batch)
        return range(work[0].task, work[-1].task + 1)

    def target(
        self, run: Training, phi: Tensor, state: State | None, parts: Iterator[Episodes]
    ) -> Target:
        """Ask the rule about each part of a meta-batch, and average over all tasks."""
        work = self._work(run)
        if work is None:
            found = [(len(p.order), run.rule(run.U, phi, p, state)) for p in parts]
        else:
            mail: Mail = self.shared or Messages()
            how = run.U, phi, next(parts), state, work
            sums = reptile_in_pieces(*how, rank=self.rank, mail=mail)
            found = [(1, sums)]
        return weighted_mean(found, run.meta_batch, self.add_up)

    def _work(self, run: Training) -> list[Piece] | None:
        """Cut tasks so that all processes end together; None to work on whole tasks.

        It pays where a task keeps a core busy and the rest of the division is large.
        """
        uneven = run.meta_batch % self.size and run.meta_batch <= run.at_once
        inner = run.U.inner
        fixed = run.rule is reptile and inner.stop is None
        if not (uneven and run.one_a_core and fixed) or inner.formula is None:
            return None
        return pieces(run.meta_batch, run.inner_steps, self.rank, self.size)

    def portion(self, count: int) -> range:
        """Return which of `count` whole things are this process's."""
        rank, size = self.rank, self.size
        return range(rank * count // size, (rank + 1) * count // size)

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum each tensor over all processes, in one message."""
        flat = torch.cat([t.reshape(-1) for t in tensors])
        if self.shared is not None:
            flat = self.shared.add_up(flat)
        else:
            dist.all_reduce(flat)
        parts = torch.split(flat, [t.numel() for t in tensors])
        return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]

    def gather(self, values: Tensor) -> Tensor:
        """Join the rows of all processes, in their order; also of different number.

        On the CPU, and by value: for results, not for training.
        """
        parts: list[Tensor] = [values] * self.size
        dist.all_gather_object(parts, values)
        return torch.cat(parts)

    def first_alone(self, act: Callable[[], T]) -> T:
        """Let the first process act and return what it did; if it fails, all raise.

        Raises:
            UserError: the first process raised it.
            RuntimeError: on the others, if the first one raised something else.
        """
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[1] = act()
            except UserError as error:
                outcome[0] = ("", str(error))
            except Exception as error:
                failed = ("the first process failed: ", repr(error))
                dist.broadcast_object_list([failed, None])
                raise
        dist.broadcast_object_list(outcome)
        failure, done = outcome
        if failure is not None:
            other, text = failure
            raise RuntimeError(other + text) if other else UserError(text)
        return cast(T, done)


class Messages:
    """Vectors passed over the network: the `Mail` of processes that share no memory."""

    def __init__(self) -> None:
        self._sent: list[dist.Work | None] = []

    def reserve(self, size: int, dtype: torch.dtype) -> None:
        """Need no room."""

    def hand_on(self, message: Tensor, rank: int) -> None:
        """Start to send a vector."""
        self._sent.append(dist.isend(message, rank))

    def take(self, like: Tensor, rank: int) -> Tensor:
        """Return what another process handed on, in the memory of `like`."""
        dist.recv(like, rank)
        return like

    def delivered(self) -> None:
        """Wait until all has been sent."""
        for sent in self._sent:
            if sent is not None:
                sent.wait()
        self._sent.clear()
