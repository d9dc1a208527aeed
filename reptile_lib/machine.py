"""The machine a run is on: its device, its memory, and Ctrl-C."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from reptile_lib.errors import UserError


def cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pin(number: int) -> set[int]:
    """Keep this process on its core of this number; return what it could use before."""
    if not hasattr(os, "sched_setaffinity"):
        return set()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number]})
    return before


def unpin(before: set[int]) -> None:
    """Let this process use the cores again that `pin` returned."""
    if before:
        os.sched_setaffinity(0, before)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what it frees, instead of asking for it anew each time.

    glibc gives blocks larger than the largest it has seen freed (up to 32 MB) back to
    the system, and meets a page fault for each 4 kB when it asks again. The vectors
    that an optimiser makes in every step then cost more than their arithmetic. Freeing
    one large block once is enough; other C libraries do not mind.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C interrupt and ignore those after it.

    A launcher passes on the one that the terminal has sent to all processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # After an interrupt the process ends, and should be left in peace until then.
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C, which a launcher may send as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory did not suffice, on any device."""
    # On a CPU torch raises a plain RuntimeError.
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "DefaultCPUAllocator" in str(error)


def find_device(name: str | torch.device) -> torch.device:
    """Resolve a device name; "auto" is CUDA where present, else the CPU.

    Raises:
        UserError: CUDA is asked for and absent, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise UserError(f"cannot compute on device {name!r}; try auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {str(device)!r} was asked for, but torch finds no CUDA GPU;"
            " use --device cpu, or auto"
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and device.index and device.index >= count:
        raise UserError(
            f"device {str(device)!r} was asked for, but there are"
            f" {count}, counted from 0"
        )
    return device


@contextmanager
def memory_told(meta_batch: int) -> Iterator[None]:
    """Turn an error for lack of memory into a UserError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        failure = UserError(
            f"meta_batch = {meta_batch}: too little memory for the tasks that are held"
            " at a time; lower it, or inner_batch, or, on a CPU, take engine ="
            ' "threads"'
        )
        failure.alone = True
        raise failure from error


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory this process has held so far, on `device`, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource  # POSIX only; in kilobytes on Linux

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
