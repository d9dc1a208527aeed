"""Log-mel spectrograms: the filters are the published ones, a tone lights its band."""

import math

import pytest
import torch
from torch import Tensor

from reptile_lib import UserError, conv4
from reptile_lib.models.speech import (
    BANDS,
    FLOOR,
    FRAMES,
    HOP,
    RATE,
    WINDOW,
    log_mel,
    mel_filters,
)


def published_filters(bands: int, frequencies: int, rate: int) -> Tensor:
    """Return what torchaudio's melscale_fbanks documents (HTK, no normalisation)."""
    found = torch.zeros(frequencies, bands)
    most = 2595 * math.log10(1 + rate / 2 / 700)
    points = [
        700 * (10 ** (most * i / (bands + 1) / 2595) - 1) for i in range(bands + 2)
    ]
    for k in range(frequencies):
        f = k * (rate // 2) / (frequencies - 1)
        for j in range(bands):
            left, middle, right = points[j : j + 3]
            down = -(f - right) / (right - middle)
            up = (f - left) / (middle - left)
            found[k, j] = max(0.0, min(down, up))
    return found


@pytest.mark.parametrize(
    ("bands", "window", "rate"), [(32, 256, 8000), (10, 512, 16000)]
)
def test_the_filters_are_the_published_ones(bands: int, window: int, rate: int) -> None:
    expected = published_filters(bands, window // 2 + 1, rate)
    torch.testing.assert_close(mel_filters(bands, window, rate), expected)


def test_too_many_bands_are_refused() -> None:
    with pytest.raises(UserError, match="bands = 128 are too many for windows of 256"):
        mel_filters(128)


@pytest.mark.parametrize("band", [3, 10, 20, 31])
def test_a_tone_lights_the_band_of_its_pitch(band: int) -> None:
    most = 2595 * math.log10(1 + 4000 / 700)
    pitch = 700 * (10 ** (most * (band + 1) / (BANDS + 1) / 2595) - 1)
    time = torch.arange(RATE) / RATE
    (picture,) = log_mel([1000 * (2 * math.pi * pitch * time).sin()])[:, 0]
    assert picture.mean(1).argmax() == band
    assert picture.argmax(0).tolist() == [band] * FRAMES


def test_one_frame_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    wave = torch.randn(WINDOW, generator=g, dtype=torch.float64) * 300
    (picture,) = log_mel([wave], frames=1)
    n = torch.arange(WINDOW, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / WINDOW)
    scaled = hann * wave / wave.square().mean().sqrt()
    k = torch.arange(WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    real, imag = (
        (scaled * turn(2 * math.pi * k * n / WINDOW)).sum(1)
        for turn in (torch.cos, torch.sin)
    )
    energy = (real**2 + imag**2) / WINDOW
    bands = (energy @ published_filters(BANDS, 129, RATE).double() + FLOOR).log()
    expected = (bands - bands.mean()) / bands.std(correction=0)
    torch.testing.assert_close(
        picture[0, :, 0].double(), expected, atol=1e-4, rtol=1e-4
    )


def test_length_and_loudness_do_not_matter_and_the_network_takes_them() -> None:
    g = torch.Generator().manual_seed(1)
    waves = [
        (2000 * torch.randn(n, generator=g)).to(torch.int16) for n in (900, 5216, 9000)
    ]
    pictures = log_mel(waves)
    assert pictures.shape == (3, 1, BANDS, FRAMES)
    assert pictures.dtype == torch.float32
    torch.testing.assert_close(
        pictures.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0
    )
    ones = torch.ones(3)
    torch.testing.assert_close(pictures.var((1, 2, 3), correction=0), ones)
    louder = log_mel([wave.double() * 7 for wave in waves])
    torch.testing.assert_close(louder, pictures, atol=1e-4, rtol=1e-4)
    beginning = log_mel([waves[2][: WINDOW + HOP * (FRAMES - 1)]])
    torch.testing.assert_close(beginning, pictures[2:])
    silent = pictures[0, 0, :, 900 // HOP + 1 :]  # what was filled up
    assert silent.std() < 1e-5
    assert silent.max() < pictures[0, 0].max() - 2
    assert conv4(10, size=BANDS)(pictures).shape == (3, 10)


def test_silence_is_refused() -> None:
    for wave in (torch.zeros(0), torch.zeros(500)):
        with pytest.raises(UserError, match="recording 1 is empty or silent"):
            log_mel([torch.ones(300), wave])
