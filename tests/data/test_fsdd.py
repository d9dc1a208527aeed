"""Spoken digits: a small set of them, and the published one where it is at hand."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_lib import GroupTasks, UserError, load
from reptile_lib.data import fsdd
from reptile_lib.data.fsdd import COMMIT, Recordings
from reptile_lib.reading.arrays import Source
from reptile_lib.reading.parts import Parts
from tests.data.ways import complaint, damaged, from_packed, from_site, small, zipped

PACKED = "fsdd/free-spoken-digit-dataset.zip"
TAKES = [
    (digit, who, take) for digit in (3, 0) for who in fsdd.SPEAKERS for take in (10, 9)
]


def sound(digit: int, who: str, take: int) -> list[int]:
    """Return samples unlike any others; the number of them differs, too."""
    start = 1000 * digit - 100 * fsdd.SPEAKERS.index(who) - take
    return list(range(start, start + 5 + take % 4 + digit))


def wav(samples: Sequence[int], channels: int = 1, rate: int = 8000) -> bytes:
    raw = io.BytesIO()
    with wave.open(raw, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.array(samples, "<i2").tobytes())
    return raw.getvalue()


FILES = {f"recordings/{d}_{who}_{t}.wav": wav(sound(d, who, t)) for d, who, t in TAKES}


def archive(files: dict[str, bytes]) -> bytes:
    """Return the zip file that GitHub makes of a commit."""
    top = f"free-spoken-digit-dataset-{COMMIT}"
    extra = {"README.md": b"# FSDD", "acquire_data/say.wav": b"no recording"}
    return zipped(
        {f"{top}/{name}": content for name, content in {**extra, **files}.items()}
    )


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small(fsdd.SOURCE, {f"{COMMIT}.zip": archive(FILES)}, tmp_path)


def parts(source: Source) -> Parts[Recordings]:
    return fsdd.split(source, ("lucas", "george"), "theo")


def test_both_ways_lead_to_the_same_recordings(source: Source, tmp_path: Path) -> None:
    backwards = dict(reversed(FILES.items()))
    ways = [
        from_site(source, tmp_path, parts),
        from_packed(source, {PACKED: zipped(backwards)}, tmp_path, parts),
    ]
    for found in ways:
        assert found.train.names == ("jackson", "nicolas", "yweweler")
        assert found.val.names == ("theo",)
        assert found.test.names == ("lucas", "george")
        for part in found:
            rows = zip(part.y, part.group, part.take, part.waves, strict=True)
            heard = [
                (int(d), part.names[who], int(t), w.tolist()) for d, who, t, w in rows
            ]
            assert heard == sorted(
                (d, who, t, sound(d, who, t))
                for d, who, t in TAKES
                if who in part.names
            )
            assert all(samples.dtype == torch.int16 for samples in part.waves)


def test_features_of_recordings_make_tasks(source: Source, tmp_path: Path) -> None:
    part = from_site(source, tmp_path, parts).train
    x = torch.stack([samples[:3] for samples in part.waves]).float()
    episodes = GroupTasks(x, part.y, part.group, shots=2, query_shots=2).draw(20)
    for features, digits in zip(episodes.support.x, episodes.support.y, strict=True):
        starts = features[:, 0]
        who = {
            round(float(s - 1000 * d)) // -100
            for s, d in zip(starts, digits, strict=True)
        }
        assert len(who) == 1  # of one speaker, and labels go with their recordings


def test_nobody_need_be_set_aside(source: Source, tmp_path: Path) -> None:
    found = from_site(source, tmp_path, lambda some: fsdd.split(some, (), ()))
    assert found.train.names == fsdd.SPEAKERS
    assert [len(part.waves) for part in found] == [24, 0, 0]
    assert found.test.y.dtype == found.test.group.dtype == torch.int64


@pytest.mark.parametrize(
    ("test", "val"),
    [
        ("nobody", "theo"),
        ("theo", "theo"),
        (("lucas", "lucas"), ()),
        (fsdd.SPEAKERS, ()),
    ],
)
def test_speakers_are_known_and_set_aside_once(
    test: Sequence[str], val: Sequence[str]
) -> None:
    with pytest.raises(UserError, match=r"choose from george, jackson, .* each once"):
        load("fsdd", test=test, val=val)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, how: str) -> None:
    content = damaged(zipped(FILES))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (wav(range(8))[:-3], "3_theo_9.wav is cut, or not mono"),
        (wav(range(8), channels=2), "3_theo_9.wav is cut, or not mono"),
        (wav(range(8), rate=44_100), "3_theo_9.wav is cut, or not mono"),
        (b"RIFF", "damaged"),
        (b"ID3" + bytes(99), "3_theo_9.wav: file does not start with RIFF"),
    ],
)
def test_a_recording_of_another_kind_is_named(
    source: Source, tmp_path: Path, content: bytes, told: str
) -> None:
    files = {**FILES, "recordings/3_theo_9.wav": content}
    assert told in complaint(source, {PACKED: zipped(files)}, tmp_path)


def test_an_unknown_speaker_is_noticed(source: Source, tmp_path: Path) -> None:
    files = {**FILES, "recordings/3_nobody_9.wav": wav(range(8))}
    assert "is damaged" in complaint(source, {PACKED: zipped(files)}, tmp_path)


@pytest.mark.needs_data("fsdd")
@pytest.mark.usefixtures("cache")
def test_the_published_recordings() -> None:
    found = load("fsdd")
    assert [part.names for part in found] == [
        ("george", "jackson", "lucas", "nicolas"),
        ("yweweler",),
        ("theo",),
    ]
    assert [len(part.waves) for part in found] == [2000, 500, 500]
    lengths = [len(samples) for part in found for samples in part.waves]
    assert (sum(lengths), min(lengths), max(lengths)) == (10_498_424, 1148, 18_262)
    for part in found:
        which = torch.stack([part.y, part.group, part.take], 1)
        assert len(torch.unique(which, dim=0)) == len(which)
        assert torch.bincount(part.y).tolist() == [50 * len(part.names)] * 10
        assert (part.take < 5).sum() == 50 * len(part.names)
