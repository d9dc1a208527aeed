"""Seconds a meta-step, in turns; and what the GPU does during the slowest.

First torch's contenders, cell by cell; then profiles; then JAX and compiled inner
steps, which need longest to get ready, each of their cells in turns with the library.
"""

import time
import traceback
from typing import Any

from benchmarks.contenders import Library, Textbook, Torch
from benchmarks.gpu.checks import Checks
from benchmarks.gpu.jax_process import JaxProcess
from benchmarks.gpu.job import Job
from benchmarks.gpu.profiles import profile
from benchmarks.gpu.record import Record
from benchmarks.limit import conv4_flops
from benchmarks.problems import BATCH, Cell
from benchmarks.speed import describe
from benchmarks.timing import Contender, Effort
from benchmarks.timing import measure as in_turns

CELLS = (
    Cell("conv4", 5, 5),
    Cell("sine", 5, 5),
    Cell("conv4", 32, 5),
    Cell("conv4", 256, 5),
    Cell("sine", 256, 5),
    Cell("conv4", 1, 5),
)
"""The cell of the headline row first, in case time runs out."""

FUSED = (Cell("conv4", 5, 5), Cell("conv4", 256, 5))
"""Cells that are compiled: what launches bound, and what memory does."""

DRY_CELLS = (Cell("conv4", 1, 1), Cell("sine", 2, 2))
DRY_FUSED = DRY_CELLS[1:]

VARIANTS: dict[str, Record] = {
    "recorded": {"recorded": True},
    "unrecorded": {"recorded": False},
    "bf16": {"recorded": True, "precision": "bf16"},
    "tf32": {"recorded": True, "precision": "tf32"},
}
"""The library's contenders, by their settings."""

COMPILED: Record = {"recorded": True, "compiled": True}
"""Their inner steps fused by torch.compile, and these recorded."""

LOOPS: dict[str, Any] = {"textbook": Textbook, "torch": Torch}

LATE = ("compiled", "jax")
"""They come last, each in turns with the library again: `recorded_beside_NAME`."""

EFFORT = Effort(budget=0.8, repetition=0.3, long=1.0, longest=2.0)
DRY = Effort(budget=0.01, repetition=0.01, long=0.1, longest=0.2)

PROFILED = 5
"""Meta-steps in a profile; more where the tasks of more are drawn at a time."""


def measure(job: Job) -> None:
    """Fill the report of this stage; README.md names its keys."""
    cells = DRY_CELLS if job.dry else CELLS
    rows = [empty(cell) for cell in cells]
    for name in ("sine", "conv4"):  # the first use imports much
        Textbook(Cell(name, 1, 1), job.device)(1)
    end_of_torch = 0.45 * job.left()  # what is left is for profiles and JAX
    for cell, row in zip(cells, rows, strict=True):
        if job.left() > end_of_torch:
            race(job, cell, row)
        job.report.add(cells=rows)
    job.report.add(profiles=profiles(job, list(cells), rows))
    job.report.add(jax=beside_jax(job, list(cells), rows), cells=rows)
    compiling = 0.0 if job.dry else 30.0  # the first time a guess
    for cell, row in zip(cells, rows, strict=True):
        if cell in (DRY_FUSED if job.dry else FUSED) and job.left() > 1.5 * compiling:
            beside_compiled(job, cell, row)
            compiling = row["compile_seconds"] or compiling
            job.report.add(cells=rows)


def empty(cell: Cell) -> Record:
    """Return the row of a cell that nothing has been measured of."""
    flops = None
    if cell.problem == "conv4":
        flops = conv4_flops(BATCH, cell.ways) * cell.meta_batch * cell.inner_steps
    others = (f"{turn}{name}" for name in LATE for turn in ("", "recorded_beside_"))
    names = ("textbook", "torch", *VARIANTS, *others)
    return {
        **vars(cell),
        "flops": flops,
        "contenders": dict.fromkeys(names),
        "jax_compile_seconds": None,
        "compile_seconds": None,
        "compiled_difference": None,
        "tracebacks": dict.fromkeys(
            ("textbook", "torch", *VARIANTS, "turns", "compiled")
        ),
    }


