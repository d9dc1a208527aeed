"""What a device does during some meta-steps: its kernels, and the gaps between them."""

import json
import tempfile
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from benchmarks.contenders import Library
from benchmarks.gpu.record import Record

KERNELS = 25
"""How many are listed, those that take most time."""

ON_DEVICE = {"cuda": {"kernel", "gpu_memcpy", "gpu_memset"}, "cpu": {"cpu_op"}}
"""Categories of a trace's events that keep a device busy."""


def profile(library: Library, meta_steps: int) -> Record:
    """Return what README.md says under `profiles`, or the traceback of what failed."""
    empty = table([], meta_steps) | {"traceback": None}
    try:
        return empty | table(events(library, meta_steps), meta_steps)
    except Exception:
        return empty | {"traceback": traceback.format_exc()}


def events(library: Library, meta_steps: int) -> list[Record]:
    """Let a contender work under the profiler; return the device's events.

    Each has a name, a start "ts" and a duration "dur" in microseconds.
    """
    kind = library.device.type
    activity = {"cuda": ProfilerActivity.CUDA, "cpu": ProfilerActivity.CPU}[kind]
    profiler = torch.profiler.profile(activities=[activity])
    library.begin = profiler.start  # when graphs are recorded
    try:
        library(meta_steps)
    finally:
        profiler.stop()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "trace.json")
        profiler.export_chrome_trace(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [e for e in found if e.get("ph") == "X" and e.get("cat") in ON_DEVICE[kind]]


def table(events: list[Record], meta_steps: int) -> Record:
    """Sum up events: time by kernel, and when none was at work.

    Args:
        events: with "name", "ts" and "dur" in microseconds.
        meta_steps: in which they happened.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in events:
        by_name[event["name"]].append(event["dur"])
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events)
    gaps, busy_until = [], spans[0][0] if spans else 0.0
    for start, end in spans:
        if start > busy_until:
            gaps.append(start - busy_until)
        busy_until = max(busy_until, end)
    span = busy_until - spans[0][0] if spans else 0.0
    kernels: list[dict[str, Any]] = [
        {"name": name, "calls": len(times), "seconds": sum(times) / 1e6}
        for name, times in by_name.items()
    ]
    kernels.sort(key=lambda kernel: -kernel["seconds"])
    return {
        "meta_steps": meta_steps,
        "span_seconds": span / 1e6,
        "busy_seconds": (span - sum(gaps)) / 1e6,
        "gap_seconds": sum(gaps) / 1e6,
        "gaps": len(gaps),
        "longest_gaps_seconds": [gap / 1e6 for gap in sorted(gaps)[:-6:-1]],
        "launches": len(events),
        "kernels": kernels[:KERNELS],
    }
