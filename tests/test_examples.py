"""Classes of examples, and finding a data set by its name."""

import pytest
import torch
from torch import Tensor

from reptile_lib import Examples, FewShotTasks, UserError, load
from reptile_lib.examples import Inputs
from tests.kit import one


def test_rotated_classes_stand_beside_their_original() -> None:
    images = torch.arange(2 * 9, dtype=torch.uint8).reshape(2, 1, 1, 3, 3)
    turned = Examples(images, ("a", "b")).rotated()
    assert len(turned) == 8
    assert turned.names[3:5] == ("a/rot270", "b/rot000")
    found = [one(values) for values in turned.by_class()]
    assert torch.equal(found[0], images[0])
    # counter-clockwise, as PIL's rotate(90) in the authors' code: the right edge
    # becomes the top
    assert found[1][0, 0, 0].tolist() == [2, 5, 8]
    assert torch.equal(found[6], images[1].flip(-1, -2))


def test_classes_of_unequal_size_are_turned_each_on_its_own() -> None:
    values = [torch.randn(n, 3, 3) for n in (2, 5)]
    turned = Examples(values, ("a", "b")).rotated()
    assert turned.counts == (2, 2, 2, 2, 5, 5, 5, 5)
    for row, k in ((2, 2), (5, 1)):
        expected = torch.rot90(values[row // 4], k, dims=(1, 2))
        assert torch.equal(one(turned.by_class()[row]), expected)


def test_what_has_no_square_cannot_be_turned() -> None:
    for values in (
        torch.zeros(1, 1, 1, 2, 3),
        torch.zeros(1, 4),
        [(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3))],
    ):
        with pytest.raises(UserError, match="no squares, and cannot be turned; pad"):
            Examples(values, ("a",)).rotated()


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(24).view(2, 3, 4),
        [torch.randn(2, 5), torch.randn(4, 5)],
        [torch.randint(9, (3, 7)), torch.randint(9, (1, 7))],
        [(torch.zeros(2, 3), torch.ones(2, dtype=torch.int64)) for _ in range(2)],
    ],
    ids=["tensor", "unequal", "token ids", "several"],
)
def test_values_come_back_by_class(values: list[Inputs] | Tensor) -> None:
    found = Examples(values, ("a", "b"))
    assert len(found) == 2
    for given, kept in zip(values, found.by_class(), strict=True):
        pairs = (given, kept) if isinstance(given, tuple) else ((given,), (kept,))
        assert len(pairs[0]) == len(pairs[1])
        for x, y in zip(*pairs, strict=True):
            assert torch.equal(x, y)
            assert x.dtype == y.dtype
    moved = found.to(torch.device("meta"))
    assert moved.counts == found.counts
    assert moved.names == found.names


def test_pixels_are_scaled_and_all_else_is_given_as_it_is() -> None:
    pixels = torch.tensor([[[0, 255, 51]]], dtype=torch.uint8)
    scaled = Examples(pixels, ("a",)).to_input(pixels)
    torch.testing.assert_close(scaled, torch.tensor([[[0, 1, 0.2]]]))
    for values in (torch.tensor([[7, 255]]), torch.tensor([[7.0, 255.0]])):
        assert Examples(values, ("a",)).to_input(values) is values
    several = Examples([(pixels[0], pixels[0].long())], ("a",))
    first, second = several.to_input(several.pool)
    assert first.max() == 1
    assert second.max() == 255


def test_what_is_not_examples_is_refused() -> None:
    three = torch.zeros(3, 2)
    for bad, names, message in (
        (torch.zeros(1, 1, 2), ("a", "b"), "2 names for 1 classes; give one a class"),
        ("abc", ("a",), r"are a str; give a tensor \[classes, examples"),
        ([three, torch.zeros(3, 4)], ("a", "b"), "do not go together .* of one type"),
        ([three, three.tolist()], ("a", "b"), "do not go together .* of one type"),
        ([three, (three, three)], ("a", "b"), "do not go together"),
        ([], (), "do not go together"),
        ([three, three[:0]], ("a", "b"), r"class 'b' has \[0\] examples; give at"),
        ([(three, three[:2])], ("a",), r"class 'a' has \[2, 3\] examples; .* each"),
        (torch.zeros(3), ("a", "b", "c"), "do not go together"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Examples(bad, names)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_split_may_be_empty() -> None:
    none = Examples(torch.zeros(0, 20, 1, 28, 28, dtype=torch.uint8), ())
    assert len(none) == 0
    assert none.by_class() == []
    assert none.to(torch.device("cpu")).counts == ()
    with pytest.raises(UserError, match="ways = 5, but there are 0 classes"):
        FewShotTasks(none, ways=5, shots=1)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="'omnoglot': choose one of glyphs, omniglot"):
        load("omnoglot")


def test_an_unknown_option_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="no option 'seed': its options are none"):
        load("glyphs", seed=1)
    with pytest.raises(UserError, match="its options are seed, val_classes"):
        load("omniglot", val_clases=1)
