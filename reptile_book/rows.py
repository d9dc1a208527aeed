"""The rows of the book's result tables: what each one trains, and for how long."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reptile_lib.errors import UserError
from reptile_lib.runs.settings import Json, Settings, complete

Budget = Literal["full", "short"]

Changes = Mapping[str, Json]
"""Settings that differ from the defaults."""

# Glyphs have no published row to follow; a tenth of Omniglot's training is enough.
ROWS: dict[str, Changes] = {
    "glyphs-5way": {"data": "glyphs", "meta_steps": 10_000},
    "omniglot-5way": {"data": "omniglot"},
    "omniglot-20way": {"data": "omniglot", "ways": 20},
    "sine": {},
}
# Two studies train once more: what becomes of Adam's moments, and of rounded products.
STUDIES: dict[str, Changes] = {
    "reset": {"moments": "reset"},
    "bf16": {"precision": "bf16"},
}
ROWS |= {
    f"{row}-{study}": {**ROWS[row], **changed}
    for row in ("glyphs-5way", "omniglot-5way")
    for study, changed in STUDIES.items()
}
# The rate that the study of page 4.2 chose for a carried memory on validation classes.
ROWS |= {"omniglot-5way-tuned": {"data": "omniglot", "lr": 0.008}}
# Page 5.1: colours, at a tenth of the budget for Mini-ImageNet in the paper; a network
# for a browser, with a rate to choose there; letters that stand upright only.
ROWS |= {
    "cifar-fs-256-5way": {
        "data": "cifar-fs-256",
        "net": "conv4_pool",
        "size": 32,
        "channels": 3,
        "train_shots": 15,
        "inner_steps": 8,
        "meta_steps": 10_000,
        "eval_tasks": 1_000,
    },
    "omniglot-3way": {
        "data": "omniglot",
        "net": "conv4_32",
        "ways": 3,
        "val_classes": 100,
        "lr": 0.004,
        "meta_steps": 10_000,
        "eval_tasks": 1_000,
    },
    "glyphs-5way-upright": {
        **ROWS["glyphs-5way"],
        "turned": "no",
        "eval_tasks": 1_000,
    },
}
TASKS = 10_000  # in evaluation, unless a row says otherwise
SHORT: Changes = {"eval_tasks": 1_000, "meta_steps": 1_000}


@dataclass(frozen=True)
class SineSettings:
    """How the sine row is trained and scored.

    One task a meta-step; the network, the range of tasks and 32 steps on 10 points are
    those of Nichol et al. 2018, section 4; the rest is ours.
    """

    sizes: tuple[int, ...] = (1, 64, 64, 1)
    train_points: int = 50
    inner_steps: int = 10
    inner_batch: int = 10
    lr: float = 0.02
    meta_batch: int = 1
    meta_steps: int = 30_000
    epsilon: float = 1.0
    epsilon_final: float = 0.0
    points: int = 10
    eval_steps: int = 32
    eval_tasks: int = 10_000
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, for JSON."""
        return asdict(self) | {"sizes": list(self.sizes)}


SHOTS = (1, 5)


def _changes(
    row: str, budget: Budget, seed: int, trial: Changes | None
) -> dict[str, Any]:
    if row not in ROWS:
        raise UserError(f"unknown row {row!r}; choose one of {', '.join(ROWS)}")
    short = SHORT if budget == "short" else {}
    return {"eval_tasks": TASKS, **ROWS[row], **short, **(trial or {}), "seed": seed}


def settings(
    row: str, budget: Budget, seed: int, trial: Changes | None = None
) -> Settings:
    """Return the settings of a few-shot row; `trial` changes some, to try it out.

    Raises:
        UserError: there is no such row.
    """
    return complete(_changes(row, budget, seed, trial))


def sine_settings(
    budget: Budget, seed: int, trial: Changes | None = None
) -> SineSettings:
    """Return the settings of the sine row."""
    return SineSettings(**_changes("sine", budget, seed, trial))


def config(
    row: str, budget: Budget, seed: int, trial: Changes | None = None
) -> dict[str, Any]:
    """Return the settings of any row as JSON values.

    Raises:
        UserError: there is no such row.
    """
    if row == "sine":
        return sine_settings(budget, seed, trial).as_dict()
    return settings(row, budget, seed, trial).as_dict()


def row_name(row: str, budget: Budget) -> str:
    """Return the name of a row's folder; a short budget makes a row of its own."""
    return row if budget == "full" else f"{row}-{budget}"
