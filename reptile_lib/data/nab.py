"""Numenta Anomaly Benchmark: series in which people marked what is not as usual."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reptile_lib.reading import arrays
from reptile_lib.reading.archive import contents, csv_rows, damage_told
from reptile_lib.reading.parts import About

ABOUT = About(
    "58 series in 7 groups, 365,558 values, 116 windows that hold an anomaly; no split",
    "MIT",
    "Ahmad, Lavin, Purdy, Agha 2017, Neurocomputing, doi:10.1016/j.neucom.2017.04.070",
    "https://github.com/numenta/NAB",
)
URL = (
    "https://raw.githubusercontent.com/numenta/NAB/"
    "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
)
WINDOWS = "labels/combined_windows.json"
NAMES = Path(__file__).with_name("nab.txt").read_text("utf-8").split()
MOST = 20_000_000  # bytes


class Series(NamedTuple):
    """A series and where it is not as usual."""

    name: str
    """"realTraffic/speed_7578": group and file."""
    times: Tensor
    """int64 [n], seconds since 1970 by the clock of the file, which may jump."""
    values: Tensor
    """float64 [n]"""
    windows: tuple[tuple[int, int], ...]
    """First row, and the row after the last, of each window that holds an anomaly."""

    @property
    def anomalous(self) -> Tensor:
        """Whether a row is in a window: bool [n]."""
        rows = torch.arange(len(self.values))
        inside = [(first <= rows) & (rows < end) for first, end in self.windows]
        return torch.stack([rows < 0, *inside]).any(0)


def load() -> tuple[Series, ...]:
    """Return all series, by name. Who trains on some chooses them by name or group.

    Raises:
        UserError: the data cannot be had (`arrays.arrays_of`).
    """
    return series(SOURCE)


def series(source: arrays.Source) -> tuple[Series, ...]:
    """Do what `load` does, with the series of any source."""
    found = arrays.arrays_of(source)
    names = arrays.unpack_texts(found["names"], found["name_ends"])
    lengths = np.diff(found["ends"], prepend=0).tolist()
    times, values = (
        torch.split(torch.from_numpy(found[key]), lengths)
        for key in ("times", "values")
    )
    windows: list[list[tuple[int, int]]] = [[] for _ in names]
    for number, first, end in found["windows"].tolist():
        windows[number].append((first, end))
    return tuple(map(Series, names, times, values, map(tuple, windows)))


def read(paths: arrays.Paths) -> arrays.Arrays:
    """Read csv files with a series each, and the json file of windows in them."""
    times, values, windows = [], [], []
    files = contents(paths, rf"data/\w+/[\w-]+\.csv|{WINDOWS}", MOST)
    marked = dict(sorted(json.loads(files[Path(WINDOWS).name][1]).items()))
    for number, name in enumerate(marked):
        path, content = files[Path(name).name]
        with damage_told(path):
            rows = list(csv_rows(content))
            when = np.array([row["timestamp"] for row in rows], "datetime64[s]")
            times.append(when)
            values.append(np.array([row["value"] for row in rows], np.float64))
            for window in marked[name]:  # to the microsecond, but those are 0
                start, stop = np.array([stamp[:19] for stamp in window], when.dtype)
                (inside,) = np.nonzero((start <= when) & (when <= stop))
                windows.append((number, inside[0], inside[-1] + 1))
    names, ends = arrays.pack_texts([name.removesuffix(".csv") for name in marked])
    return {
        "names": names,
        "name_ends": ends,
        "ends": np.cumsum([len(some) for some in times], dtype=np.int64),
        "times": np.concatenate(times).astype(np.int64),
        "values": np.concatenate(values),
        "windows": np.array(windows, np.int64).reshape(-1, 3),
    }


SOURCE = arrays.Source(
    "nab",
    "fc2f464dbd5bdcc20fe946bd7a048f4e32ef2492dfee47d78ad792ed63ad20d6",
    arrays.site(URL, MOST, {WINDOWS: ""} | {f"data/{n}.csv": "" for n in NAMES}),
    read,
    ("nab/nab_data.zip",),
)
