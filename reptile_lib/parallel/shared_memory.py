"""Vectors passed between the processes of one machine, through memory they share.

gloo carries messages with threads of its own. Where every core is at work, these wait
for the scheduler: a sum of 0.9 MB took 2.5 ms on the two cores where this was measured,
and 0.5 ms this way. A process writes its vector where the others can read it, and a
byte through a connection says that it is there.
"""

import shutil
import tempfile
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from reptile_lib.errors import UserError


class Shared:
    """The memory and the connections; made and used by all processes together."""

    def __init__(self) -> None:
        """Connect every process of the group with every other.

        Raises:
            UserError: the temporary folder has no place for a socket.
        """
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.turn = 0
        self.rows: dict[tuple[int, torch.dtype], Tensor] = {}
        self.others: dict[int, Connection] = {}
        try:
            listener = Listener(backlog=self.size)
        except OSError as error:  # a path of 108 characters is too long
            raise UserError(
                f"cannot make a socket in {tempfile.gettempdir()}: {error}; set TMPDIR"
                " to a folder with a short path"
            ) from error
        with listener:
            addresses: list[str] = [""] * self.size
            dist.all_gather_object(addresses, listener.address)
            for rank in range(self.rank):
                self.others[rank] = Client(addresses[rank])
                self.others[rank].send_bytes(self.rank.to_bytes(4, "big"))
            for _ in range(self.rank + 1, self.size):
                found = listener.accept()
                self.others[int.from_bytes(found.recv_bytes(), "big")] = found

    def add_up(self, flat: Tensor) -> Tensor:
        """Sum a vector over all processes, in the order of their ranks."""
        # Two turns: a row is written again when all have read it, for each has then
        # told that it wrote the next one.
        self.turn = 1 - self.turn
        self.reserve(flat.numel(), flat.dtype)
        rows = self._rows(flat)[self.turn]
        rows[self.rank] = flat
        for other in self.others.values():
            other.send_bytes(b"+")
        for other in self.others.values():
            other.recv_bytes()
        return rows.sum(0)

    def hand_on(self, message: Tensor, rank: int) -> None:
        """Leave a vector, for which there is room, for another process to `take`.

        It must do so before the next sum.
        """
        self._rows(message)[2, self.rank] = message
        self.others[rank].send_bytes(b">")

    def take(self, like: Tensor, rank: int) -> Tensor:
        """Return what another process left, of the size and type of `like`."""
        self.others[rank].recv_bytes()
        return self._rows(like)[2, rank]

    def delivered(self) -> None:
        """Return at once: what was handed on lies where it can be read."""

    def reserve(self, size: int, dtype: torch.dtype) -> None:
        """Make room for vectors of this size where there is none; all must ask for it.

        Raises:
            UserError: the disk has no room for it.
        """
        if (size, dtype) in self.rows:
            return
        shape = (3, self.size, size)
        folder = [tempfile.mkdtemp() if self.rank == 0 else ""]
        dist.broadcast_object_list(folder)
        path = Path(folder[0], "rows")
        failure = [""]
        if self.rank == 0:
            try:  # written out, for a file with holes could lack room later
                path.write_bytes(bytes(torch.Size(shape).numel() * dtype.itemsize))
            except OSError as error:
                failure = [f"cannot share memory through {path}: {error}; set TMPDIR"]
        dist.broadcast_object_list(failure)
        try:
            if failure[0]:
                raise UserError(failure[0])
            self.rows[size, dtype] = torch.from_file(
                str(path), True, torch.Size(shape).numel(), dtype=dtype
            ).view(shape)
            dist.barrier()
        finally:
            if self.rank == 0:
                shutil.rmtree(folder[0], ignore_errors=True)

    def _rows(self, like: Tensor) -> Tensor:
        return self.rows[like.numel(), like.dtype]

    def close(self) -> None:
        """Close the connections."""
        for other in self.others.values():
            with suppress(OSError):
                other.close()
