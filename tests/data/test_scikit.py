"""The sets that come with scikit-learn; and what is said where that is missing."""

import sys
from pathlib import Path

import pytest
import torch

from reptile_lib import UserError, load
from tests.kit import one


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path / "cache"))


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    parts = load("digits")
    assert [len(part) for part in parts] == [5, 2, 3]
    named = {
        name: one(values)
        for part in parts
        for name, values in zip(part.names, part.by_class(), strict=True)
    }
    assert sorted(named) == [*"0123456789"]
    published = datasets.load_digits()
    for name, values in named.items():
        grey = published.images[published.target == int(name)]
        assert values.dtype == torch.uint8
        assert values.shape == (len(grey), 1, 8, 8)
        assert (values[:, 0] / 255 * 16 - torch.from_numpy(grey)).abs().max() < 0.04
    assert load("digits", val=0, test=0).train.counts[3] == 183
    assert load("digits", seed=1).test.names != parts.test.names
    with pytest.raises(UserError, match=r"10 classes cannot be shared out"):
        load("digits", val=0.5, test=0.49)


def test_breast_cancer() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    parts = load("breast-cancer")
    assert [part.names for part in parts] == [("malignant", "benign")] * 3
    assert [part.counts for part in parts] == [(127, 214), (43, 72), (42, 71)]
    published = datasets.load_breast_cancer()
    rows = []
    for part in parts:
        for name, values in zip(part.names, part.by_class(), strict=True):
            kind = published.target_names.tolist().index(name)
            rows += [(kind, *row) for row in one(values).tolist()]
    x = torch.from_numpy(published.data).float().tolist()
    expected = [(int(y), *row) for y, row in zip(published.target, x, strict=True)]
    assert sorted(rows) == sorted(expected)  # each sample once, in its class

    again, other = load("breast-cancer"), load("breast-cancer", seed=1)
    assert torch.equal(one(again.test.pool), one(parts.test.pool))
    assert not torch.equal(one(other.test.pool), one(parts.test.pool))
    with pytest.raises(UserError, match=r"val = 0, test = 0.2; give shares from 0.01"):
        load("breast-cancer", val=0)


@pytest.mark.parametrize("name", ["digits", "breast-cancer"])
def test_without_scikit_learn_one_line_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError) as caught:
        load(name)
    assert str(caught.value) == (
        f"{name} comes with scikit-learn, which is not installed; give the command"
        " pip install scikit-learn"
    )
