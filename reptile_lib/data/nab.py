"""Numenta Anomaly Benchmark: series in which people marked what is not as usual."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reptile_lib.reading.archive import damage_told, members, unpacked
from reptile_lib.reading.arrays import (
    Arrays,
    Source,
    arrays_of,
    pack_texts,
    unpack_texts,
)
from reptile_lib.reading.fetch import Remote
from reptile_lib.reading.parts import About

ABOUT = About(
    "58 series in 7 groups, 365,558 values, 116 windows that hold an anomaly; no split",
    "MIT",
    "Ahmad, Lavin, Purdy, Agha 2017, Neurocomputing, doi:10.1016/j.neucom.2017.04.070",
    "https://github.com/numenta/NAB",
)
BASE = (
    "https://raw.githubusercontent.com/numenta/NAB/"
    "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
)
WINDOWS = "labels/combined_windows.json"
FILES = {
    "artificialNoAnomaly": "art_daily_no_noise art_daily_perfect_square_wave"
    " art_daily_small_noise art_flatline art_noisy",
    "artificialWithAnomaly": "art_daily_flatmiddle art_daily_jumpsdown"
    " art_daily_jumpsup art_daily_nojump art_increase_spike_density"
    " art_load_balancer_spikes",
    "realAWSCloudwatch": "ec2_cpu_utilization_24ae8d ec2_cpu_utilization_53ea38"
    " ec2_cpu_utilization_5f5533 ec2_cpu_utilization_77c1ca ec2_cpu_utilization_825cc2"
    " ec2_cpu_utilization_ac20cd ec2_cpu_utilization_c6585a ec2_cpu_utilization_fe7f93"
    " ec2_disk_write_bytes_1ef3de ec2_disk_write_bytes_c0d644 ec2_network_in_257a54"
    " ec2_network_in_5abac7 elb_request_count_8c0756 grok_asg_anomaly"
    " iio_us-east-1_i-a2eb1cd9_NetworkIn rds_cpu_utilization_cc0c53"
    " rds_cpu_utilization_e47b3b",
    "realAdExchange": "exchange-2_cpc_results exchange-2_cpm_results"
    " exchange-3_cpc_results exchange-3_cpm_results exchange-4_cpc_results"
    " exchange-4_cpm_results",
    "realKnownCause": "ambient_temperature_system_failure"
    " cpu_utilization_asg_misconfiguration ec2_request_latency_system_failure"
    " machine_temperature_system_failure nyc_taxi rogue_agent_key_hold"
    " rogue_agent_key_updown",
    "realTraffic": "TravelTime_387 TravelTime_451 occupancy_6005 occupancy_t4013"
    " speed_6005 speed_7578 speed_t4013",
    "realTweets": "Twitter_volume_AAPL Twitter_volume_AMZN Twitter_volume_CRM"
    " Twitter_volume_CVS Twitter_volume_FB Twitter_volume_GOOG Twitter_volume_IBM"
    " Twitter_volume_KO Twitter_volume_PFE Twitter_volume_UPS",
}
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


def series(source: Source) -> tuple[Series, ...]:
    """Do what `load` does, with the series of any source."""
    arrays = arrays_of(source)
    names = unpack_texts(arrays["names"], arrays["name_ends"])
    lengths = np.diff(arrays["ends"], prepend=0).tolist()
    parts = (
        torch.split(torch.from_numpy(arrays[key]), lengths)
        for key in ("times", "values")
    )
    windows = arrays["windows"].tolist()
    return tuple(
        Series(
            name, times, values, tuple((a, b) for of, a, b in windows if of == number)
        )
        for number, (name, times, values) in enumerate(zip(names, *parts, strict=True))
    )


def read(paths: Sequence[Path]) -> Arrays:
    """Return the series of csv files, of which the first, a json file, has windows."""
    return _arrays(
        paths[0], {path.name: (path, unpacked(path, MOST)) for path in paths}
    )


def read_packed(paths: Sequence[Path]) -> Arrays:
    """Return the series of a zip file."""
    (path,) = paths
    found = members(path, rf"data/\w+/[\w-]+\.csv|{WINDOWS}", MOST)
    return _arrays(path, {Path(name).name: (path, content) for name, content in found})


def _arrays(first: Path, files: Mapping[str, tuple[Path, bytes]]) -> Arrays:
    times, values, windows = [], [], []
    with damage_told(first):
        marked = json.loads(files[Path(WINDOWS).name][1])
        for number, name in enumerate(sorted(marked)):
            path, content = files[Path(name).name]
            with damage_told(path):
                _, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
                stamps, numbers = zip(*rows, strict=True)
                times.append(when := np.array(stamps, "datetime64[s]"))
                values.append(np.array(numbers, np.float64))
                for window in marked[name]:  # to the microsecond, but those are 0
                    start, stop = np.array([stamp[:19] for stamp in window], when.dtype)
                    (inside,) = np.nonzero((start <= when) & (when <= stop))
                    windows.append((number, inside[0], inside[-1] + 1))
    names, name_ends = pack_texts(
        [name.removesuffix(".csv") for name in sorted(marked)]
    )
    return {
        "names": names,
        "name_ends": name_ends,
        "ends": np.cumsum([len(some) for some in times], dtype=np.int64),
        "times": np.concatenate(times).astype(np.int64),
        "values": np.concatenate(values),
        "windows": np.array(windows, np.int64).reshape(-1, 3),
    }


SOURCE = Source(
    name="nab",
    sha256="fc2f464dbd5bdcc20fe946bd7a048f4e32ef2492dfee47d78ad792ed63ad20d6",
    remotes=tuple(
        Remote(f"{BASE}/{name}", "", MOST)
        for name in (
            WINDOWS,
            *(f"data/{g}/{f}.csv" for g, files in FILES.items() for f in files.split()),
        )
    ),
    read=read,
    packed=("nab/nab_data.zip",),
    read_packed=read_packed,
)