def prepared(job: Job, cell: Cell, row: Record) -> dict[str, Contender]:
    """Make torch's contenders; those that cannot be made, or run, are left out."""
    made: dict[str, Any] = {}
    for name in ("textbook", "torch", *VARIANTS):
        if name == "tf32" and job.device.type != "cuda":
            continue
        try:
            if name in LOOPS:
                made[name] = LOOPS[name](cell, job.device)
            else:
                made[name] = Library(cell, job.device, **VARIANTS[name])
                made[name](1)
        except Exception:
            made.pop(name, None)
            row["tracebacks"][name] = traceback.format_exc()
    return made


def race(job: Job, cell: Cell, row: Record) -> None:
    """Let torch's contenders of a cell take turns."""
    effort = DRY if job.dry else EFFORT
    try:
        found = in_turns(prepared(job, cell, row), effort)
    except Exception:
        row["tracebacks"]["turns"] = traceback.format_exc()
        return
    row["contenders"] |= {name: timing.as_dict() for name, timing in found.items()}
    times = ", ".join(f"{n} {1e3 * t.seconds:.3g} ms" for n, t in found.items())
    print(f"  {describe(cell)}: {times}")


def profiles(job: Job, cells: list[Cell], rows: list[Record]) -> list[Record]:
    """Profile the slowest cell and the headline row's, recorded and unrecorded."""

    def seconds(row: Record) -> float:
        timing = row["contenders"]["recorded"]
        return timing["seconds"] if timing else 0.0

    slowest = max(range(len(cells)), key=lambda i: seconds(rows[i]))
    found = []
    for cell in dict.fromkeys((cells[slowest], cells[0])):
        for name in ("recorded", "unrecorded"):
            if job.left() < (0 if job.dry else 15):
                continue
            about: Record = {**vars(cell), "contender": name}
            library = Library(cell, job.device, **VARIANTS[name])
            whole = 1 if job.dry else library.learner.at_once // cell.meta_batch
            found.append(about | profile(library, max(PROFILED, whole)))
            job.report.add(profiles=found)
    return found


def beside_compiled(job: Job, cell: Cell, row: Record) -> None:
    """Let compiled and written inner steps take turns on a cell."""
    try:
        began = time.perf_counter()
        compiled = Library(cell, job.device, **COMPILED)
        compiled(1)
        row["compile_seconds"] = time.perf_counter() - began
        pair: dict[str, Contender] = {
            "compiled": compiled,
            "recorded_beside_compiled": Library(cell, job.device, recorded=True),
        }
        found = in_turns(pair, DRY if job.dry else EFFORT)
        row["contenders"] |= {name: t.as_dict() for name, t in found.items()}
        job.report.add()  # what follows compiles anew, for float64
        if cell.meta_batch < 256:
            difference = Checks(job.device, job.dry).compiled(cell.problem)
            row["compiled_difference"] = difference
    except Exception:
        row["tracebacks"]["compiled"] = traceback.format_exc()
        return
    compiled_ms = 1e3 * found["compiled"].seconds
    print(f"  {describe(cell)}: compiled {compiled_ms:.3g} ms")


def beside_jax(job: Job, cells: list[Cell], rows: list[Record]) -> Record:
    """Let JAX, in a process of its own, and the library take turns on each cell.

    Returns:
        its version, and why it or the rest of its cells are missing, if they are.
    """
    about: Record = {"version": None, "reason": None}
    device = job.device.type
    with JaxProcess(device) as jax:
        try:
            about["version"] = jax.ask(job.left())["version"]
            job.report.add(jax=about)
            for cell, row in zip(cells, rows, strict=True):
                compiled = jax.ask(job.left(), do="compile", cell=vars(cell))
                row["jax_compile_seconds"] = compiled["seconds"]
                job.report.add(cells=rows)
                library = Library(cell, job.device, **VARIANTS["recorded"])
                pair: dict[str, Contender] = {
                    "jax": jax.contender(cell, job.left),
                    "recorded_beside_jax": library,
                }
                found = in_turns(pair, DRY if job.dry else EFFORT)
                row["contenders"] |= {n: t.as_dict() for n, t in found.items()}
                jax_ms = 1e3 * found["jax"].seconds
                print(f"  {describe(cell)}: jax {jax_ms:.3g} ms")
        except Exception as error:  # JAX is left out, and what it holds up as well
            about["reason"] = str(error) or repr(error)
            print(f"  jax: {about['reason']}")
    return about
