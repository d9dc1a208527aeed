"""GTSRB: small archives and sheets, and the real photographs where they are at hand."""

import io
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import gtsrb as torchvision_gtsrb

from reptile_lib import FewShotTasks, Splits, UserError, load
from reptile_lib.data import gtsrb
from reptile_lib.reading.arrays import Source, arrays_of, fingerprint
from tests.data import tiles
from tests.data.ways import complaint, damaged, from_packed, from_site, small, zipped
from tests.kit import one

TRAINING, TESTING, TRUTH = gtsrb.FILES
SEEN = [  # of each class two signs, of the last class a frame less
    (k, sign, frame)
    for k in range(43)
    for sign in (0, 3)
    for frame in (3, 4, 24, 29)[: 3 if k == 42 else 4]
]
NUMBERS = range(86)


def label(number: int) -> int:
    return 5 * number % 43


def made(height: int, width: int, seed: int = 0) -> tiles.Pixels:
    """Return a picture [height, width, 3] whose values have no pattern."""
    numbers = np.arange(height * width * 3, dtype=np.int64) + seed
    return (numbers**2 * 7919 % 251).astype(np.uint8).reshape(height, width, 3)


def photograph(*key: int) -> tiles.Pixels:
    """Return a picture of a size of its own."""
    seed = sum(31**i * k for i, k in enumerate(key))
    return made(20 + seed % 40, 25 + seed % 33, seed)


def ppm(picture: tiles.Pixels) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(picture).save(raw, "PPM")
    return raw.getvalue()


@cache
def official() -> dict[str, bytes]:
    train = {
        f"GTSRB/Final_Training/Images/{k:05d}/{sign:05d}_{frame:05d}.ppm": ppm(
            photograph(k, sign, frame)
        )
        for k, sign, frame in reversed(SEEN)
    }
    train["GTSRB/Final_Training/Images/00000/GT-00000.csv"] = b"Filename;Width"
    test = {f"GTSRB/Final_Test/Images/{n:05d}.ppm": ppm(photograph(n)) for n in NUMBERS}
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    lines += [f"{n:05d}.ppm;53;54;6;5;48;49;{label(n)}" for n in NUMBERS]
    truth = {"GT-final_test.csv": "\r\n".join(lines).encode()}
    files = {TRAINING: train, TESTING: test, TRUTH: truth}
    return {name: zipped(content) for name, content in files.items()}


@cache
def small_picture(*key: int) -> tiles.Pixels:
    return gtsrb.resized(photograph(*key)).transpose(2, 0, 1)


@cache
def packed() -> dict[str, bytes]:
    seen = [key for key in SEEN if key[2] in (4, 9, 14, 19, 24, 29)]
    rows = [(k, f"{s:05d}_{f:05d}.ppm", f"{s:05d}") for k, s, f in seen]
    even = NUMBERS[::2]
    tests = np.stack([small_picture(number) for number in even])
    return {
        "gtsrb/gtsrb_train.webp": tiles.sheet(
            np.stack([small_picture(*k) for k in seen])
        ),
        "gtsrb/gtsrb_train.csv": tiles.table("label,file,track", rows),
        "gtsrb/gtsrb_test.webp": tiles.sheet(tests),
        "gtsrb/gtsrb_test.csv": tiles.table(
            "label,file", [(label(n), f"{n:05d}.ppm") for n in even]
        ),
    }


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small(gtsrb.SOURCE_PART, official(), tmp_path)


def test_both_ways_lead_to_the_same_part(source: Source, tmp_path: Path) -> None:
    for found in (
        from_site(source, tmp_path, arrays_of),
        from_packed(source, packed(), tmp_path, arrays_of),
    ):
        assert fingerprint(found) == source.sha256
        kept = [key for key in SEEN if key[2] % 5 == 4]
        assert [*map(tuple, found["train_of"].tolist())] == kept
        for key, picture in zip(kept, found["train"], strict=True):
            assert np.array_equal(picture, small_picture(*key))
        tests = sorted((label(n), n) for n in NUMBERS[::2])
        assert [*map(tuple, found["test_of"].tolist())] == tests
        for (_, number), picture in zip(tests, found["test"], strict=True):
            assert np.array_equal(picture, small_picture(number))


def test_the_whole_holds_the_part(source: Source, tmp_path: Path) -> None:
    whole = gtsrb.read([tmp_path / "site" / r.name for r in source.remotes])
    assert len(whole["train"]) == len(SEEN)
    assert len(whole["test"]) == len(NUMBERS)
    assert fingerprint(gtsrb.chosen(whole)) == source.sha256


# What cv2.resize(picture, (32, 32)) gives: a pixel of the first row, one of the last,
# and the CRC-32 sum of all; the same in OpenCV 4.5.5, 4.12.0 and 5.0.0.
@pytest.mark.parametrize(
    ("size", "first", "last", "crc32"),
    [
        ((15, 15), [48, 151, 78], [69, 174, 105], 3629881541),
        ((27, 31), [227, 197, 180], [180, 197, 227], 972122576),
        ((32, 30), [216, 194, 174], [95, 53, 36], 3977071160),
        ((48, 53), [171, 196, 62], [102, 64, 239], 2448997048),
        ((64, 64), [139, 167, 93], [160, 122, 108], 73734061),
        ((64, 61), [161, 209, 75], [77, 114, 176], 1644333244),
        ((225, 243), [78, 208, 170], [63, 141, 216], 1916363426),
    ],
)
def test_pictures_are_resized_as_opencv_does(
    size: tuple[int, int], first: list[int], last: list[int], crc32: int
) -> None:
    found = gtsrb.resized(made(*size))
    assert (found[0, 1].tolist(), found[31, 30].tolist()) == (first, last)
    assert zlib.crc32(found.tobytes()) == crc32
    same = made(32, 32)
    assert np.array_equal(gtsrb.resized(same), same)


