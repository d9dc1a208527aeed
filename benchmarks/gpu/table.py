"""The kit's files as a page: markdown that the book includes.

Standard library only, as the parent process imports it.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from benchmarks.gpu.record import Record, read

PAGE = Path("results", "benchmarks", "gpu.md")
"""Where the page is, in the repository."""

MISSING = "not measured yet"
CONTENDERS = {
    "textbook": "textbook loop",
    "unrecorded": "library, without graphs",
    "recorded": "library",
    "compiled": "library, compiled",
    "tf32": "library, tf32",
    "bf16": "library, bf16",
    "torch": "torch.func",
    "jax": "JAX",
}
TRAININGS = ("train-5way", "train-glyphs", "train-20way")
SCORES = {
    f"{shots}, {word}": (shots, protocol)
    for shots in ("1-shot", "5-shot")
    for word, protocol in (
        ("trans.", "transductive"),
        ("non-trans.", "non_transductive"),
    )
}


def write_page(folder: Path, page: Path) -> Path:
    """Write the page from the files in `folder`; return where it is."""
    page.write_text(page_of(folder), encoding="utf-8")
    return page


def page_of(folder: Path) -> str:
    """Return the page; what has no file is "not measured yet"."""

    def result(stage: str) -> Record:
        return read(folder / f"{stage}.json").get("result") or {}

    trained = [result(stage) for stage in TRAININGS]
    parts = [
        machine(result("limits")),
        checks(result("correctness")),
        *speed(result("speed")),
        *training([found for found in trained if found.get("row")]),
    ]
    return "\n\n".join(parts) + "\n"


def machine(found: Record) -> str:
    """Return the machine and its limits."""
    if "versions" not in found:
        return f"The GPU: {MISSING}."
    versions = found["versions"]
    text = f"{found['device']}, torch {versions['torch']}, CUDA {versions['cuda']}"
    if copied := found.get("copy_bytes_per_second"):
        text += f". A copy moves {copied / 1e12:.2f} TB per second"
    if rates := found.get("gemm_flops_per_second"):
        best = [
            f"{max(by_size.values()) / 1e12:.0f} in {name}"
            for name, by_size in rates.items()
            if by_size
        ]
        text += f"; products of matrices do, in TFLOP per second, {', '.join(best)}"
    return text + "."


def checks(found: Record) -> str:
    """Return how many checks passed, and the names of those that did not."""
    if "checks" not in found:
        return f"Whether a GPU computes what a CPU does: {MISSING}."
    of = len(found["checks"])
    text = f"Of {of} comparisons of results on the GPU, {found['passed']} passed."
    failed = [row["name"] for row in found["checks"] if row["ok"] is False]
    return text + (f" Failed: {'; '.join(failed)}." if failed else "")


def speed(found: Record) -> Iterator[str]:
    """Yield a table of milliseconds per meta-step, a line per cell."""
    cells = found.get("cells")
    if not cells:
        yield f"Time per meta-step: {MISSING}."
        return
    lines = [
        "| network, tasks | " + " | ".join(CONTENDERS.values()) + " |",
        "|---" * (1 + len(CONTENDERS)) + "|",
    ]
    for cell in cells:
        timings = [cell["contenders"].get(name) for name in CONTENDERS]
        times = [f"{1e3 * t['seconds']:.3g}" if t else "–" for t in timings]
        name = {"conv4": "Conv4", "sine": "sine"}[cell["problem"]]
        lines.append(f"| {name}, {cell['meta_batch']} | {' | '.join(times)} |")
    yield "Milliseconds per meta-step of 5 inner steps; a dash is not measured:"
    yield "\n".join(lines)


def training(found: list[Record]) -> Iterator[str]:
    """Yield a table of accuracies, a line per row of the book's results."""
    if not found:
        yield f"Training at full length: {MISSING}."
        return
    lines = [
        f"| row | seeds | meta-steps | minutes | {' | '.join(SCORES)} | tasks |",
        "|---" * 9 + "|",
    ]
    for row in found:
        done, of = row["meta_steps_done"], row["config"]["meta_steps"]
        steps = f"{done:,}" if row["complete"] else f"{done:,} of {of:,}"
        seconds = row["train_seconds"]
        minutes = f"{seconds / 60:.1f}" if seconds is not None else "–"
        cells = [row["row"], str(len(row["seeds"])), steps, minutes]
        cells += [accuracy(row["metrics"], *which) for which in SCORES.values()]
        lines.append(f"| {' | '.join([*cells, tasks(row['metrics'])])} |")
    yield (
        "Training with all seeds side by side. Accuracy in per cent, mean ± standard"
        " deviation over the seeds; minutes are those of training all of them:"
    )
    yield "\n".join(lines)


def _scores(metrics: list[Record], shots: str, protocol: str) -> list[Record]:
    return [seed[shots][protocol] for seed in metrics if seed.get(shots)]


def accuracy(metrics: list[Record], shots: str, protocol: str) -> str:
    """Return mean and spread over the seeds; a dash where nothing was scored."""
    values = [100 * s["accuracy"] for s in _scores(metrics, shots, protocol)]
    if not values:
        return "–"
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def tasks(metrics: list[Record]) -> str:
    """Return on how many tasks each score rests: the least, where they differ."""
    counts = [s["tasks"] for which in SCORES.values() for s in _scores(metrics, *which)]
    return f"{min(counts):,}" if counts else "–"
