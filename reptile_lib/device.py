"""The device that computes."""

import torch

from reptile_lib.errors import UserError


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


def out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory did not suffice, on any device."""
    # On a CPU torch raises a plain RuntimeError.
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator" in str(error)
