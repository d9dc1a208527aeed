"""Glyphs: what the file holds, that it can be made again, and that splits differ.

That no letter of one split is a letter of another is checked on the outlines as Pillow
and FreeType draw them, not on the pen paths by which the maker merges twins.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont
from torch import Tensor

from reptile_book import make_glyphs
from reptile_lib import Examples, Splits, UserError, load
from reptile_lib.data import glyphs
from tests.kit import one

FACES = ("Sans", "SansMono", "Serif", "Serif-Italic")
SIDE = 32
SAME = 0.84  # share of common ink (intersection over union) that makes two letters one


def images(part: Examples) -> Tensor:
    """Return the drawings [classes, examples, 1, 28, 28]."""
    return torch.stack([one(values) for values in part.by_class()])


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load("glyphs")


def character(name: str) -> str:
    return chr(int(name.split("/U+")[1], 16))


def test_shapes_and_pixels(splits: Splits) -> None:
    assert [len(part) for part in splits] == [1205, 133, 129]
    for part in splits:
        assert images(part).shape[1:] == (20, 1, 28, 28)
        assert torch.unique(images(part)).tolist() == [0, 255]


def test_whole_scripts_are_set_aside(splits: Splits) -> None:
    scripts = [{name.split("/")[0] for name in part.names} for part in splits]
    assert [sorted(part) for part in scripts] == [
        sorted(names) for names in glyphs.SCRIPTS.values()
    ]
    assert len(set.union(*scripts)) == sum(map(len, scripts)) == 12


def test_every_drawing_has_ink_and_is_unlike_the_others(splits: Splits) -> None:
    for part in splits:
        drawings = images(part)
        ink = (drawings == 0).sum((2, 3, 4))
        assert ink.min() >= 16
        assert ink.max() < 28 * 28 / 2
        different = (drawings[:, 1:] != drawings[:, :1]).flatten(2).any(2)
        assert different.all()
        border = drawings.clone()
        border[..., 1:-1, 1:-1] = 255
        assert (border == 0).any((2, 3, 4)).float().mean() < 0.1  # few are cut off


def test_the_file_is_small() -> None:
    assert glyphs.FILE.stat().st_size < 1_000_000


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "glyphs.npz"

    def complaint() -> str:
        with pytest.raises(UserError) as caught:
            glyphs.read(path)
        return str(caught.value)

    assert complaint() == f"{path} is missing: install the package again"
    np.savez(path, names=np.array(["A/U+0041"]), bits=np.zeros((1, 20, 98), np.uint8))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")  # its ninth byte says "encrypted"
    path.write_bytes(whole[: directory + 8] + b"\x01" + whole[directory + 9 :])
    assert complaint() == f"{path} is damaged: install the package again"
    path.write_bytes(whole)  # sound, but not what belongs there
    assert complaint() == f"{path} is damaged: install the package again"
    path.write_bytes(glyphs.FILE.read_bytes()[:-30])
    assert complaint() == f"{path} is damaged: install the package again"
    path.write_bytes(glyphs.FILE.read_bytes())
    assert [len(part) for part in glyphs.read(path)] == [1205, 133, 129]


def test_the_maker_draws_the_same_again(splits: Splits) -> None:
    for part in splits:
        drawings = images(part)
        for row in range(0, len(part), 40):
            letter = character(part.names[row])
            again = make_glyphs.draw(letter, make_glyphs.paths(letter))
            assert np.array_equal(drawings[row, :, 0].numpy() != 0, again)


def test_the_maker_knows_twins() -> None:
    def twins(one: str, other: str) -> bool:
        first, second = (
            [make_glyphs.stamp(path) for path in make_glyphs.paths(letter)]
            for letter in (one, other)
        )
        kept = make_glyphs.Kept(len(first))
        kept.add(first)
        return kept.has_twin(second, make_glyphs.SAME)

    assert twins("A", "\N{GREEK CAPITAL LETTER ALPHA}")
    assert twins("O", "o")
    assert twins("p", "d")
    assert not twins("p", "b")  # mirrored, not turned
    assert not twins("O", "Q")


def outlines(letters: list[str]) -> tuple[Tensor, Tensor]:
    """Return ([n] index of the letter, bool [n, 2 framings, SIDE, SIDE]) in all faces.

    Cropped to the ink and scaled to fill the frame: once as a whole, once with the
    shorter side stretched as well, up to thrice.
    """
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    index, images = [], []
    for face in FACES:
        path = folder / f"DejaVu{face}.ttf"
        known, font = TTFont(path).getBestCmap(), ImageFont.truetype(path, 64)
        for row, letter in enumerate(letters):
            if ord(letter) in known:
                mask = font.getmask(letter, mode="L")
                grey = Image.frombytes("L", mask.size, bytes(mask))
                index.append(row)
                images.append([framed(grey, 1), framed(grey, 3)])
    return torch.tensor(index), torch.from_numpy(np.array(images) > 127)


def framed(grey: Image.Image, most: float) -> np.ndarray:
    cropped = grey.crop(grey.getbbox())
    longer = max(cropped.size)
    size = [max(1, round(min(s * most, longer) / longer * SIDE)) for s in cropped.size]
    frame = Image.new("L", (SIDE, SIDE))
    corner = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    frame.paste(cropped.resize(size, Image.Resampling.BOX), corner)
    return np.asarray(frame)


def likeness(one: Tensor, other: Tensor) -> Tensor:
    """Return [n, m]: the most ink that two letters share, in any turn and framing."""
    best = torch.zeros(len(one), len(other))
    for framing in range(2):
        b = other[:, framing].flatten(1).float()
        for k in range(4):
            a = torch.rot90(one[:, framing], k, (1, 2)).flatten(1).float()
            common = a @ b.T
            best = best.maximum(common / (a.sum(1)[:, None] + b.sum(1) - common))
    return best


def test_no_letter_is_in_two_splits(splits: Splits) -> None:
    drawn = [outlines([*map(character, part.names)]) for part in splits]
    for part, other in ((0, 1), (0, 2), (1, 2)):
        (rows, a), (columns, b) = drawn[part], drawn[other]
        alike = likeness(a, b)
        pairs = {
            splits[part].names[rows[i]] + " = " + splits[other].names[columns[j]]
            for i, j in (alike > SAME).nonzero().tolist()
        }
        assert not pairs


@pytest.mark.parametrize(
    "pair",
    [
        ("A", "\N{GREEK CAPITAL LETTER ALPHA}"),
        ("h", "\N{ARMENIAN SMALL LETTER HO}"),
        ("O", "\N{TIFINAGH LETTER YAR}"),
        ("O", "o"),
        ("p", "d"),
        ("U", "\N{CANADIAN SYLLABICS TE}"),
    ],
)
def test_twins_would_be_noticed(pair: tuple[str, str]) -> None:
    one, other = (outlines([letter])[1] for letter in pair)
    assert likeness(one, other).max() > SAME
