"""A first look, for page 5.3, at anomalies in series of the NAB: no claim rests on it.

::

    python -m reptile_book.anomaly_series --seeds 0,1,2

Eight series, by name: the network traffic of two cloud machines, and the prices of
advertisements (costs per click and per thousand views) on three exchanges. A small
network says the next value from the last 24. It starts from random weights or from
Reptile's φ, for which a task is one of the other seven series, any of its rows. It then
adapts to the first 15 % of its own, as long as NAB lets detectors learn. Rates are
chosen there: by the error in the last third after adaptation to the rest. A value is as
strange as it is far from what was said; or, by a rule that learns nothing, from the
mean of the last 24 in units of their standard deviation. All is in
`results/anomalies/nab-<n>.json`:

- `metrics.<series>.<method>`: `error`, the mean squared error after the first part, on
  the scale of `scaled`; `auc`, the chance that a row in a window that people marked
  looks stranger than one outside. Windows are long and hold many rows as usual, so that
  the AUC of a perfect detector is not 1 either; `hits`, how many of the windows hold
  one of the strangest rows, of which as many are taken as there are windows
- `ms_per_point`: what a network and the rule take for one row, one row at a time
- `windows`: how many of them there are in each series

Nothing is overwritten.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from reptile_book import fields, records, studies
from reptile_book.records import Record
from reptile_lib.data import nab
from reptile_lib.data.nab import Series
from reptile_lib.device import find_device
from reptile_lib.distributions.groups import GroupTasks
from reptile_lib.errors import UserError
from reptile_lib.learner import MetaLearner, Reptile
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.optimizers.schedules import linear
from reptile_lib.params import ravel
from reptile_lib.rng import TEST
from reptile_lib.tasks import Batch, Episodes

ROW = "anomalies"
NAMES = (
    "realAWSCloudwatch/ec2_network_in_257a54",
    "realAWSCloudwatch/ec2_network_in_5abac7",
    "realAdExchange/exchange-2_cpc_results",
    "realAdExchange/exchange-2_cpm_results",
    "realAdExchange/exchange-3_cpc_results",
    "realAdExchange/exchange-3_cpm_results",
    "realAdExchange/exchange-4_cpc_results",
    "realAdExchange/exchange-4_cpm_results",
)
REPTILE, RANDOM = "Reptile, adapted", "random weights, adapted"
LAST, RULE = "the last value", "rolling mean and deviation"
METHODS = REPTILE, RANDOM, LAST, RULE


@dataclass(frozen=True)
class Study(fields.Settings):
    """How the look is taken."""

    past: int = 24
    hidden: int = 32
    first: float = 0.15
    """The share of a series that is adapted to."""
    alpha: float = 0.02
    inner_steps: int = 5
    inner_batch: int = 10
    train_shots: int = 50
    meta_steps: int = 500
    meta_batch: int = 4
    rates: tuple[float, ...] = (0.002, 0.005, 0.01, 0.02, 0.05)
    steps: int = 200
    batch: int = 32
    timed: int = 200
    """Rows that milliseconds are the mean of."""


STUDY = Study()


class Rows(NamedTuple):
    """A series cut into what is known and what comes next."""

    x: Tensor
    """float32 [rows, past]"""
    y: Tensor
    """float32 [rows, 1]"""
    marked: Tensor
    """bool [rows]: whether people marked a window around y."""
    first: int
    """Rows that belong to the first part."""
    windows: tuple[tuple[int, int], ...]
    """First row, and the row after the last, of each window."""


def scaled(values: Tensor, first: int) -> Tensor:
    """Return asinh of the distance from the median, in interquartile ranges.

    Both are those of the `first` values: traffic has bursts a thousand times as large
    as what is usual, which asinh makes as small as logarithms are.
    """
    low, middle, high = values[:first].quantile(
        torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)
    )
    unit = high - low if high > low else values[:first].std().clamp(min=1e-6)
    far: Tensor = (values - middle) / unit
    return far.asinh().float()


def rows_of(series: Series, study: Study) -> Rows:
    """Cut a series."""
    first = int(study.first * len(series.values))
    windows = scaled(series.values, first).unfold(0, study.past + 1, 1)
    x, y = windows[:, :-1], windows[:, -1:]
    past, marked = study.past, series.anomalous[study.past :]
    ends = tuple((start - past, stop - past) for start, stop in series.windows)
    return Rows(x, y, marked, first - past, ends)


def rolling(x: Tensor, y: Tensor) -> Tensor:
    """Return how many standard deviations y [rows, 1] is from the mean of x, [rows]."""
    deviation = x.std(1, correction=0).clamp(min=1e-3)
    return (y[:, 0] - x.mean(1)).abs() / deviation


def hits(scores: Tensor, own: Rows) -> int:
    """Return how many windows hold one of the highest scores, [rows after the first].

    As many scores are looked at as there are windows.
    """
    highest = scores.topk(len(own.windows)).indices + own.first
    return sum(
        bool(((start <= highest) & (highest < stop)).any())
        for start, stop in own.windows
    )


def learner_of(study: Study, rate: float, seed: int) -> MetaLearner:
    """Return an untrained learner."""
    return Reptile(
        mlp(study.past, study.hidden, study.hidden, 1, seed=seed),
        sgd(rate),
        study.inner_steps,
        study.inner_batch,
        criterion=F.mse_loss,
        moments="reset",
        device="cpu",
    )


def train(others: Sequence[Rows], seed: int, study: Study) -> Tensor:
    """Return φ [P] of the other series, a task each."""
    learner = learner_of(study, study.alpha, seed)
    group = torch.cat([torch.full((len(r.y),), i) for i, r in enumerate(others)])
    x, y = torch.cat([r.x for r in others]), torch.cat([r.y for r in others])
    learner.fit(
        GroupTasks(x, y, group, study.train_shots),
        meta_steps=study.meta_steps,
        meta_batch=study.meta_batch,
        epsilon=linear(1.0, 0.0),
        seed=seed,
    )
    return learner.phi


def adapted(phi: Tensor, rate: float, x: Tensor, y: Tensor, study: Study) -> Tensor:
    """Return weights [1, P] after SGD on some rows."""
    learner, own = learner_of(study, rate, 0), Batch(x[None], y[None])
    tasks = fields.with_minibatches(
        Episodes(own, own), 0, TEST, study.steps, study.batch
    )
    order = tasks.order
    return fields.adapted(learner.kernel, phi, own, order, learner.inner)


def said(theta: Tensor, x: Tensor, study: Study) -> Tensor:
    """Return the next values [rows, 1] that a network says."""
    kernel = learner_of(study, 1.0, 0).kernel
    found: Tensor = kernel.outputs(kernel.pack(theta), x[None])[0]
    return found


def fitted(phi: Tensor, own: Rows, study: Study) -> tuple[Tensor, float]:
    """Choose a rate within the first part, and adapt to all of it; return both."""
    cut = own.first * 2 // 3
    errors = {}
    for rate in study.rates:
        try:
            theta = adapted(phi, rate, own.x[:cut], own.y[:cut], study)
        except UserError:  # the weights diverged
            continue
        guess = said(theta, own.x[cut : own.first], study)
        errors[rate] = F.mse_loss(guess, own.y[cut : own.first]).item()
    rate = min(errors, key=errors.__getitem__)
    return adapted(phi, rate, own.x[: own.first], own.y[: own.first], study), rate


def looked_at(own: Rows, others: Sequence[Rows], seed: int, study: Study) -> Record:
    """Return error and AUC of each method on one series, after its first part."""
    x, y, marked = (t[own.first :] for t in own[:3])
    starts = {
        REPTILE: train(others, seed, study),
        RANDOM: ravel(learner_of(study, 1.0, seed).model),
    }
    guesses, rates = {LAST: x[:, -1:], RULE: x.mean(1, keepdim=True)}, {}
    for method, phi in starts.items():
        theta, rates[method] = fitted(phi, own, study)
        guesses[method] = said(theta, x, study)
    strange = {m: (guess - y)[:, 0].abs() for m, guess in guesses.items()}
    strange[RULE] = rolling(x, y)
    return {
        method: {
            "error": F.mse_loss(guesses[method], y).item(),
            "auc": float(roc_auc_score(marked, strange[method])),
            "hits": hits(strange[method], own),
        }
        | ({"rate": rates[method]} if method in rates else {})
        for method in METHODS
    }


def milliseconds(own: Rows, study: Study) -> Record:
    """Return what one row takes, one at a time, in milliseconds."""
    net = learner_of(study, 1.0, 0).model
    acts: dict[str, Callable[[Tensor, Tensor], object]] = {
        "network": lambda x, y: (net(x) - y).abs(),
        RULE: rolling,
    }
    found = {}
    with torch.no_grad():
        for name, act in acts.items():
            began = time.perf_counter()
            for i in range(study.timed):
                act(own.x[i : i + 1], own.y[i : i + 1])
            found[name] = 1e3 * (time.perf_counter() - began) / study.timed
    return found


def look(series: Sequence[Series], seed: int, study: Study) -> Record:
    """Return the record of a seed: each series, with the others to learn from."""
    began = time.perf_counter()
    rows = [rows_of(one, study) for one in series]
    metrics = {
        one.name: looked_at(rows[i], rows[:i] + rows[i + 1 :], seed, study)
        for i, one in enumerate(series)
    }
    return {
        "row": ROW,
        "seed": seed,
        "config": study.as_dict(),
        "metrics": metrics,
        "windows": {one.name: len(one.windows) for one in series},
        "ms_per_point": milliseconds(rows[0], study),
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": f"python -m reptile_book.anomaly_series --seeds {seed}",
    }


def table(folder: Path = Path("results")) -> list[list[str]]:
    """Return the rows of the page's table, a line a series; empty if none is recorded.

    Returns: series; windows; then of each of `METHODS` the AUC in %, the hits, and the
    error, means over seeds.
    """
    found = [
        records.read_one(path) for path in sorted((folder / ROW).glob("nab-[0-9].json"))
    ]

    def means(name: str, key: str, scale: float, digits: int) -> list[str]:
        return [
            f"{scale * fmean(r['metrics'][name][m][key] for r in found):.{digits}f}"
            for m in METHODS
        ]

    return [
        [
            name,
            str(found[0]["windows"][name]),
            *means(name, "auc", 100, 0),
            *means(name, "hits", 1, 1),
            *means(name, "error", 1, 2),
        ]
        for name in (found[0]["metrics"] if found else ())
    ]


def record(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    study: Study = STUDY,
    *,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Look at all series with each seed, unless that is recorded; return all records.

    Raises:
        UserError: the data cannot be had, or a record is of other settings.
    """
    made = []
    for seed in seeds:
        path = folder / ROW / f"nab-{seed}.json"
        made.append(
            studies.kept(path, study.as_dict(), lambda: look(loaded(), seed, study))  # noqa: B023
        )
        say(f"{path} is recorded")
    return made


def loaded() -> list[Series]:
    """Return the series of `NAMES`.

    Raises:
        UserError: the data cannot be had.
    """
    by_name = {series.name: series for series in nab.load()}
    return [by_name[name] for name in NAMES]


def main(arguments: list[str] | None = None) -> int:
    """Record the seeds; return 0, or 2 for a user's mistake."""
    return studies.command("anomaly_series", __doc__, record, arguments)


if __name__ == "__main__":
    sys.exit(main())
