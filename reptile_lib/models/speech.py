"""Spoken words as pictures: log-mel spectrograms, for a network such as Conv4."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reptile_lib.errors import UserError

RATE = 8000
"""Samples per second."""
WINDOW, HOP = 256, 160
"""Samples per frame, 32 ms, and from one frame to the next, 20 ms."""
BANDS, FRAMES = 32, 32
FLOOR = 1e-3
"""Added to energies of recordings with a mean square of 1: what is below is silence."""


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Return mel(f) = 2595 lg(1 + f / 700), the formula of HTK and torchaudio.

    O'Shaughnessy 1987, Speech Communication, p. 150.
    """
    return 2595.0 * (1.0 + hertz / 700.0).log10()


def mel_to_hertz(mel: Tensor) -> Tensor:
    """Undo `hertz_to_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_filters(bands: int = BANDS, window: int = WINDOW, rate: int = RATE) -> Tensor:
    """Return the triangles that gather frequencies into bands, [window/2 + 1, bands].

    Their corners stand at equal distances in mel, from 0 to half of `rate`: band j
    rises from corner j to j + 1, where it is 1, and falls to zero at corner j + 2.

    Args:
        bands: how many triangles.
        window: samples per frame; frequencies are multiples of rate / window.
        rate: samples per second.

    Raises:
        UserError: a triangle is so narrow that no frequency falls into it.
    """
    top = hertz_to_mel(torch.tensor(rate / 2, dtype=torch.float64))
    corners = mel_to_hertz(
        torch.linspace(0, top.item(), bands + 2, dtype=torch.float64)
    )
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    f = torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * (rate / window)
    rising, falling = (f - low) / (peak - low), (high - f) / (high - peak)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if (filters.sum(0) == 0).any():
        raise UserError(
            f"bands = {bands} are too many for windows of {window} samples: one holds"
            " no frequency; ask for fewer, or take longer windows"
        )
    return filters.float()


def log_mel(
    waves: Sequence[Tensor], *, bands: int = BANDS, frames: int = FRAMES
) -> Tensor:
    """Return a picture of each recording: loudness by pitch and time.

    A recording is cut to `frames` frames of 32 ms, one every 20 ms from its beginning,
    scaled to a mean square of 1, so that it does not matter how near the microphone
    was, and filled up with silence. A frame's energies at 129 frequencies are gathered
    into bands (`mel_filters`); the picture is their logarithm, less its mean and over
    its standard deviation.

    Args:
        waves: n recordings [samples], 8,000 samples per second, in any unit.
        bands: height of the pictures, low pitch first.
        frames: width of the pictures.

    Returns:
        float32 [n, 1, bands, frames], each with mean 0 and variance 1.

    Raises:
        UserError: a recording is empty, or silent throughout.
    """
    length = WINDOW + HOP * (frames - 1)
    cut = []
    for i, wave in enumerate(waves):
        sound = wave.float()[:length]
        power = sound.square().mean() if len(sound) else torch.zeros(())
        if not power > 0:
            raise UserError(f"recording {i} is empty or silent; leave it out")
        cut.append(F.pad(sound / power.sqrt(), (0, length - len(sound))))
    spectra = torch.stft(
        torch.stack(cut),
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW),
        center=False,
        return_complex=True,
    )  # [n, 129, frames]
    energies = spectra.abs().square() / WINDOW
    pictures = (mel_filters(bands).T @ energies + FLOOR).log()
    flat = pictures.flatten(1)
    mean, std = flat.mean(1, keepdim=True), flat.std(1, keepdim=True, correction=0)
    return ((flat - mean) / std).view(len(waves), 1, bands, frames)
