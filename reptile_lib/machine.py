"""The machine a run is on: its device, its memory, and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from reptile_lib.errors import UserError


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


def out_of_memory(error: Exception) -> bool:
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
    return device
