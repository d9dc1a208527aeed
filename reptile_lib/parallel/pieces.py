"""Tasks cut in the middle, so that all processes end a meta-step together."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reptile_lib.inner import State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import Target
from reptile_lib.tasks import Episodes


class Piece(NamedTuple):
    """Inner steps `start` to `stop` of one task, done by one process."""

    task: int
    start: int
    stop: int


class Mail(Protocol):
    """How a vector goes from one process to another."""

    def reserve(self, size: int, dtype: torch.dtype) -> None:
        """Make room for vectors of this size; all processes must ask for it."""
        ...

    def hand_on(self, message: Tensor, rank: int) -> None:
        """Start to pass a vector to another process."""
        ...

    def take(self, like: Tensor, rank: int) -> Tensor:
        """Return what another process handed on; `like` may be written to."""
        ...

    def delivered(self) -> None:
        """Wait until what was handed on has been taken or copied."""
        ...


def pieces(tasks: int, inner_steps: int, rank: int, size: int) -> list[Piece]:
    """Return this process's work if tasks may be handed on in the middle.

    McNaughton's wrap-around rule (1959): lay all tasks end to end and cut the line into
    equal lengths, a length a process. A task that is cut is begun by the later process,
    first thing, and finished by the earlier one, last thing. There must be as many
    tasks as processes, so that no length is shorter than a task: then the beginning is
    done before the end is due. 5 tasks of 5 steps take two processes 13 steps; whole
    tasks would take 15.
    """
    begin, end = (r * tasks * inner_steps // size for r in (rank, rank + 1))
    found = []
    for task in range(begin // inner_steps, -(-end // inner_steps)):
        first, last = task * inner_steps, (task + 1) * inner_steps
        # In time, what lies behind the cut comes first.
        if first < begin:
            found.append(Piece(task, 0, last - begin))
        elif last > end:
            found.append(Piece(task, last - end, inner_steps))
        else:
            found.append(Piece(task, 0, inner_steps))
    return found


def reptile_in_pieces(
    U: InnerLoop,
    phi: Tensor,
    tasks: Episodes,
    state: State | None,
    work: list[Piece],
    *,
    rank: int,
    mail: Mail,
) -> Target:
    """Follow `meta.reptile` on this process's pieces; return sums, not means.

    Args:
        U: the inner loop.
        phi: [P].
        tasks: those that `work` names, from the first to the last.
        state: where the inner optimiser starts.
        work: what `pieces` returned.
        rank: of this process.
        mail: carries a task that is cut to the process that finishes it.

    Returns:
        φ̃ and the inner state summed over the tasks that end here, and the mean loss of
        a task's inner steps summed over the steps done here.
    """
    k = tasks.order.shape[1]
    one = U.inner.init(phi[None].to("meta"))  # shapes a message
    total = torch.zeros_like(phi)
    states = {name: phi.new_zeros(value.shape[1:]) for name, value in one.items()}
    losses, ended = phi.new_zeros(()), 0
    message = phi.new_empty(phi.numel() + sum(v.numel() for v in one.values()))
    mail.reserve(message.numel(), message.dtype)
    for piece in work:
        i = piece.task - work[0].task
        support, _, order = tasks.map(lambda t, i=i: t[i : i + 1])  # type: ignore[misc]
        theta, start = phi, state
        if piece.start > 0:
            message = mail.take(message, rank + 1)
            sizes = [phi.numel(), *(v.numel() for v in one.values())]
            theta, *values = torch.split(message, sizes)
            theta = theta[None]
            pairs = zip(one.items(), values, strict=True)
            start = {name: value.view(like.shape) for (name, like), value in pairs}
        done = U(theta, support, order[:, piece.start : piece.stop], start)
        losses += done.losses.sum() / k
        if piece.stop < k:
            rest = [done.state[name].reshape(-1) for name in one]
            message = torch.cat([done.theta[0], *rest])
            mail.hand_on(message, rank - 1)
            continue
        ended += 1
        total += done.theta[0]
        for name in one:
            states[name] += done.state[name][0]
    mail.delivered()
    return Target(total, states, losses, phi.new_tensor(ended * k))
