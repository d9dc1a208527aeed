"""All that the GPU kit takes from inside the library; the rest is its public interface.

What moves in the library is followed here.
"""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reptile_lib import Classes, FewShotTasks, MetaLearner, Splits, rows, runs
from reptile_lib.evaluate import Evaluation
from reptile_lib.machine import peak_memory_mb
from reptile_lib.params import layout
from reptile_lib.results import circumstances
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import Episodes
from reptile_lib.together import fit_together

__all__ = [
    "SHOTS",
    "Config",
    "build",
    "circumstances",
    "fit_together",
    "has_omniglot",
    "load_data",
    "load_learners",
    "parameters",
    "peak_memory_mb",
    "sample",
    "save_learners",
    "score",
    "settings",
    "training_classes",
]

Config = dict[str, Any]
"""Settings of a run by name."""

SHOTS = rows.SHOTS


def settings(row: str, **changed: Any) -> Config:
    """Return the settings of a row of the book's tables, at full length."""
    return rows.settings(row, "full") | changed


def build(config: Config, device: torch.device) -> MetaLearner:
    """Return the untrained learner of a run."""
    return runs.build(config, str(device))


def load_data(config: Config) -> Splits:
    """Return the data of a run, split by its seed."""
    return runs.load_data(config)


def has_omniglot() -> bool:
    """Say whether Omniglot can be loaded without a network."""
    data = Path(os.environ.get("REPTILE_DATA") or os.devnull, "omniglot")
    cache = os.environ.get("REPTILE_CACHE") or Path.home() / ".cache" / "reptile_lib"
    return Path(cache, "omniglot.npz").is_file() or data.is_dir()


def training_classes(data: Splits) -> Classes:
    """Return the classes that a run trains on: each character in four turns."""
    return data.train.rotated()


def score(
    learner: MetaLearner, config: Config, classes: Classes, shots: int, tasks: int
) -> Evaluation:
    """Evaluate a learner on new classes under the settings of its run."""
    few_shot = FewShotTasks(classes, config["ways"], shots)
    return runs.score(learner, config | {"eval_tasks": tasks}, few_shot)


def save_learners(
    path: Path, folder: str, learners: Sequence[MetaLearner], config: Config
) -> None:
    """Put a checkpoint a learner into a zip file, beside those of other folders.

    The file is there whole or not at all. Its entries, `FOLDER/seed-N.safetensors`, are
    named as in results/.

    Args:
        path: of the zip file.
        folder: the row.
        learners: one a seed, from 0 on.
        config: settings of the run; the seed is added.
    """
    kept: dict[str, bytes] = {}
    if path.exists():
        with zipfile.ZipFile(path) as old:
            kept = {name: old.read(name) for name in old.namelist()}
    with tempfile.TemporaryDirectory() as place:
        for seed, learner in enumerate(learners):
            one = Path(place, "one.safetensors")
            learner.save(one, config | {"seed": seed})
            kept[_entry(folder, seed)] = one.read_bytes()
    temporary = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(temporary, "w") as new:
        for name, content in kept.items():
            new.writestr(name, content)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_learners(
    path: Path, folder: str, learners: Sequence[MetaLearner], config: Config
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
            runs.check_same(config | {"seed": seed}, runs.settings(one))
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
    found: Episodes = tasks.to(device).sample(who, 5, 10)
    return found
