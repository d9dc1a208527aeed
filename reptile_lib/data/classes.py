"""What every image data set of this library is: classes of examples, in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from reptile_lib.errors import UserError


@dataclass(frozen=True)
class Classes:
    """Examples of a number of classes, as one tensor that fits on the device.

    Attributes:
        images: uint8 [classes, examples, channels, height, width]; 0 is black
            (ink), 255 is white (background).
        names: one name a class.

    Raises:
        UserError: images are of another type or shape, or names not one a class.
    """

    images: torch.Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 5:
            raise UserError(
                f"images are {self.images.dtype} {list(self.images.shape)}; give uint8"
                " [classes, examples, channels, height, width]"
            )
        if len(self.names) != len(self.images):
            raise UserError(
                f"{len(self.names)} names for {len(self.images)} classes; give one a"
                " class"
            )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def rotated(self) -> "Classes":
        """Return four times the classes: each one turned by 0, 90, 180 and 270 degrees.

        A turned character counts as another class, which is how Omniglot's 1200
        training characters become 4800 (Santoro et al. 2016; Nichol et al. 2018,
        section 6.1). Turns are counter-clockwise, the four of a character stand next
        to each other, and "/rot090" is appended to a name.

        Raises:
            UserError: the images are no squares.
        """
        if self.images.shape[-2] != self.images.shape[-1]:
            raise UserError(
                f"images are {list(self.images.shape)}, no squares, and cannot be"
                " turned; pad them"
            )
        turns = [torch.rot90(self.images, k, dims=(-2, -1)) for k in range(4)]
        names = [f"{name}/rot{90 * k:03d}" for name in self.names for k in range(4)]
        return Classes(torch.stack(turns, dim=1).flatten(0, 1), tuple(names))


class Splits(NamedTuple):
    """Three sets of classes that share no class.

    `train` is for meta-training, `val` for choosing settings, `test` for the one
    number that is reported.
    """

    train: Classes
    val: Classes
    test: Classes