def test_classes_are_disjoint_and_signs_can_be(source: Source, tmp_path: Path) -> None:
    def split(per_sign: int) -> Splits:
        return from_packed(
            source, packed(), tmp_path, lambda s: gtsrb.split(s, 0, per_sign)
        )

    every, nearest = split(0), split(1)
    assert [len(part) for part in every] == [25, 9, 9]
    assert {name for part in every for name in part.names} == set(gtsrb.NAMES)
    for part, single in zip(every, nearest, strict=True):
        assert set(single.counts) == {2}
        for name, own, last in zip(
            part.names, part.by_class(), single.by_class(), strict=True
        ):
            k = gtsrb.NAMES.index(name)
            kept = [key for key in SEEN if key[0] == k and key[2] % 5 == 4]
            expected = np.stack([small_picture(*key) for key in kept])
            assert np.array_equal(one(own), expected)
            ends = [max(key for key in kept if key[1] == sign) for sign in (0, 3)]
            expected = np.stack([small_picture(*key) for key in ends])
            assert np.array_equal(one(last), expected)
    for wrong in (-1, 31):
        with pytest.raises(UserError, match=f"per_sign is {wrong}: .* from 0 to 30"):
            gtsrb.split(source, 0, wrong)


def test_no_part_shows_a_sign_of_another(source: Source, tmp_path: Path) -> None:
    arrays = from_packed(source, packed(), tmp_path, arrays_of)
    train, val, test = gtsrb.halves(arrays, 0, 1)
    assert not {*train.names} & {*val.names}
    assert len(train.names) == len(val.names) == 43
    assert sorted({*train.names, *val.names})[:2] == [
        *("Ahead only/00000", "Ahead only/00003")
    ]
    for part in (train, val):
        for picture, y, group in zip(one(part.x), part.y, part.group, strict=True):
            name, sign = part.names[group].split("/")
            assert name == gtsrb.NAMES[y]
            shown = [key for key in SEEN if key[:2] == (y, int(sign))]
            assert any(np.array_equal(picture, small_picture(*key)) for key in shown)
    assert len(train.y) + len(val.y) == len(arrays["train"])
    assert test.y.tolist() == sorted(label(n) for n in NUMBERS[::2])
    assert test.group.tolist() == list(range(43))
    for part in gtsrb.halves(arrays, 0, 0)[1:2]:
        assert one(part.x).shape == (0, 3, 32, 32)
    with pytest.raises(UserError, match="val_signs is 2: choose from 0 to 1"):
        gtsrb.halves(arrays, 0, 2)


def test_damage_is_named(source: Source, tmp_path: Path) -> None:
    for name in ("gtsrb/gtsrb_train.webp", "gtsrb/gtsrb_test.csv"):
        cut = damaged(packed()[name])["cut"]
        bad = cut[: len(cut) // 2], damaged(packed()[name])["foreign"]
        for content in bad:
            message = complaint(source, {**packed(), name: content}, tmp_path)
            assert "is damaged" in message
    paths = [tmp_path / "site" / name for name in official()]
    for path in paths:
        sound = path.read_bytes()
        for content in (*damaged(sound).values(), zipped({"a.txt": b""})):
            path.write_bytes(content)
            with pytest.raises(UserError, match=f"{path.name} is damaged"):
                gtsrb.read(paths)
        path.write_bytes(sound)


def test_torchvision_knows_the_same_files() -> None:
    text = Path(torchvision_gtsrb.__file__).read_text()
    assert gtsrb.URL in text
    for name in (TESTING, TRUTH):  # it has the smaller training set of 2011
        assert name in text
        assert gtsrb.FILES[name] in text


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPTILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.needs_data("gtsrb-part")
def test_real_signs(real: None) -> None:
    splits = load("gtsrb-part")
    assert [len(part) for part in splits] == [25, 9, 9]
    assert sum(sum(part.counts) for part in splits) == 7841
    single = load("gtsrb-part", per_sign=1)
    assert sum(sum(part.counts) for part in single) == 1307
    assert min(min(part.counts) for part in single) == 7
    episode = FewShotTasks(single.test, ways=5, shots=1, query_shots=5).draw()
    assert one(episode.support.x).shape == (1, 5, 3, 32, 32)


@pytest.mark.needs_data("gtsrb-part")
def test_real_halves(real: None) -> None:
    train, val, test = gtsrb.published()
    assert len(train.y) + len(val.y) == 7841
    assert (len(val.names), len(train.names)) == (43, 1264)
    assert len(test.y) == 6315
    for part in (train, val, test):
        assert part.y.unique().tolist() == list(range(43))
    assert sorted(test.y.bincount().tolist())[:: len(gtsrb.NAMES) - 1] == [28, 394]
