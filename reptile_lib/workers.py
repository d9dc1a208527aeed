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
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from reptile_lib import machine
from reptile_lib.engine import Engine, Loss, adapt
from reptile_lib.errors import UserError
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.machine import find_device
from reptile_lib.meta import Target
from reptile_lib.shared import Shared
from reptile_lib.tasks import Episodes

T = TypeVar("T")

LAUNCHED = "REPTILE_LAUNCHED"  # environment variable: `launch` started this process

_shared: Shared | None = None  # the memory of processes that `joined` on one machine


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
    elif os.environ.get("LOCAL_WORLD_SIZE") == str(machine.cores()):
        # A process for each core: keep it there, near what its cache holds.
        cores = machine.pin(int(os.environ["LOCAL_RANK"]))
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
    global _shared
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
    _shared = Shared() if one_machine and found.type == "cpu" else None
    try:
        with machine.interrupted_once():
            yield device
    finally:
        if _shared is not None:
            _shared.close()
            _shared = None
        dist.destroy_process_group()
        machine.unpin(cores)


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

    ours = {
        "OMP_NUM_THREADS": str(max(1, machine.cores() // processes)),
        LAUNCHED: "1",
    }
    before = {name: os.environ.get(name) for name in ours}
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
    os.environ.update({k: v for k, v in ours.items() if before[k] is None})
    try:
        statuses = elastic_launch(config, function)(arguments)
    except SignalException as error:  # handed on to the workers, which saved their work
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, died = next(iter(error.failures.items()))
        message: Any = died.message  # text, or a dict with the traceback
        reason = message["message"] if isinstance(message, dict) else message
        raise UserError(
            f"process {rank} died ({reason}) and {restarts} new starts did not"
            " help; go on with --resume and fewer --processes"
        ) from error
    finally:
        for name in ours:
            if before[name] is None:
                os.environ.pop(name, None)
    return max(int(status) for status in statuses.values())


def job() -> str:
    """Return the name torchrun gave this job, the same after a restart; else ""."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


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
    first thing, and finished by the earlier one, last thing. There must be as many
    tasks as processes, so that no length is shorter than a task: then the beginning is
    done before the end is due. 5 tasks of 5 steps take two processes 13 steps; whole
    tasks would take 15.
    """
    rank, size = world
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
    one = inner.init(phi[None].to("meta"))  # shapes a message
    total = torch.zeros_like(phi)
    states = {name: phi.new_zeros(value.shape[1:]) for name, value in one.items()}
    losses, ended = phi.new_zeros(()), 0
    message = phi.new_empty(phi.numel() + sum(v.numel() for v in one.values()))
    request = None
    if _shared is not None:
        _shared.reserve(message.numel(), message.dtype)
    for piece in work:
        i = piece.task - work[0].task
        support, order, _ = episodes.part(slice(i, i + 1))
        theta, start = phi, state
        if piece.start > 0:
            message = _take(message, rank + 1)
            sizes = [phi.numel(), *(v.numel() for v in one.values())]
            theta, *values = torch.split(message, sizes)
            theta = theta[None]
            pairs = zip(one.items(), values, strict=True)
            start = {name: value.view(like.shape) for (name, like), value in pairs}
        steps = order[:, piece.start : piece.stop]
        done = adapt(loss, theta, support, steps, inner, start, engine)
        losses += done.losses.sum() / k
        if piece.stop < k:
            rest = [done.state[name].reshape(-1) for name in one]
            message = torch.cat([done.theta[0], *rest])
            request = _hand_on(message, rank - 1)
            continue
        ended += 1
        total += done.theta[0]
        for name in one:
            states[name] += done.state[name][0]
    if request is not None:
        request.wait()
    return Target(total, states, losses, phi.new_tensor(ended * k))


def _hand_on(message: Tensor, rank: int) -> dist.Work | None:
    """Start to pass a vector to another process; wait for what is returned, if any."""
    if _shared is None:
        return dist.isend(message, rank)
    _shared.hand_on(message, rank)
    return None


def _take(message: Tensor, rank: int) -> Tensor:
    """Return what another process handed on; `message` may be written to."""
    if _shared is None:
        dist.recv(message, rank)
        return message
    return _shared.take(message, rank)


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
        watched = [t.loss] if t.steps is None else [t.loss, t.steps]
        state = t.state or {}
        return [
            t.phi,
            *(state[name] for name in names),
            *(w.to(t.phi) for w in watched),
        ]

    sums = [weight * value for value in vectors(target)]
    for weight, more in found[1:]:
        sums = [
            s + weight * value for s, value in zip(sums, vectors(more), strict=True)
        ]
    if world().size > 1:
        sums = add_up(sums)
    phi, *rest = (value / count for value in sums)
    states, watched = rest[: len(names)], rest[len(names) :]
    state = dict(zip(names, states, strict=True)) if target.state is not None else None
    return Target(phi, state, *watched)


def add_up(tensors: list[Tensor]) -> list[Tensor]:
    """Sum each tensor over all processes, in one message."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    if _shared is not None:
        flat = _shared.add_up(flat)
    else:
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


def first_alone(act: Callable[[], T]) -> T:
    """Let the first process act and return what it did; if it fails, all raise that.

    Raises:
        UserError: the first process raised it.
        RuntimeError: on the others, if the first one raised something else.
    """
    if world().size == 1:
        return act()
    outcome: list[Any] = [None, None]
    if world().rank == 0:
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
