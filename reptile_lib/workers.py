"""Several processes, on one machine or more, as one learner.

::

    torchrun --standalone --nproc-per-node 2 -m reptile_lib train --out runs/demo

Every process holds φ, works on its share of each meta-batch, and adds what it found to
the others' with one all-reduce of a flat vector. Tasks are named by (seed, meta-step,
task), so it does not matter who draws them: φ is that of one process, but for the
order of summation.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from reptile_lib.engine import Engine, Loss, adapt
from reptile_lib.errors import UserError
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.meta import Target
from reptile_lib.tasks import Episodes


class World(NamedTuple):
    """Which process this is, of how many."""

    rank: int
    size: int


class Piece(NamedTuple):
    """Inner steps `start` to `stop` of one task, done by one process."""

    task: int
    start: int
    stop: int


def world() -> World:
    """Return this process's place; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the group that torchrun started, if it did; yield this process's device.

    "auto" and "cuda" become the GPU of this process's number on its machine.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield device
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    elif os.environ.get("LOCAL_WORLD_SIZE") == str(len(os.sched_getaffinity(0))):
        # A process for each core: keep it there, near what its cache holds.
        core = sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]
        os.sched_setaffinity(0, {core})
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def launch(
    function: Callable[[list[str]], int],
    arguments: list[str],
    processes: int,
    restarts: int = 3,
) -> int:
    """Call `function` in several processes of this machine, as torchrun would.

    When a process dies, all are started again, at most `restarts` times.

    Args:
        function: importable; takes `arguments`, returns an exit status.
        arguments: passed on.
        processes: how many.
        restarts: how often to start again.

    Returns:
        the largest exit status.

    Raises:
        UserError: a process died once more than `restarts` times.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=0.5,
        start_method="spawn",
    )
    try:
        statuses = elastic_launch(config, function)(arguments)
    except SignalException:  # handed on to the workers, which have saved their work
        return 130
    except ChildFailedError as error:
        rank, died = next(iter(error.failures.items()))
        raise UserError(
            f"process {rank} died ({died.message}) and {restarts} new starts did"
            " not help; go on from the last checkpoint with fewer --processes"
        ) from error
    return max(int(status) for status in statuses.values())


def restarted() -> bool:
    """Say whether torchrun started this process in the place of one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def say(text: str) -> None:
    """Print, if this is the first process."""
    if world().rank == 0:
        print(text, flush=True)


def share(count: int, world: World) -> range:
    """Return which of `count` whole tasks are this process's."""
    rank, size = world
    return range(rank * count // size, (rank + 1) * count // size)


def pieces(tasks: int, inner_steps: int, world: World) -> list[Piece]:
    """Return this process's work if tasks may be handed on in the middle.

    McNaughton's wrap-around rule (1959): lay all tasks end to end and cut the line into
    equal lengths, a length a process. A task that is cut is begun by the later process,
    first thing, and finished by the earlier one, last thing; since no length is shorter
    than a task, the one is done before the other begins. 5 tasks of 5 steps take two
    processes 13 steps; whole tasks would take 15.
    """
    rank, size = world
    length = max(inner_steps, -(-tasks * inner_steps // size))
    begin, end = rank * length, min((rank + 1) * length, tasks * inner_steps)
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
    loss: Loss,
    phi: Tensor,
    episodes: Episodes,
    work: list[Piece],
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Target:
    """Follow `meta.reptile` on this process's pieces; return sums, not means.

    Args:
        loss: loss(theta [P], batch) -> scalar.
        phi: [P].
        episodes: the tasks that `work` names, from the first to the last.
        work: what `pieces` returned.
        inner: the inner optimiser.
        state: where it starts.
        engine: see `engine`.

    Returns:
        φ̃ and the inner state summed over the tasks that end here, and the mean loss of
        a task's inner steps summed over the steps done here.
    """
    rank = world().rank
    k = episodes.order.shape[1]
    one = inner.init(phi.expand(1, -1))  # shapes a message
    total = {"theta": torch.zeros_like(phi)}
    total |= {name: torch.zeros_like(value[0]) for name, value in one.items()}
    losses = phi.new_zeros(())
    message, request = None, None
    for piece in work:
        i = piece.task - work[0].task
        support, order, _ = episodes.part(slice(i, i + 1))
        theta, start = phi, state
        if piece.start > 0:
            message = torch.empty(phi.numel() + sum(v.numel() for v in one.values()))
            message = message.to(phi)
            dist.recv(message, rank + 1)
            sizes = [phi.numel(), *(v.numel() for v in one.values())]
            theta, *values = torch.split(message, sizes)
            theta = theta[None]
            pairs = zip(one.items(), values, strict=True)
            start = {name: value.view_as(shape) for (name, shape), value in pairs}
        steps = order[:, piece.start : piece.stop]
        done = adapt(loss, theta, support, steps, inner, start, engine)
        losses += done.losses.sum() / k
        if piece.stop < k:
            states = [done.state[name].reshape(-1) for name in one]
            message = torch.cat([done.theta[0], *states])
            request = dist.isend(message, rank - 1)
            continue
        total["theta"] += done.theta[0]
        for name in one:
            total[name] += done.state[name][0]
    if request is not None:
        request.wait()
    return Target(total.pop("theta"), total, losses)


def mean_target(found: list[tuple[int, Target]], count: int) -> Target:
    """Average targets over the tasks of a meta-batch, those of all processes included.

    Args:
        found: this process's targets, each with the number of tasks that it is the mean
            of, or with 1 if it is their sum.
        count: tasks of the whole meta-batch.
    """
    (weight, target), *_ = found
    if weight == count:
        return target
    names = list(target.state or {})

    def vectors(t: Target) -> list[Tensor]:
        return [t.phi, *((t.state or {})[name] for name in names), t.loss.to(t.phi)]

    sums = [weight * value for value in vectors(target)]
    for weight, more in found[1:]:
        sums = [
            s + weight * value for s, value in zip(sums, vectors(more), strict=True)
        ]
    if world().size > 1:
        sums = add_up(sums)
    phi, *states, loss = (value / count for value in sums)
    state = dict(zip(names, states, strict=True)) if target.state is not None else None
    return Target(phi, state, loss)


def add_up(tensors: list[Tensor]) -> list[Tensor]:
    """Sum each tensor over all processes, in one message."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]


def gather(values: Tensor) -> Tensor:
    """Join the rows of all processes, in their order; also where they differ in number.

    On the CPU, and by value: for results, not for training.
    """
    if world().size == 1:
        return values
    parts: list[Tensor] = [values] * world().size
    dist.all_gather_object(parts, values)
    return torch.cat(parts)


def first_alone(act: Callable[[], None]) -> None:
    """Let the first process act; if that fails, every process raises its UserError."""
    if world().size == 1:
        act()
        return
    failure: list[str | None] = [None]
    if world().rank == 0:
        try:
            act()
        except UserError as error:
            failure = [str(error)]
    dist.broadcast_object_list(failure)
    if failure[0] is not None:
        raise UserError(failure[0])
