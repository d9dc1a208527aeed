"""Run stages one after the other, whatever becomes of each.

A stage is a process in a process group of its own: an error on a GPU poisons its
process alone, and one that hangs is killed together with all that it started. How it
ended and what it found is in its file when the next one begins.

Standard library only, so that nothing here can fail with what is measured.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.gpu.record import Record, read, write

GRACE = 3.0
"""Seconds between the time when a stage should end and when it is killed."""

LEAST = 10.0
"""Seconds without which a stage is not begun."""

TAIL = 20_000
"""Characters of stderr that are kept."""


@dataclass(frozen=True)
class Stage:
    """A command and how long it may take."""

    name: str
    """Its file is NAME.json."""
    command: Sequence[str]
    """Given the option --deadline: the Unix time at which it should have ended."""
    seconds: float
    """It is killed after so many."""


def run_all(stages: Sequence[Stage], folder: Path, seconds: float) -> list[Record]:
    """Run the stages as long as there is time; return what their files hold.

    Args:
        stages: in the order in which they matter.
        folder: for the files; made where it is missing.
        seconds: for all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    records = []
    for stage in stages:
        (folder / f"{stage.name}.json").unlink(missing_ok=True)  # of an earlier run
        limit = min(stage.seconds, end - time.monotonic())
        if limit < min(LEAST, stage.seconds):
            reason = f"{max(0.0, limit):.0f} s were left"
            record = _finish(stage, folder, "skipped", reason, 0.0, limit)
        else:
            record = run(stage, folder, limit)
        print(f"{stage.name}: {_summary(record)}", flush=True)
        records.append(record)
    return records


def run(stage: Stage, folder: Path, limit: float) -> Record:
    """Run one stage for at most `limit` seconds; return what its file holds."""
    began = time.monotonic()
    deadline = ["--deadline", str(time.time() + max(limit - GRACE, limit / 2))]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*stage.command, *deadline],
            stdin=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        status: str = "killed"
        reason: str | None = "interrupted"
        try:
            status, reason = _wait(process, limit)
        finally:  # also when this process is told to end
            _kill(process)
            seconds = time.monotonic() - began
            record = _finish(
                stage, folder, status, reason, seconds, limit, _tail(errors)
            )
    return record


def _wait(process: subprocess.Popen[bytes], limit: float) -> tuple[str, str | None]:
    """Return how a process ended: a status, and the reason if it is not "ok"."""
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return "killed", f"killed after {limit:.0f} s"
    if code < 0:
        names = {s.value: s.name for s in signal.Signals}
        return "failed", f"ended by {names.get(-code, f'signal {-code}')}"
    return ("failed", f"exit status {code}") if code else ("ok", None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a driver may hold on to it
        process.wait(10)


def _tail(errors: IO[bytes]) -> str:
    """Return the end of what was written to a file."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - TAIL))
    return errors.read().decode(errors="replace")


def _finish(
    stage: Stage,
    folder: Path,
    status: str,
    reason: str | None,
    seconds: float,
    limit: float,
    stderr: str = "",
) -> Record:
    """Complete a stage's file, and remove what a killed one was about to write."""
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)
    path = folder / f"{stage.name}.json"
    found = read(path)
    record: Record = {
        "stage": stage.name,
        "status": status,
        "reason": reason,
        "seconds": round(seconds, 3),
        "limit_seconds": round(limit, 3),
        "traceback": found.get("traceback"),
        "stderr": stderr,
        "result": found.get("result"),
    }
    write(path, record)
    return record


def _summary(record: Record) -> str:
    text = f"{record['status']}, {record['seconds']:.1f} s"
    if record["reason"]:
        text += f" ({record['reason']})"
    told: str = record["traceback"] or record["stderr"]
    if record["status"] in ("failed", "killed") and told:
        text += "\n" + told[-2_000:].rstrip()
    return text
