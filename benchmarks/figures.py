"""The figures of a benchmark record, one SVG file each, made from its JSON alone."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reptile_book.plots import STYLE
from reptile_lib.errors import UserError
from reptile_lib.storage.files import written_whole

Record = dict[str, Any]

LABELS = {
    "textbook": "textbook loop",
    "library": "reptile_lib",
    "two processes": "reptile_lib, 2 processes",
    "jax": "JAX",
    "plain calls": "twenty plain calls",
    "torch": "torch.func",
    "keras": "Keras",
}
"""In one order, so that a contender has one colour and dash in all figures."""

TITLES = {"sine": "Sine, MLP 1-64-64-1, SGD", "conv4": "Conv4, 28 x 28, Adam"}


def draw(path: Path) -> list[Path]:
    """Draw what the record at `path` holds, in files beside it; return these.

    Raises:
        UserError: the record cannot be read, or a figure cannot be written.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); run the benchmark") from error
    found = []
    # The same record gives the same bytes.
    style = STYLE | {"svg.hashsalt": "reptile", "svg.fonttype": "path"}
    style |= {"figure.hooks": [], "figure.figsize": (6.4, 3.6)}  # not for phones
    with plt.rc_context(style):
        for name, make in FIGURES.items():
            figure = make(record)
            if figure is None:
                continue
            file = path.with_name(f"{path.stem}-{name}.svg")
            with written_whole(file) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
            plt.close(figure)
            found.append(file)
    return found


def speed(record: Record) -> Figure | None:
    """Draw seconds a meta-step against tasks, a panel a problem, at the middle k."""
    rows = record.get("speed")
    if not rows:
        return None
    figure, axes = plt.subplots(1, len(TITLES), figsize=(7.2, 3.4), squeeze=False)
    for axis, (problem, title) in zip(axes.flat, TITLES.items(), strict=True):
        k = _middle({r["inner_steps"] for r in _of(rows, problem=problem)})
        chosen = _of(rows, problem=problem, inner_steps=k, ways=5)
        _contenders(axis, chosen, "meta_batch")
        axis.set(title=f"{title}, k = {k}", xlabel="tasks a meta-step")
    axes[0, 0].set_ylabel("seconds a meta-step")
    _legend_below(figure, axes[0, -1])
    return figure


def cost(record: Record) -> Figure | None:
    """Draw what a Conv4 meta-step costs against tasks, ways, and inner steps."""
    rows = _of(record.get("speed") or [], problem="conv4")
    if not rows:
        return None
    middle = {
        name: _middle({r[name] for r in rows}) for name in ("meta_batch", "inner_steps")
    }
    if _of(rows, meta_batch=5):
        middle["meta_batch"] = 5
    middle["ways"] = 5
    words = {"meta_batch": "tasks", "ways": "ways", "inner_steps": "k"}
    figure, axes = plt.subplots(1, 3, figsize=(7.8, 3.4), sharey=True, squeeze=False)
    for axis, (name, word) in zip(axes.flat, words.items(), strict=True):
        fixed = {other: n for other, n in middle.items() if other != name}
        _contenders(axis, _of(rows, **fixed), name)
        title = ", ".join(f"{words[other]} = {n}" for other, n in fixed.items())
        axis.set(title=title, xlabel=word)
    axes[0, 0].set_ylabel("seconds a Conv4 meta-step")
    _legend_below(figure, axes[0, 0])
    return figure


def memory(record: Record) -> Figure | None:
    """Draw peak megabytes against k, a curve a method."""
    rows = record.get("memory")
    if not rows:
        return None
    figure, axis = plt.subplots()
    for method in dict.fromkeys(r["method"] for r in rows):
        curve = _of(rows, method=method)
        ks = [r["inner_steps"] for r in curve]
        axis.plot(ks, [r["bytes"] / 1e6 for r in curve], marker="o", label=method)
    axis.set(
        title=f"Conv4, {rows[0]['meta_batch']} tasks",
        xlabel="inner steps k",
        ylabel="peak memory (MB)",
        xticks=sorted({r["inner_steps"] for r in rows}),
    )
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def processes(record: Record) -> Figure | None:
    """Draw the gain from a second process, and what a message costs."""
    found = record.get("processes")
    if not found:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
    rows = found["scaling"]
    names = [str(r["meta_batch"]) for r in rows]
    left.bar(names, [r["ratio"] for r in rows], width=0.5)
    left.axhline(2, color="black", linewidth=1, linestyle=":")
    left.set(
        title=f"Conv4, k = {rows[0]['inner_steps']}, one thread a process",
        xlabel="tasks a meta-step",
        ylabel="speed of 2 processes / 1 process",
    )
    size = [m["floats"] for m in found["all_reduce"]]
    _band(right, size, found["all_reduce"], "measured")
    model = [found["latency_seconds"] + 4 * n / found["bytes_per_second"] for n in size]
    right.plot(size, model, label="latency + bytes / rate")
    right.set(
        title="All-reduce of 2 processes",
        xlabel="float32 numbers",
        ylabel="seconds",
        xscale="log",
        yscale="log",
    )
    right.legend()
    return figure


def _of(rows: Iterable[Record], **values: Any) -> list[Record]:
    """Return the rows that have these values."""
    return [r for r in rows if all(r[name] == v for name, v in values.items())]


def _middle(values: set[int]) -> int:
    return sorted(values)[len(values) // 2] if values else 0


def _contenders(axis: Axes, rows: list[Record], along: str) -> None:
    """Draw the seconds of all contenders against the number `along`, both as logs."""
    rows = sorted(rows, key=lambda r: r[along])
    for look, (name, label) in zip(
        STYLE["axes.prop_cycle"], LABELS.items(), strict=False
    ):
        curve = [r for r in rows if r["contenders"].get(name)]
        if curve:
            timings = [r["contenders"][name] for r in curve]
            _band(axis, [r[along] for r in curve], timings, label, look)
    axis.set(xscale="log", yscale="log")
    values = sorted({r[along] for r in rows})
    axis.set_xticks(values, list(map(str, values)))
    axis.xaxis.set_minor_locator(NullLocator())


def _band(
    axis: Axes,
    x: list[int],
    timings: list[Record],
    label: str,
    look: Mapping[str, Any] | None = None,
) -> None:
    """Draw medians, and a band from the fastest to the slowest repetition."""
    low, high = ([t[name] for t in timings] for name in ("low", "high"))
    seconds = [t["seconds"] for t in timings]
    (line,) = axis.plot(x, seconds, marker="o", markersize=4, label=label, **look or {})
    axis.fill_between(x, low, high, alpha=0.2, linewidth=0, color=line.get_color())


def _legend_below(figure: Figure, axis: Axes) -> None:
    """Put the legend of one panel, which has all curves, below all panels."""
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )


FIGURES: dict[str, Callable[[Record], Figure | None]] = {
    "speed": speed,
    "cost": cost,
    "memory": memory,
    "processes": processes,
}
