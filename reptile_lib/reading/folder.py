"""Pictures of one's own: a folder with a subfolder per class."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from reptile_lib.errors import UserError

Transform = Callable[[Image.Image], Tensor]
"""Makes a tensor of a picture, such as torchvision's `Compose([..., ToTensor()])`."""

SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}


def read(
    path: str | Path,
    size: int = 28,
    channels: int = 1,
    transform: Transform | None = None,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the pictures of each class, and the classes' names.

    A class is a direct subfolder of `path`, with its name; its pictures are the files
    in it. Both stand in the order of their names. Hidden files and those that systems
    leave behind (Thumbs.db, desktop.ini) are passed over.

    Args:
        path: the folder.
        size: pixels per side.
        channels: 1 for shades of grey, 3 for colours.
        transform: makes the tensor in place of `picture`'s last step, once per picture.
            `size` is then of no account.

    Returns:
        for each class uint8 [pictures, channels, size, size], or what `transform` makes
        of its pictures, stacked; and the names.

    Raises:
        UserError: no such folder, no classes in it, or a class without pictures; a file
            that is no sound picture; a folder within a class; results of `transform`
            that are no tensors of one type and shape.
    """
    found = files(path)
    values = []
    first, like = "", ""
    for members in found.values():
        tensors = [picture(file, size, channels, transform) for file in members]
        for file, tensor in zip(members, tensors, strict=True):
            kind = f"{tensor.dtype} {list(tensor.shape)}"
            first, like = (first, like) if first else (str(file), kind)
            if kind != like:
                raise UserError(
                    f"transform makes {kind} of {str(file)!r}, but {like} of {first!r};"
                    " let it end in one shape, such as with Resize((28, 28))"
                )
        values.append(torch.stack(tensors))
    return values, tuple(found)


def files(path: str | Path) -> dict[str, list[Path]]:
    """Return the files of each class, by its name; `read` says which and what fails."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir():
            state = "is a file" if root.exists() else "does not exist"
            raise UserError(
                f"{str(root)!r} {state}; give a folder with a subfolder per class"
            )
        inside = _visible(root)
        found = {p.name: _visible(p) for p in inside if p.is_dir()}
        if not found:
            raise UserError(
                f"{str(root)!r} has no subfolders; put the pictures of each class into"
                " one of its own"
            )
        known = Image.registered_extensions()  # some can be written only, such as PDF
        for file in inside:
            if file.name not in found and known.get(file.suffix.lower()) in Image.OPEN:
                raise UserError(
                    f"{str(file)!r} lies beside the classes; move it into one of them"
                )
        for name, members in found.items():
            if not members:
                raise UserError(
                    f"class {str(root / name)!r} has no pictures; add some or delete it"
                )
            for file in members:
                if file.is_dir():
                    raise UserError(
                        f"{str(file)!r} is a folder within a class; move its pictures"
                        f" up into the class, or give the folder {str(file.parent)!r}"
                    )
                if not file.is_file():
                    raise UserError(
                        f"{str(file)!r} is no file (a broken link?); delete it"
                    )
    except OSError as error:
        raise UserError(
            f"{str(root)!r} cannot be read ({error.strerror}); give a folder that can"
        ) from error
    return found


def _visible(folder: Path) -> list[Path]:
    """Return what a user put into a folder, in the order of the names."""
    names = sorted(path.name for path in folder.iterdir())
    hidden = (name.startswith(".") or name.lower() in SYSTEM for name in names)
    return [folder / n for n, hide in zip(names, hidden, strict=True) if not hide]


def picture(
    file: Path, size: int = 28, channels: int = 1, transform: Transform | None = None
) -> Tensor:
    """Return one picture, of any size and any format that Pillow reads.

    It is turned as its EXIF says; of several frames it is the first; 16 bits become 8;
    transparent parts become white. Then it is scaled (antialiased) until it fits into
    the square: nothing is cut off or distorted, and what it leaves free is white. To
    crop instead, give a `transform`.

    Args:
        file: where it is.
        size: pixels per side.
        channels: 1 for shades of grey, 3 for colours.
        transform: gets the upright picture, mode "L" or "RGB", in its own size.

    Returns:
        uint8 [channels, size, size], or what `transform` makes of it.

    Raises:
        UserError: the file is no sound picture of at most `Image.MAX_IMAGE_PIXELS`,
            `transform` makes no tensor, or a number is out of range.
    """
    if size < 1 or channels not in (1, 3):
        raise UserError(
            f"size = {size}, channels = {channels}; give a size of at least 1, and 1"
            " channel (grey) or 3 (colours)"
        )
    mode = "L" if channels == 1 else "RGB"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities that do no harm
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                if not transform:  # a large JPEG is decoded at a fraction of its size
                    opened.draft(mode, (4 * size, 4 * size))
                image = _on_white(_eight_bits(ImageOps.exif_transpose(opened)), mode)
    except Exception as error:  # decoders raise of every kind on what is broken
        unknown = isinstance(error, UnidentifiedImageError)
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{str(file)!r} cannot be read as a picture"
            f" ({'unknown format' if unknown else text}); replace it or move it away"
        ) from error
    if transform:
        made = transform(image)
        if not isinstance(made, Tensor):
            raise UserError(
                f"transform makes a {type(made).__name__} of {str(file)!r}; let it end"
                " in a tensor, such as with torchvision.transforms.ToTensor()"
            )
        return made.as_subclass(Tensor)
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    square = Image.new(mode, (size, size), "white")
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    pixels = torch.from_numpy(np.array(square)).view(size, size, channels)
    return pixels.permute(2, 0, 1).contiguous()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of more bits with 8, white staying white; others as they are."""
    if image.mode[0] not in "IF":
        return image
    values = np.array(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("pixels of 32 bits, not 8 or 16")
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = 0xFFFF
    return Image.fromarray((values >> 8).astype(np.uint8))


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode without transparency, laid on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
