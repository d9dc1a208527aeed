"""The rows of the book's result tables: what each one trains, and for how long."""

from typing import Literal

from reptile_lib import runs
from reptile_lib.errors import UserError

Budget = Literal["full", "short"]

# Glyphs have no published row to follow; a tenth of Omniglot's training is enough.
ROWS: dict[str, runs.Config] = {
    "glyphs-5way": {"data": "glyphs", "meta_steps": 10_000},
    "omniglot-5way": {"data": "omniglot"},
    "omniglot-20way": {"data": "omniglot", "ways": 20},
    "sine": {},
}
# Two studies train once more: what becomes of Adam's moments, and of rounded products.
STUDIES: dict[str, runs.Config] = {
    "reset": {"moments": "reset"},
    "bf16": {"precision": "bf16"},
}
ROWS |= {
    f"{row}-{study}": ROWS[row] | changed
    for row in ("glyphs-5way", "omniglot-5way")
    for study, changed in STUDIES.items()
}
BUDGETS: dict[Budget, runs.Config] = {
    "full": {"eval_tasks": 10_000},
    "short": {"eval_tasks": 1_000, "meta_steps": 1_000},
}
# One task a meta-step; the network, the range of tasks and 32 steps on 10 points are
# those of Nichol et al. 2018, section 4.1; the rest is ours.
SINE: runs.Config = {
    "sizes": [1, 64, 64, 1],
    "train_points": 50,
    "inner_steps": 10,
    "inner_batch": 10,
    "lr": 0.02,
    "meta_batch": 1,
    "meta_steps": 30_000,
    "epsilon": 1.0,
    "epsilon_final": 0.0,
    "points": 10,
    "eval_steps": 32,
}
SHOTS = (1, 5)


def settings(row: str, budget: Budget) -> runs.Config:
    """Return the settings of a row, without a seed.

    Raises:
        UserError: there is no such row.
    """
    if row not in ROWS:
        raise UserError(f"unknown row {row!r}; choose one of {', '.join(ROWS)}")
    given = ROWS[row] | BUDGETS[budget]
    return SINE | given if row == "sine" else runs.complete(given)


def row_name(row: str, budget: Budget) -> str:
    """Return the name of a row's folder; a short budget makes a row of its own."""
    return row if budget == "full" else f"{row}-{budget}"
