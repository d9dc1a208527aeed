"""Pictures of 32 x 32: classes are put in order, and cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_lib import UserError
from reptile_lib.data.pictures import by_class, read_classes, with_validation
from tests.data import tiles
from tests.kit import one

IMAGES = tiles.pictures(0, count=230)
ROWS = [("cat" if i % 2 else "dog", f"{i}.png") for i in range(230)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tiles.written(tmp_path, IMAGES, "label,file", ROWS)


def test_classes_are_in_the_order_of_bytes(files: tuple[Path, Path]) -> None:
    found = read_classes(files, {"all": ("dog", "cat")})["all"]
    assert found.shape == (2, 115, 3, 32, 32)
    for own, first in zip(found, (0, 1), strict=True):
        flat = [image.tobytes() for image in own]
        assert flat == sorted(flat)
        assert set(flat) == {image.tobytes() for image in IMAGES[first::2]}


def test_classes_must_have_as_many(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"a.csv is damaged \(classes have \[0, 115\] "):
        read_classes(files, {"all": ("dog", "cow")})


def test_the_class_asked_for_is_found() -> None:
    images = tiles.pictures(1, count=3)
    found = by_class(np.array([1, 2, 0]), images, [2])
    assert np.array_equal(found[0, 0], images[1])


def test_validation_is_taken_of_each_class() -> None:
    sizes = (5, 9)
    classes = [torch.arange(n)[:, None] + 100 * k for k, n in enumerate(sizes)]
    train, val = with_validation(classes, "ab", 2, seed=0)
    assert (train.counts, val.counts) == ((3, 7), (2, 2))
    assert train.names == val.names == ("a", "b")
    for kept, aside, whole in zip(
        train.by_class(), val.by_class(), classes, strict=True
    ):
        assert torch.equal(one(kept), one(kept).sort(0).values)
        both = torch.cat([one(kept), one(aside)]).sort(0).values
        assert torch.equal(both, whole)
    again, other = (with_validation(classes, "ab", 2, seed=s)[1].pool for s in (0, 1))
    assert torch.equal(one(again), one(val.pool))
    assert not torch.equal(one(other), one(val.pool))


def test_validation_may_be_empty_but_not_all() -> None:
    classes = [torch.zeros(n, 1, 2, 2) for n in (5, 9)]
    train, val = with_validation(classes, "ab", 0, seed=0)
    assert (train.counts, val.counts) == ((5, 9), ())
    assert one(val.pool).shape == (0, 1, 2, 2)
    for wrong in (-1, 5):
        with pytest.raises(UserError, match=f"is {wrong}: choose from 0 to 4"):
            with_validation(classes, "ab", wrong, seed=0)
