"""Stopping on Ctrl-C, or where a system ends a job: the first signal interrupts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # clusters send the second


class Stopped(KeyboardInterrupt):
    """An interrupt that knows its signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first signal interrupt (`Stopped`) and ignore those after it.

    A launcher passes on the one that the terminal has sent to all processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: signal.signal(each, interrupt) for each in SIGNALS}
    try:
        yield
    finally:
        # After an interrupt the process ends, and should be left in peace until then.
        for each, handler in before.items():
            if signal.getsignal(each) is interrupt:
                signal.signal(each, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a second signal, which a launcher may send as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, signal.SIG_IGN) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
