"""Splits of one's own classes, and classes that are left out."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reptile_lib import Examples, FewShotTasks, Splits, UserError
from reptile_lib.reading.split import only, split_classes, split_names
from tests.kit import one


def letters(counts: list[int]) -> Examples:
    """Return class c with examples of the value c."""
    values = [torch.full((n, 2), c) for c, n in enumerate(counts)]
    return Examples(values, tuple(chr(97 + c) for c in range(len(counts))))


@given(
    st.lists(st.text(), min_size=3, max_size=40, unique=True),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_a_split_depends_on_the_names_alone(
    names: list[str], seed: int, chance: random.Random
) -> None:
    parts = split_names(names, seed=seed)
    assert sorted(sum(parts, ())) == sorted(names)
    size = max(1, round(0.2 * len(names)))
    assert len(parts.val) == len(parts.test) == size
    again = [*names]
    chance.shuffle(again)
    for part, other in zip(parts, split_names(again, seed=seed), strict=True):
        assert set(part) == set(other)
        assert list(other) == [name for name in again if name in part]


def test_another_seed_gives_another_split() -> None:
    names = [f"class {i}" for i in range(50)]
    tests = [split_names(names, seed=seed).test for seed in range(40)]
    assert len(set(tests)) == 40
    counts = torch.tensor([sum(name in test for test in tests) for name in names])
    # each class is tested in a fifth of the splits: 8 of 40, standard deviation 2.5
    assert counts.float().mean() == 8
    assert counts.max() <= 18
    assert counts.min() >= 1
    # written as different systems would, é is the same letter
    composed, other = split_names(["é", "b", "c"]), split_names(["e\u0301", "b", "c"])
    assert [len(p) for p in composed] == [len(p) for p in other] == [1, 1, 1]
    assert [p[0] == "b" for p in composed] == [p[0] == "b" for p in other]


def test_classes_are_shared_out_whole() -> None:
    classes = letters([3, 5, 2, 7, 4, 6])
    splits = split_classes(classes, val=0, test=0.5)
    assert [len(part) for part in splits] == [3, 0, 3]
    for part in splits:
        for name, values in zip(part.names, part.by_class(), strict=True):
            c = ord(name) - 97
            assert torch.equal(one(values), torch.full((classes.counts[c], 2), c))
    assert sum(splits.train.counts + splits.test.counts) == sum(classes.counts)
    names = split_names(classes.names, val=0, test=0.5)
    again = Splits(*(only(classes, part) for part in names))
    assert [part.names for part in again] == [part.names for part in splits]
    assert [part.names for part in splits] == list(names)


def test_shares_that_do_not_fit_are_told() -> None:
    for wrong, message in (
        (
            {"val": 0.5, "test": 0.5},
            r"val = 0.5, test = 0.5; give shares from 0, below",
        ),
        ({"val": -0.1}, "val = -0.1, test = 0.2; give"),
    ):
        with pytest.raises(UserError, match=message):
            split_names("abcde", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="2 classes cannot be shared out as val"):
        split_names("ab")
    with pytest.raises(UserError, match="class 'b' comes twice; rename one"):
        split_names(["a", "b", "c", "b"])


def test_small_classes_can_be_left_out() -> None:
    classes = letters([3, 1, 2, 7, 1])
    large = only(classes, at_least=2)
    assert large.names == ("a", "c", "d")
    assert large.counts == (3, 2, 7)
    assert one(large.pool)[:, 0].tolist() == [0] * 3 + [2] * 2 + [3] * 7
    with pytest.raises(UserError, match=r"'b' \(1\), 'e' \(1\); leave .* at_least=2\)"):
        FewShotTasks(classes, ways=3, shots=1)
    assert FewShotTasks(large, ways=3, shots=1).draw(4).support.y.shape == (4, 3)
    both = only(classes, {"d", "b"})
    assert both.names == ("b", "d")
    several = Examples([(torch.zeros(2), torch.ones(2, 3))] * 2, ("a", "b"))
    assert only(several, ["b"]).counts == (2,)
    assert only(several, []).by_class() == []
    with pytest.raises(UserError, match="no class 'z'; give names of the 5 classes"):
        only(classes, ["a", "z"])
