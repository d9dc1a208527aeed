"""Classes of sentences."""

import pytest
import torch

from reptile_lib import UserError
from reptile_lib.reading.texts import Texts
from tests.kit import one


def test_sentences_are_encoded_at_once_and_parted_again() -> None:
    asked = []
    texts = Texts((("c", "a"), ("bb",), ("c", "dd", "e")), ("z", "a", "m"))

    def encode(given: object) -> torch.Tensor:
        asked.append(given)
        return torch.arange(6)[:, None]

    found = texts.examples(encode)
    assert len(texts) == 3
    assert asked == [["c", "a", "bb", "c", "dd", "e"]]
    assert found.names == ("z", "a", "m")
    assert [one(x).flatten().tolist() for x in found.by_class()] == [
        [0, 1],
        [2],
        [3, 4, 5],
    ]
    with pytest.raises(UserError, match=r"makes \[2\] of 6 texts"):
        texts.examples(lambda given: torch.zeros(2))


def test_what_are_no_classes_of_sentences_is_told() -> None:
    for sentences, names, message in (
        ((("a",),), ("x", "y"), "2 names, 2 of them different, for 1 classes"),
        ((("a",), ("b",)), ("x", "x"), "2 names, 1 of them different, for 2 classes"),
        ((("a",), ()), ("x", "y"), "class 'y' has none, or an empty one; leave it out"),
        ((("a", " "),), ("x",), "class 'x' has none, or an empty one"),
    ):
        with pytest.raises(UserError, match=message):
            Texts(sentences, names)
