"""What the studies of chapter 5 share: joint training, adaptation, intervals, pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_lib.device import find_device
from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs, each
from reptile_lib.inner import InnerOptimizer
from reptile_lib.inner_loop import adapt
from reptile_lib.kernel import Criterion, Kernel
from reptile_lib.params import ravel
from reptile_lib.rng import draws
from reptile_lib.runs.run import body_of
from reptile_lib.tasks import Batch, Episodes, minibatches

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t of 1, 2, ... degrees of freedom that 95 % stay below in size."""


@dataclass(frozen=True)
class Settings:
    """How a study is done; it has further fields."""

    def as_dict(self) -> Record:
        """Return the settings by name, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def t95(values: Sequence[float]) -> float:
    """Return the half width of Student's 95 % interval of a mean of 2 to 10 values.

    >>> round(t95([1, 2, 3, 4, 5, 6]), 3)  # 2.571 · 1.871 / √6
    1.964
    """
    return T95[len(values) - 2] * stdev(values) / math.sqrt(len(values))


def ci95(values: Tensor) -> float:
    """Return the half width of the normal 95 % interval of a mean; 0 of one value."""
    if len(values) < 2:
        return 0.0
    return 1.96 * values.double().std().item() / math.sqrt(len(values))


def paired(found: Mapping[str, Tensor], first: str, *, lower: bool = False) -> Record:
    """Return the mean of each method, and how far the first is ahead, pair by pair.

    Args:
        found: values [tasks] of each method, of the same tasks.
        first: the method that the others are compared with.
        lower: whether low values are good, as errors are.
    """
    sign = -1.0 if lower else 1.0
    ahead = {name: sign * (found[first] - values) for name, values in found.items()}
    return {
        name: {
            "mean": values.double().mean().item(),
            "ci95": ci95(values),
            "ahead": ahead[name].double().mean().item(),
            "ahead_ci95": ci95(ahead[name]),
        }
        for name, values in found.items()
    }


def over_seeds(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return mean and standard deviation over seeds, such as "80.2 ± 1.3"."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{scale * fmean(values):.{digits}f} ± {scale * spread:.{digits}f}"


def leads(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return the mean lead over seeds, with its lowest and highest."""
    low, mean, high = (scale * v for v in (min(values), fmean(values), max(values)))
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def split_by_seed(
    into: Path,
    seeds: Sequence[int],
    config: Record,
    command: str,
    *,
    choose: Callable[[int], Record],
    final: Callable[[Record, int], Record],
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Choose and score for each seed, where each seed splits the data anew.

    `choice-<seed>.json` is what was chosen on a split, `seed-<seed>.json` how it did.
    What is recorded is kept; the other arguments are those of `studies.one_by_one`.

    Raises:
        UserError: a record is of other settings.
    """
    made = []
    for seed in seeds:
        also = {
            "row": into.name,
            "seed": seed,
            "config": config,
            **records.circumstances(find_device("cpu")),
            "command": f"{command} --seeds {seed}",
        }
        paths = (into / f"{kind}-{seed}.json" for kind in ("choice", "seed"))
        choice = studies.kept(next(paths), config, lambda: also | choose(seed))  # noqa: B023
        path = next(paths)
        made.append(studies.kept(path, config, lambda: also | final(choice, seed)))  # noqa: B023
        say(f"{path} is recorded")
    return made


def train_jointly(
    model: nn.Module,
    x: Inputs,
    y: Tensor,
    criterion: Criterion,
    *,
    rate: float,
    seed: int,
    batch: int,
    steps: int,
) -> Tensor:
    """Train a network on all rows as one task, by Adam; return its weights [P].

    Args:
        model: it is changed.
        x: [rows, ...], or a tuple of such.
        y: [rows, ...].
        criterion: criterion(outputs, y) -> scalar loss.
        rate: of the first step; it falls to zero.
        seed: of the minibatches.
        batch: rows a step.
        steps: how many.

    Raises:
        UserError: the weights diverged.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(y), [batch], generator=generator)
        given = each(lambda t: t[rows], x)  # noqa: B023
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        outputs = model(*(given if isinstance(given, tuple) else (given,)))
        criterion(outputs, y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    phi = ravel(model)
    if not phi.isfinite().all():
        raise UserError(f"joint training diverged at a rate of {rate:g}")
    return phi


def with_new_head(model: nn.Module, joint: nn.Module) -> Tensor:
    """Return weights [P] for a model: a jointly trained network's, zeros for its head.

    Args:
        model: as `joint`, but for the number of its answers.
        joint: the head is its last layer.
    """
    body = body_of(model)
    start = F.pad(ravel(joint), (0, len(body)))[: len(body)]
    return start * body


def with_minibatches(
    tasks: Episodes, seed: int, stream: int, steps: int, batch: int | None
) -> Episodes:
    """Cut the support sets of n tasks into minibatches; None takes whole sets."""
    count, size = tasks.support.y.shape[:2]
    who = draws(seed, stream, range(1), range(count), torch.device("cpu"))
    return minibatches(tasks, who, steps, batch and min(batch, size))


def adapted(
    kernel: Kernel,
    phi: Tensor,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    at_once: int = 20,
) -> Tensor:
    """Adapt φ [P] to each of n tasks, some at a time; return weights [n, P].

    Raises:
        UserError: the weights diverged.
    """
    parts = []
    for i in range(0, len(order), at_once):
        some = support.map(lambda t, i=i: t[i : i + at_once])  # type: ignore[misc]
        parts.append(adapt(kernel, phi, some, order[i : i + at_once], inner).theta)
    theta = torch.cat(parts)
    if not theta.isfinite().all():
        raise UserError(f"adaptation diverged at a rate of {inner.lr}")
    return theta
