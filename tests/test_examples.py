"""Classes, and finding a data set by its name."""

import pytest
import torch

from reptile_lib.data import Classes, load
from reptile_lib.errors import UserError


def test_rotated_classes_stand_beside_their_original() -> None:
    images = torch.arange(2 * 9, dtype=torch.uint8).reshape(2, 1, 1, 3, 3)
    turned = Classes(images, ("a", "b")).rotated()
    assert len(turned) == 8
    assert turned.names[3:5] == ("a/rot270", "b/rot000")
    assert torch.equal(turned.images[0], images[0])
    # counter-clockwise, as PIL's rotate(90) in the authors' code: the right edge
    # becomes the top
    assert turned.images[1, 0, 0, 0].tolist() == [2, 5, 8]
    assert torch.equal(turned.images[6], images[1].flip(-1, -2))


def test_classes_refuse_what_they_are_not() -> None:
    with pytest.raises(UserError, match=r"float32 \[1, 1, 1, 2, 2\]; give uint8"):
        Classes(torch.zeros(1, 1, 1, 2, 2), ("a",))
    with pytest.raises(UserError, match="2 names for 1 classes; give one a class"):
        Classes(torch.zeros(1, 1, 1, 2, 2, dtype=torch.uint8), ("a", "b"))
    with pytest.raises(UserError, match=r"2, 3\], no squares, .* pad them"):
        Classes(torch.zeros(1, 1, 1, 2, 3, dtype=torch.uint8), ("a",)).rotated()


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="'omnoglot': choose one of glyphs, omniglot"):
        load("omnoglot")


def test_an_unknown_option_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="no option 'seed': its options are none"):
        load("glyphs", seed=1)
    with pytest.raises(UserError, match="its options are seed, val_classes"):
        load("omniglot", val_clases=1)
