"""Seconds a meta-step, side by side, and the share of the arithmetic limit."""

import time
from statistics import median
from typing import Any

import torch

from benchmarks import problems
from benchmarks.contenders import (
    Jax,
    Keras,
    Library,
    PlainCalls,
    Textbook,
    Torch,
    jax_version,
    keras_version,
)
from benchmarks.limit import Product, conv4_flops, product_flops
from benchmarks.problems import BATCH, Cell
from benchmarks.processes import Team
from benchmarks.timing import QUICK, Contender, Effort, Timing, measure
from reptile_lib import linear

META_BATCHES = (1, 5, 32, 256)
INNER_STEPS = (1, 5, 10)
WAYS = (10, 20)
"""On top of 5, at 5 tasks and 5 inner steps."""

NAMES = (
    *("textbook", "library", "two processes"),
    *("torch", "jax", "keras", "plain calls"),
)

AT_MOST = {"torch": {"sine": 256, "conv4": 32}, "keras": {"sine": 32, "conv4": 5}}
"""Tasks; with more, they would take minutes."""

SHORT, LONG = 60, 6_000
"""Meta-steps of a notebook's run, and of a long one."""

Record = dict[str, Any]


def cells(quick: bool) -> list[Cell]:
    """Return what is timed, small cells first."""
    if quick:
        return [Cell("sine", 5, 5), Cell("conv4", 2, 1)]
    found = [
        Cell(name, n, k)
        for name in ("sine", "conv4")
        for n in META_BATCHES
        for k in INNER_STEPS
    ]
    return found + [Cell("conv4", 5, 5, ways) for ways in WAYS]


def product_rates(device: torch.device, effort: Effort) -> dict[int, float]:
    """Return operations a second of products of matrices, by their size."""
    sizes = [512, 1024, 2048]
    if effort is QUICK:
        sizes = [128, 256]
    elif device.type == "cuda":
        sizes += [4096, 8192]
    products: dict[str, Contender] = {str(n): Product(n, device) for n in sizes}
    found = measure(products, effort)
    return {n: product_flops(n) / found[str(n)].seconds for n in sizes}


def race(device: torch.device, effort: Effort, team: Team | None) -> Record:
    """Time all cells; `team` is two processes that share all cores.

    Returns:
        What README.md says under "limit" and "speed".
    """
    rates = product_rates(device, effort)
    size = max(rates, key=rates.__getitem__)
    print(f"  products of matrices: {rates[size] / 1e9:.0f} GFLOP/s at {size} rows")
    product = Product(size, device)
    for name in ("sine", "conv4"):  # the first use imports much
        Textbook(Cell(name, 1, 1), device)(1)
    rows = [
        time_cell(cell, device, effort, team, product)
        for cell in cells(effort is QUICK)
    ]
    limit = {
        "flops_per_second": {str(n): rate for n, rate in rates.items()},
        "size": size,
    }
    return {"limit": limit, "speed": rows, "short_runs": short_runs(device, effort)}


def short_runs(device: torch.device, effort: Effort) -> Record:
    """Time whole calls of `fit` from the start: a short run, a long one, and one step.

    What a call costs however short it is, `fixed_seconds`, is taken off both.
    """
    cell = Cell("sine", 5, 5)
    long = SHORT if effort is QUICK else LONG

    def run(meta_steps: int) -> float:
        learner, tasks = problems.learner(cell, device)
        learner.state = learner.state._replace(meta_step=0)
        began = time.perf_counter()
        learner.fit(
            tasks,
            meta_steps=meta_steps,
            meta_batch=cell.meta_batch,
            epsilon=linear(1.0, 0.0),
        )
        return time.perf_counter() - began

    run(SHORT)
    turns = [(run(1), run(SHORT), run(long)) for _ in range(5)]
    one, short, whole = (median(times) for times in zip(*turns, strict=True))
    fixed = max(0.0, (long * one - whole) / (long - 1))
    found = {
        "short_seconds": (short - fixed) / SHORT,
        "long_seconds": (whole - fixed) / long,
        "fixed_seconds": fixed,
    }
    print("  " + ", ".join(f"{n} {1e3 * t:.3g} ms" for n, t in found.items()))
    return found


def time_cell(
    cell: Cell,
    device: torch.device,
    effort: Effort,
    team: Team | None,
    product: Product,
) -> Record:
    """Let the contenders of one cell take turns."""
    racing: dict[str, Contender] = {
        "textbook": Textbook(cell, device),
        "library": Library(cell, device),
    }
    compile_seconds: dict[str, float | None] = {"jax": None, "keras": None}
    if cell.meta_batch <= AT_MOST["torch"][cell.problem]:
        racing["torch"] = Torch(cell, device)
    if jax_version(device):
        racing["jax"] = jax = Jax(cell, device)
        compile_seconds["jax"] = jax.compile_seconds
    if keras_version(device) and cell.meta_batch <= AT_MOST["keras"][cell.problem]:
        racing["keras"] = keras = Keras(cell, device)
        compile_seconds["keras"] = keras.compile_seconds
    if cell.problem == "sine" and device.type == "cpu":
        racing["plain calls"] = PlainCalls(cell, device)
    if cell.problem == "conv4":
        racing["product"] = product
        if team and cell.meta_batch > 1:
            racing["two processes"] = team.contender(cell)
    found = measure(racing, effort)
    multiplied = found.pop("product", None)
    row: Record = vars(cell) | {
        "contenders": {
            name: found[name].as_dict() if name in found else None for name in NAMES
        },
        **{f"{name}_compile_seconds": t for name, t in compile_seconds.items()},
    }
    print(f"  {describe(cell)}: {compare(found)}")
    if multiplied:
        rate = product_flops(len(product.a)) / multiplied.seconds
        flops = conv4_flops(BATCH, cell.ways) * cell.meta_batch * cell.inner_steps
        row["flops"], row["flops_per_second"] = flops, rate
        row["share"] = {name: flops / rate / t.seconds for name, t in found.items()}
    return row


def describe(cell: Cell) -> str:
    """Return a cell in words."""
    ways = f" {cell.ways}-way" if cell.problem == "conv4" else ""
    return f"{cell.problem}{ways}, {cell.meta_batch} tasks, k = {cell.inner_steps}"


def compare(found: dict[str, Timing]) -> str:
    """Return milliseconds a meta-step, and how many times the textbook's speed."""
    base = found["textbook"].seconds
    return ", ".join(
        f"{name} {1e3 * t.seconds:.3g} ms"
        + ("" if name == "textbook" else f" ({base / t.seconds:.2g}x)")
        for name, t in found.items()
    )
