"""Spoken digits: 0 to 9, said fifty times by each of six people (FSDD)."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.reading.archive import members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, site
from reptile_lib.reading.parts import About, Parts

ABOUT = About(
    "3,000 recordings of the ten digits, 22 minutes; whole speakers of six set aside",
    "CC BY-SA 4.0",
    "Jackson, Souza, Flaks, Pan, Nicolas, Thite 2018, doi:10.5281/zenodo.1342401",
    "https://github.com/Jakobovski/free-spoken-digit-dataset",
)
COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
Who = str | Sequence[str]
RATE = 8000  # samples per second


class Recordings(NamedTuple):
    """Recordings of some speakers.

    Make features x [recordings, ...] of `waves`; then a task is a speaker, and a digit
    means the same in each: ``GroupTasks(x, part.y, part.group, shots=10)``.
    """

    waves: tuple[Tensor, ...]
    """int16 [samples] each, of unequal lengths, 8,000 samples per second."""
    y: Tensor
    """int64 [recordings], the digits."""
    group: Tensor
    """int64 [recordings], the speakers: an index of `names`."""
    names: tuple[str, ...]
    """One per speaker."""
    take: Tensor
    """int64 [recordings], 0 to 49; 0 to 4 are the set's own test recordings."""


def load(test: Who = "theo", val: Who = "yweweler") -> Parts[Recordings]:
    """Return the recordings in three parts, each by digit, speaker and take.

    Args:
        test: who is set aside for testing: one or several of `SPEAKERS`.
        val: who is set aside for validation; ``()`` for nobody.

    Raises:
        UserError: a speaker is unknown or comes twice, or nobody is left to train; or
            the data cannot be had (`arrays.arrays_of`).
    """
    return split(SOURCE, test, val)


def split(source: Source, test: Who, val: Who) -> Parts[Recordings]:
    """Do what `load` does, with the recordings of any source."""
    val, test = ((who,) if isinstance(who, str) else tuple(who) for who in (val, test))
    aside = (*val, *test)
    train = tuple(name for name in SPEAKERS if name not in aside)
    if len(train) + len(aside) != len(SPEAKERS) or not train:
        raise UserError(
            f"val = {val}, test = {test}: choose from {', '.join(SPEAKERS)}, each once"
            " at most, and leave some to train"
        )
    arrays = arrays_of(source)
    lengths = np.diff(arrays["ends"], prepend=0).tolist()
    waves = torch.split(torch.from_numpy(arrays["samples"]), lengths)
    digit, speaker, take = torch.from_numpy(arrays["which"]).T

    def part(names: tuple[str, ...]) -> Recordings:
        place = torch.tensor([(*names, name).index(name) for name in SPEAKERS])
        rows = (place[speaker] < len(names)).nonzero()[:, 0]
        some = tuple(waves[row] for row in rows)
        return Recordings(some, digit[rows], place[speaker[rows]], names, take[rows])

    return Parts(part(train), part(val), part(test))


def read(paths: Paths) -> Arrays:
    """Return all recordings in a zip file, and (digit, speaker, take) of each."""
    found = {}
    for name, content in members(paths[0], r"(.+/)?recordings/\w+\.wav", 100_000_000):
        digit, speaker, take = Path(name).stem.split("_")
        try:
            with wave.open(io.BytesIO(content)) as file:
                kind, sound = file.getparams(), file.readframes(file.getnframes())
        except wave.Error as error:
            raise ValueError(f"{name}: {error}") from error
        if kind[:3] != (1, 2, RATE) or len(sound) != 2 * kind.nframes:
            raise ValueError(f"{name} is cut, or not mono, 16 bits, 8 kHz")
        which = int(digit), SPEAKERS.index(speaker), int(take)
        found[which] = np.frombuffer(sound, "<i2").astype(np.int16)
    samples = [found[which] for which in sorted(found)]
    return {
        "samples": np.concatenate(samples),
        "ends": np.cumsum([len(sound) for sound in samples], dtype=np.int64),
        "which": np.array(sorted(found), np.int64),
    }


SOURCE = Source(
    "fsdd",
    "a1649d6a70ec7585a647b7e51a4bfa13876cbb2536965c72bb577543c3d107f9",
    # made by GitHub when asked: what is in it stays, its own bytes may not
    site(f"{ABOUT.source}/archive", 40_000_000, {f"{COMMIT}.zip": ""}),
    read,
    ("fsdd/free-spoken-digit-dataset.zip",),
)
