"""How far one method is ahead of others, dot by dot: the figures of page 5.3."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from reptile_book import fields, records
from reptile_book.records import Record

Lead = tuple[float, float]
"""On one split: mean, and half width of the interval over its tasks."""


def of_splits(
    folder: Path,
    methods: Iterable[str],
    pick: Callable[[Record, str], Record],
    scale: float = 1.0,
) -> dict[str, list[Lead]]:
    """Return the leads over each method, in the order of the recorded seeds.

    Args:
        folder: with the records of `fields.split_by_seed`.
        methods: names.
        pick: pick(metrics, method) -> what `fields.paired` says of the method.
        scale: 100 for points.
    """
    leads: dict[str, list[Lead]] = {name: [] for name in methods}
    for record in records.read(folder):
        for name, dots in leads.items():
            score = pick(record["metrics"], name)
            dots.append((scale * score["ahead"], scale * score["ahead_ci95"]))
    return leads


def of_groups(
    folder: Path,
    methods: Iterable[str],
    pick: Callable[[Record, str], Record],
    scale: float = 1.0,
) -> dict[str, list[Lead]]:
    """Return the leads of each group, such as a speaker: the mean over its seeds.

    The other arguments are those of `of_splits`; records are `<group>-<seed>.json`, and
    nothing is said of the tasks of a group: its half width is 0.
    """
    groups: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*-[0-9].json")):
        found = records.read_one(path)["metrics"]
        groups.setdefault(path.stem.rpartition("-")[0], []).append(found)
    return {
        name: [
            (scale * fmean(pick(seed, name)["ahead"] for seed in seeds), 0.0)
            for seeds in groups.values()
        ]
        for name in methods
    }


def mean(dots: Sequence[Lead]) -> float:
    """Return the mean lead."""
    return fmean(lead for lead, _ in dots)


def interval(dots: Sequence[Lead], overlap: float = 0.0) -> tuple[float, float]:
    """Return Student's 95 % interval over the dots, lower and upper end.

    Splits of the same data are alike: what one trains on, another tests. In place of
    the 1/n of n independent dots, Nadeau & Bengio 2003 ("Inference for the
    generalization error", Machine Learning 52) put 1/n + test/train.

    >>> [round(end, 2) for end in interval([(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)])]
    [-0.48, 4.48]

    Args:
        dots: of n splits.
        overlap: how large a test set is, training sets being 1; 0 for dots that share
            nothing.
    """
    half = fields.t95([lead for lead, _ in dots]) * (1 + len(dots) * overlap) ** 0.5
    return mean(dots) - half, mean(dots) + half


def draw(
    axis: Axes, leads: Mapping[str, Sequence[Lead]], unit: str, overlap: float = 0.0
) -> None:
    """Draw a row a method: a dot with its interval a split, and a bar over them."""
    for y, dots in enumerate(leads.values()):
        bar = interval(dots, overlap)
        axis.fill_between(bar, y - 0.28, y + 0.28, color="0.75", lw=0)
        for i, (lead, ci) in enumerate(dots):
            place = y + 0.6 * (i / (len(dots) - 1) - 0.5)
            axis.plot([lead - ci, lead + ci], [place] * 2, "C0-", lw=0.8)
            axis.plot(lead, place, "C0o", ms=3)
    axis.axvline(0, color="0.4", ls="-", lw=1)
    names = [re.sub(r" (?=\+|on the )|(?<=,) ", "\n", name) for name in leads]
    axis.set_yticks(range(len(leads)), names)
    axis.set(xlabel=unit, ylim=(len(leads) - 0.5, -0.5))
