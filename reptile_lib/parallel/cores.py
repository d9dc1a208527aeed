"""The CPU cores that this process may use."""

import os


def core_count() -> int:
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
