"""All that the GPU kit takes from inside the library; the rest is its public interface.

What moves in the library is followed here.
"""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reptile_book import rows
from reptile_book.records import circumstances, peak_memory_mb
from reptile_lib import Evaluation, Examples, FewShotTasks, MetaLearner
from reptile_lib.data import omniglot
from reptile_lib.fit.side_by_side import fit_side_by_side
from reptile_lib.params import layout
from reptile_lib.reading.arrays import at_hand
from reptile_lib.rng import TRAIN, draws
from reptile_lib.runs import run
from reptile_lib.runs.data import load_data
from reptile_lib.runs.settings import Settings
from reptile_lib.tasks import Episodes, minibatches

__all__ = [
    "SHOTS",
    "Settings",
    "build",
    "circumstances",
    "fit_side_by_side",
    "has_omniglot",
    "load_data",
    "load_learners",
    "parameters",
    "peak_memory_mb",
    "sample",
    "save_learners",
    "score",
    "settings",
    "without_seed",
]

SHOTS = rows.SHOTS


def settings(row: str, **changed: Any) -> Settings:
    """Return the settings of a row of the book's tables, at full length, for seed 0."""
    return replace(rows.settings(row, "full", seed=0), **changed)


def without_seed(config: Settings) -> dict[str, Any]:
    """Return what the seeds of a row have in common, as JSON values."""
    return {name: v for name, v in config.as_dict().items() if name != "seed"}


def build(config: Settings, device: torch.device) -> MetaLearner:
    """Return the untrained learner of a run."""
    return run.build(config, str(device))


def has_omniglot() -> bool:
    """Say whether Omniglot can be loaded without a network."""
    return at_hand(omniglot.SOURCE)


def score(
    learner: MetaLearner, config: Settings, classes: Examples, shots: int, tasks: int
) -> Evaluation:
    """Evaluate a learner on new classes under the settings of its run."""
    few_shot = FewShotTasks(classes, config.ways, shots)
    return run.score(learner, replace(config, eval_tasks=tasks), few_shot)


def save_learners(
    path: Path, folder: str, learners: Sequence[MetaLearner], config: Settings
) -> None:
    """Put a checkpoint per learner into a zip file, beside those of other folders.

    The file is there whole or not at all. Its entries, `FOLDER/seed-N.safetensors`, are
    named as in results/.

    Args:
        path: of the zip file.
        folder: the row.
        learners: one per seed, from 0 on.
        config: settings of the run, but for the seed.
    """
    kept: dict[str, bytes] = {}
    if path.exists():
        with zipfile.ZipFile(path) as old:
            kept = {name: old.read(name) for name in old.namelist()}
    with tempfile.TemporaryDirectory() as place:
        for seed, learner in enumerate(learners):
            one = Path(place, "one.safetensors")
            learner.save(one, replace(config, seed=seed).as_dict())
            kept[_entry(folder, seed)] = one.read_bytes()
    temporary = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(temporary, "w") as new:
        for name, content in kept.items():
            new.writestr(name, content)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_learners(
    path: Path, folder: str, learners: Sequence[MetaLearner], config: Settings
) -> bool:
    """Bring learners to where `save_learners` left them, if it did.

    Returns:
        whether there are such checkpoints.

    Raises:
        UserError: they are damaged, or of a run with other settings.
    """
    if not path.exists():
        return False
    with zipfile.ZipFile(path) as file, tempfile.TemporaryDirectory() as place:
        names = [_entry(folder, seed) for seed in range(len(learners))]
        if not set(names) <= set(file.namelist()):
            return False
        for seed, learner in enumerate(learners):
            # A file each: what is restored may still be mapped to it.
            one = Path(place, f"{seed}.safetensors")
            one.write_bytes(file.read(names[seed]))
            replace(config, seed=seed).check_same(run.settings_of(one))
            learner.restore(one)
    return True


def _entry(folder: str, seed: int) -> str:
    return f"{folder}/seed-{seed}.safetensors"


def parameters(model: torch.nn.Module, phi: Tensor) -> dict[str, Tensor]:
    """Return the parts of φ [P] by the names of the model's parameters."""
    where = layout(model)
    return dict(zip(where.names, phi.split(where.sizes), strict=True))


def sample(tasks: Any, count: int, device: torch.device) -> Episodes:
    """Return the first tasks of a run of seed 0, as training draws them on a device."""
    who = draws(0, TRAIN, range(1), range(count), device)
    return minibatches(tasks.to(device).sample(who), who, 5, 10)
