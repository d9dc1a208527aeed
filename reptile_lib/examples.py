"""What every data set of this library is: classes of examples, in memory."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.reading import folder, table

Inputs = Tensor | tuple[Tensor, ...]
"""What a model takes: a tensor, or a tuple of tensors, an argument each."""


def each(act: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply `act` to the tensor, or to each of a tuple."""
    return tuple(map(act, inputs)) if isinstance(inputs, tuple) else act(inputs)


def scaled(inputs: Inputs) -> Inputs:
    """Scale pixels (uint8) to [0, 1] in the default type; leave all else as it is."""

    def one(x: Tensor) -> Tensor:
        pixels = x.dtype == torch.uint8
        return x.to(torch.get_default_dtype()).div_(255) if pixels else x

    return each(one, inputs)


@dataclass(frozen=True)
class Examples:
    """Examples of a number of classes, as one tensor that fits on the device.

    Args:
        values: for each class its examples: a tensor [classes, examples, ...], or a
            list of tensors [examples, ...] where classes differ in number, or a list of
            tuples of tensors where a model takes several.

    Attributes:
        names: one name a class.
        to_input: makes what the model takes of gathered values. By default pixels
            (uint8) are scaled to [0, 1], and all else is given as it is.
        pool: all values, class after class: [all examples, ...].
        counts: examples of each class.

    Raises:
        UserError: a class is empty, names are not one a class, or the classes' examples
            do not go together.
    """

    values: InitVar[Tensor | Sequence[Inputs]]
    names: tuple[str, ...]
    to_input: Callable[[Inputs], Inputs] = scaled
    pool: Inputs = field(init=False)
    counts: tuple[int, ...] = field(init=False)

    def __post_init__(self, values: Tensor | Sequence[Inputs]) -> None:
        if not isinstance(values, Tensor | list | tuple):
            raise UserError(
                f"examples are a {type(values).__name__}; give a tensor [classes,"
                " examples, ...], such as torch.from_numpy(array), or a list of tensors"
            )
        if len(self.names) != len(values):
            raise UserError(
                f"{len(self.names)} names for {len(values)} classes; give one a class"
            )
        parts = [x if isinstance(x, tuple) else (x,) for x in values]
        try:
            counts = [{len(kind) for kind in part} for part in parts]
            kinds = tuple(torch.cat(kind) for kind in zip(*parts, strict=True))
            if not parts:  # such as an empty split: it has a shape all the same
                kinds = (torch.as_tensor(values).flatten(0, 1),)
        except (TypeError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"the classes' examples do not go together ({error}); give tensors"
                " [examples, ...] of one type and shape"
            ) from error
        for name, count in zip(self.names, counts, strict=True):
            if len(count) != 1 or 0 in count:
                raise UserError(
                    f"class {name!r} has {sorted(count)} examples; give at least one,"
                    " and as many of each kind"
                )
        several = bool(len(values)) and isinstance(values[0], tuple)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "pool", kinds if several else kinds[0])
        object.__setattr__(self, "counts", tuple(count.pop() for count in counts))

    @staticmethod
    def from_folder(
        path: str | Path,
        *,
        size: int = 28,
        channels: int = 1,
        transform: folder.Transform | None = None,
    ) -> "Examples":
        """Return pictures, a class per subfolder: `reading.folder.read`."""
        return Examples(*folder.read(path, size, channels, transform))

    @staticmethod
    def from_table(
        path: str | Path,
        *,
        label: str,
        text: str | None = None,
        features: Sequence[str] = (),
        encode: table.Encode | None = None,
    ) -> "Examples":
        """Return the rows of a CSV file, by label: `reading.table.classes`."""
        return Examples(*table.classes(path, label, text, features, encode))

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def by_class(self) -> list[Inputs]:
        """Return the values of each class, [examples, ...]."""
        sizes = list(self.counts)
        if isinstance(self.pool, Tensor):
            return list(torch.split(self.pool, sizes))
        return list(zip(*(torch.split(x, sizes) for x in self.pool), strict=True))

    def to(self, device: torch.device) -> "Examples":
        """Return the examples on `device`."""
        moved = copy(self)
        object.__setattr__(moved, "pool", each(lambda x: x.to(device), self.pool))
        return moved

    def rotated(self) -> "Examples":
        """Return four times the classes: each one turned by 0, 90, 180 and 270 degrees.

        A turned character counts as another class, which is how Omniglot's 1200
        training characters become 4800 (Santoro et al. 2016; Nichol et al. 2018,
        section 6.1). Turns are counter-clockwise, the four of a character stand next
        to each other, and "/rot090" is appended to a name.

        Raises:
            UserError: the examples are no square images [..., height, width].
        """
        shape = self.pool.shape if isinstance(self.pool, Tensor) else torch.Size()
        if len(shape) < 3 or shape[-2] != shape[-1]:
            raise UserError(
                f"images are {list(shape)}, no squares, and cannot be turned; pad them"
            )
        turned = [
            each(lambda x, k=k: torch.rot90(x, k, dims=(-2, -1)), images)  # type: ignore[misc]
            for images in self.by_class()
            for k in range(4)
        ]
        names = tuple(
            f"{name}/rot{90 * k:03d}" for name in self.names for k in range(4)
        )
        return Examples(turned, names, self.to_input)


class Splits(NamedTuple):
    """Three sets of classes that share no class.

    `train` is for meta-training, `val` for choosing settings, `test` for the one
    number that is reported.
    """

    train: Examples
    val: Examples
    test: Examples
