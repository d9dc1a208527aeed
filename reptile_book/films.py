"""The book's animated pictures: frames on paper of their own, written as small GIFs."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

SIZE = (6.4, 4.6)  # inches, at 100 dots per inch
INK, FAINT, PAPER = "#222222", "#9A9A9A", "#FFFFFF"

Frame = tuple[Image.Image, int]
"""A picture and for how many milliseconds it stands."""


def paper(size: tuple[float, float] = SIZE) -> Figure:
    """Return an empty figure on white, which reads on any ground."""
    plt.rcParams.update(
        {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
    )
    return plt.figure(figsize=size, dpi=100, facecolor=PAPER)


def drawn(figure: Figure) -> Image.Image:
    """Return the figure as a picture; its canvas must be Agg's."""
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]


def quantized(
    images: Sequence[Image.Image], sample: Sequence[Image.Image], colours: int
) -> list[Image.Image]:
    """Give all images the same few colours, so that they do not flicker.

    Args:
        images: of one size.
        sample: the images that the colours are chosen for.
        colours: how many.
    """
    width, height = sample[0].size
    mosaic = Image.new("RGB", (width, height * len(sample)))
    for i, image in enumerate(sample):
        mosaic.paste(image, (0, height * i))
    palette = mosaic.quantize(colours)
    values = palette.getpalette() or []
    palette.putpalette([255 if value > 248 else value for value in values])  # paper
    return [i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images]


def save(
    path: Path,
    frames: Sequence[Frame],
    still: Image.Image,
    keys: list[int],
    colours: int,
) -> None:
    """Write a looping GIF, and beside it a PNG for readers whose pictures rest.

    Args:
        path: of the GIF; the PNG has the same name.
        frames: the film.
        still: one picture that tells it.
        keys: numbers of the frames that the colours are chosen for.
        colours: how many.
    """
    images = [image for image, _ in frames]
    images = quantized(images, [images[key] for key in keys], colours)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=[milliseconds for _, milliseconds in frames],
        loop=0,
        optimize=True,
    )
    (picture,) = quantized([still], [still], colours)
    picture.save(path.with_suffix(".png"), optimize=True)
