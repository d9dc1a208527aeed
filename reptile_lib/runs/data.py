"""The data of a run: a set by its name, or a folder or a table of the user's own.

One's own classes are split once. Which class is where stands in the folder of the run,
`split.json`, and is read from there ever after.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reptile_lib.data.sets import SETS, load
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples, Inputs, Splits
from reptile_lib.models.text import encode_words
from reptile_lib.parallel.team import say
from reptile_lib.reading import table
from reptile_lib.reading.folder import picture
from reptile_lib.reading.split import only, split_names
from reptile_lib.reading.texts import Texts
from reptile_lib.runs.settings import Settings
from reptile_lib.storage.files import write_json

SPLIT = "split.json"  # in the folder of a run
TEST_SHARE = 0.2  # of one's own classes, if that is enough for a task


class Split(NamedTuple):
    """What is written down of one's own data."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    mean: tuple[float, ...] = ()
    """Of columns of numbers, over the examples of the training classes."""
    deviation: tuple[float, ...] = ()

    def scaled(self, x: Inputs) -> Inputs:
        """Bring columns of numbers [..., features] to mean 0 and deviation 1."""
        if not self.mean or not isinstance(x, Tensor):
            return x
        return (x - x.new_tensor(self.mean)) / x.new_tensor(self.deviation)


def open_data(settings: Settings, folder: Path, begun: bool) -> tuple[Settings, Splits]:
    """Load the data of a run, split, and the settings that follow from it.

    Args:
        settings: of the run.
        folder: of the run; the split of one's own classes is written there.
        begun: whether the run has begun, so that its split holds.

    Raises:
        UserError: the data cannot be had, or are no classes; or they are too few.
    """
    kind, _, path = settings.data.partition(":")
    if kind not in ("folder", "table"):
        return _named(settings)
    settings, classes = read(settings, Path(path))
    split = read_split(folder) if begun else _shared_out(classes, settings)
    parts = [only(classes, names) for names in split[:3]]
    if settings.kind == "numbers" and not split.mean:
        rows = parts[0].pool
        assert isinstance(rows, Tensor)
        deviation = rows.std(0).nan_to_num(0.0)
        deviation[deviation == 0] = 1.0
        mean = tuple(rows.mean(0).tolist())
        split = split._replace(mean=mean, deviation=tuple(deviation.tolist()))
    if not begun:
        write_json(folder / SPLIT, split._asdict())
    return settings, Splits(*(scaled(part, split) for part in parts))


def read(settings: Settings, path: Path) -> tuple[Settings, Examples]:
    """Read classes as a run does: its own ones, or those of a support set.

    Returns:
        the settings, in which all columns of numbers are named; and the classes.

    Raises:
        UserError: as `reading.folder.read` or `reading.table.classes`.
    """
    if settings.kind == "pictures":
        size, channels = settings.size, settings.channels
        return settings, Examples.from_folder(path, size=size, channels=channels)
    label = settings.label
    if settings.kind == "sentences":
        text, encode = settings.text or "text", encode_words
        found = Examples.from_table(path, label=label, text=text, encode=encode)
        return settings, found
    if not settings.columns:
        rows = table.read(path)
        names = [name for name in rows.numeric() if name != label]
        left = [name for name in rows.header if name not in (*names, label)]
        say(f"columns: {', '.join(names)}; left out: {', '.join(left) or 'none'}")
        if not names:
            raise UserError(
                f"{str(path)!r} has no column of numbers besides {label!r}; if it has"
                " sentences, name their column with --text"
            )
        settings = replace(settings, columns=",".join(names))
    columns = settings.columns.split(",")
    return settings, Examples.from_table(path, label=label, features=columns)


def read_queries(settings: Settings, paths: list[Path]) -> tuple[list[str], Inputs]:
    """Read what is to be answered: pictures, or the rows of tables.

    Returns: a name for each; and x [queries, ...], not scaled.

    Raises:
        UserError: as `reading.folder.picture` or `reading.table.read`.
    """
    if settings.kind == "pictures":
        size, channels = settings.size, settings.channels
        for path in paths:
            if not path.is_file():
                state = "is a folder" if path.exists() else "does not exist"
                raise UserError(f"{str(path)!r} {state}; name files of pictures")
        pictures = [picture(path, size, channels) for path in paths]
        return [str(path) for path in paths], torch.stack(pictures)
    names, found = [], []
    for path in paths:
        rows = table.read(path)
        names += [f"{path}, row {number}" for number, _ in rows.rows]
        if settings.kind == "sentences":
            found.append(encode_words(rows.texts(settings.text or "text")))
        else:
            found.append(rows.numbers(settings.columns.split(",")))
    return names, torch.cat(found)


def scaled(classes: Examples, split: Split) -> Examples:
    """Return classes whose columns of numbers are scaled."""
    if not split.mean or not len(classes):
        return classes
    return Examples([split.scaled(x) for x in classes.by_class()], classes.names)


def read_split(folder: Path) -> Split:
    """Return what was written down in the folder of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / SPLIT
    if not path.exists():
        raise UserError(
            f"{path} is missing, which says what the run was trained on; put it back,"
            " or train anew in another folder"
        )
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Split(**{name: tuple(values) for name, values in kept.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and train anew in another folder"
        ) from error


def _shared_out(classes: Examples, settings: Settings) -> Split:
    """Split one's own classes by their names, so that each part can fill a task."""
    count, ways, val = len(classes), settings.ways, settings.val_classes
    test = max(ways, round(TEST_SHARE * count))
    if count - test - val < ways:
        most = (count - val) // 2
        remedy = f"give --ways {most}, or more classes" if most > 1 else "give more"
        raise UserError(
            f"{settings.data} has {count} classes; tasks of {ways} need {ways} of them"
            f" for training and {ways} others for testing"
            + (f", besides {val} for validation" if val else "")
            + f"; {remedy}"
        )
    names = split_names(
        classes.names, val=val / count, test=test / count, seed=settings.seed
    )
    return Split(*names)


def load_data(settings: Settings) -> Splits:
    """Load a set by its name, split by the run's seed; a UserError says why not."""
    return _named(settings)[1]


def _named(settings: Settings) -> tuple[Settings, Splits]:
    """Load a set by its name."""
    if settings.data == "omniglot":
        chosen = {"seed": settings.seed, "val_classes": settings.val_classes}
        return settings, load("omniglot", **chosen)
    if settings.val_classes:
        raise UserError(
            f"val_classes = {settings.val_classes}: {settings.data} has validation"
            " classes of its own; leave it out"
        )
    if Path(settings.data).exists() and settings.data not in SETS:
        kind = "folder" if Path(settings.data).is_dir() else "table"
        raise UserError(
            f"{settings.data!r} is no data set but a path; write {kind}:{settings.data}"
        )
    found = load(settings.data)
    parts = list(found) if isinstance(found, tuple) else []
    if not parts or not all(isinstance(part, Examples | Texts) for part in parts):
        raise UserError(
            f"{settings.data} is not made of classes; make tasks of it in Python, see"
            " reptile_lib.data and GroupTasks"
        )
    if set(parts[0].names) & set(parts[2].names):
        raise UserError(
            f"the parts of {settings.data} share their classes, and tasks of new ones"
            " cannot be made; choose a set whose parts do not (data list)"
        )
    if isinstance(parts[0], Texts):
        return settings, Splits(*(part.examples(encode_words) for part in parts))
    _, channels, size, _ = parts[0].pool.shape
    return replace(settings, channels=channels, size=size), Splits(*parts)
