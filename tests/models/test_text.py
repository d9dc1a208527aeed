"""Texts as hashed words, and the network on the sum of their vectors."""

import binascii
import random

import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer
from torch.nn import functional as F

from reptile_lib import FewShotTasks, Reptile, UserError, adam, evaluate, linear
from reptile_lib.models.text import (
    BUCKETS,
    TABLE_STD,
    encode_words,
    rarity,
    text_attention,
    text_bag,
)
from reptile_lib.reading.split import split_classes
from reptile_lib.reading.texts import Texts


def hashed(parts: str, buckets: int = BUCKETS) -> list[int]:
    return [
        binascii.crc32(p.encode()) % (buckets - 1) + 1 for p in parts.split(" ") if p
    ]


def test_words_come_first_and_then_their_characters() -> None:
    ids = encode_words(["Go, ÜBER!", "a"], length=30)
    assert ids.dtype == torch.int64
    assert ids.shape == (2, 30)
    parts = (
        "go , über ! <go go> <go> <,> <üb übe ber er> <übe über ber> <über über> <!>"
    )
    expected = hashed(parts)
    assert ids[0].tolist() == expected + [0] * (30 - len(expected))
    assert ids[1].tolist() == hashed("a <a>") + [0] * 28
    short = encode_words(["Go, ÜBER!"], length=3, buckets=50)
    assert short.tolist() == [hashed("go , über", 50)]
    assert encode_words(["STRASSE"]).equal(encode_words(["straße"]))
    many = encode_words([str(i) for i in range(500)], buckets=20)
    assert set(many.flatten().tolist()) == set(range(20))  # 0 where there is none
    assert many[:, 0].min() > 0


def test_what_cannot_be_encoded_is_told() -> None:
    for texts, options, message in (
        ("one text", {}, r"texts = 'one text' is one text; give a list"),
        (["a", " \t"], {}, r"text ' \\t' is empty; leave it out"),
        (["a"], {"length": 0}, "length = 0, buckets = 4096; give at least 1 and 2"),
        (["a"], {"buckets": 1}, "length = 128, buckets = 1; give at least 1 and 2"),
    ):
        with pytest.raises(UserError, match=message):
            encode_words(texts, **options)  # type: ignore[arg-type]
    for name in ("ways", "buckets", "width", "hidden"):
        with pytest.raises(UserError, match=f"text_bag: {name} = 0; give at least 1"):
            text_bag(**{"ways": 2, name: 0})  # type: ignore[arg-type]


def test_the_network_takes_the_sum_of_what_is_there() -> None:
    model = text_bag(3, 20, width=4, hidden=5)
    table = model.get_parameter("table.weight")
    first, _, last = model.get_submodule("head").children()
    ids = torch.tensor([[7, 3, 3, 0, 0], [1, 0, 0, 0, 0]])
    sums = torch.stack([(table[7] + 2 * table[3]) / 3**0.5, table[1]])
    torch.testing.assert_close(model(ids), last(first(sums).relu()))
    torch.testing.assert_close(model(ids), model(ids[:, :3]))
    model(ids).sum().backward()
    assert table.grad is not None
    moved = table.grad.abs().sum(1).nonzero().flatten()
    assert moved.tolist() == [1, 3, 7]
    assert model(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all()
    with pytest.raises(UserError, match="an id is not below 20, the model's buckets"):
        model(torch.tensor([[20]]))


def test_a_seed_gives_its_network_and_leaves_the_others_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (text_bag(5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for p, q, r in zip(
        one.parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    assert abs(one.get_parameter("table.weight").std().item() - TABLE_STD) < 1e-3


def generated(classes: int, each: int) -> Texts:
    """Return sentences of two of their class's three words, and two that all use."""
    chance = random.Random(0)

    def word() -> str:
        letters = (
            chance.choice("bdfgklmnprst") + chance.choice("aeiou") for _ in "123"
        )
        return "".join(letters)

    common = [word() for _ in range(10)]
    found = []
    for _ in range(classes):
        own = [word() for _ in range(3)]
        words = [chance.sample(own, 2) + chance.sample(common, 2) for _ in range(each)]
        found.append(tuple(" ".join(chance.sample(some, 4)) for some in words))
    return Texts(tuple(found), tuple(f"topic {c}" for c in range(classes)))


def test_reptile_learns_topics_from_five_sentences() -> None:
    examples = generated(30, 8).examples(
        lambda texts: encode_words(texts, length=32, buckets=512)
    )
    train, _, test = split_classes(examples, val=0, test=0.3)
    model = text_bag(5, 512, width=16, hidden=32)
    learner = Reptile(
        model, adam(0.02), 5, moments="reset", device="cpu", engine="stacked"
    )
    tasks = FewShotTasks(train, ways=5, shots=5)
    learner.fit(tasks, meta_steps=20, meta_batch=4, epsilon=linear(1.0, 0.0))
    new = FewShotTasks(test, ways=5, shots=5, query_shots=3)
    score = evaluate(learner, new, inner_steps=10, count=40).transductive
    assert score.accuracy > 0.6, score  # by chance 0.2


def test_rarity_is_the_idf_of_scikit_learn() -> None:
    ids = torch.tensor([[1, 1, 2, 0], [1, 3, 0, 0], [4, 3, 1, 1]])
    counts = torch.stack([row[row > 0].bincount(minlength=6) for row in ids])
    idf = TfidfTransformer().fit(counts.numpy()).idf_
    assert rarity(ids, buckets=6)[1:].tolist() == pytest.approx(idf[1:].tolist())


def test_weights_scale_the_vectors_and_the_length_of_the_sum() -> None:
    weights = torch.tensor([9.0, 1.0, 2.0, 0.5])
    model = text_bag(3, 4, width=4, hidden=5, weights=weights)
    plain = text_bag(3, 4, width=4, hidden=5)
    assert [n for n, _ in model.named_parameters()] == [
        n for n, _ in plain.named_parameters()
    ]
    table = model.get_parameter("table.weight")
    expected = (2 * 2 * table[2] + 0.5 * table[3]) / (4 + 4 + 0.25) ** 0.5
    found = model(torch.tensor([[2, 3, 2, 0], [0, 0, 0, 0]]))
    head = model.get_submodule("head")
    torch.testing.assert_close(found, head(torch.stack([expected, 0 * expected])))
    weights[:] = 0  # the model keeps its own
    torch.testing.assert_close(model(torch.tensor([[2, 3, 2]])), found[:1])
    with pytest.raises(UserError, match=r"weights are \[3\]; give one per id, \[4\]"):
        text_bag(3, 4, weights=torch.ones(3))


def test_attention_is_torchs_own_whatever_the_padding() -> None:
    model = text_attention(3, 20, width=4, hidden=5, length=6)
    ids = torch.tensor([[7, 3, 3, 1], [1, 5, 0, 0]])
    found = model(ids)
    parts = {n: model.get_submodule(n) for n in ("table", "asks", "keys", "values")}
    for row, n, answer in zip(ids, (4, 2), found, strict=True):
        places = model.get_parameter("places.weight")
        x = parts["table"](row[:n]) + places[:n]
        seen = F.scaled_dot_product_attention(
            *(parts[name](x)[None] for name in ("asks", "keys", "values"))
        )[0]
        expected = model.get_submodule("head")((x + seen).sum(0) / n**0.5)
        torch.testing.assert_close(answer, expected)
    torch.testing.assert_close(model(F.pad(ids, (0, 2))), found)
    assert model(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all()
    with pytest.raises(UserError, match="texts have 7 ids, and the model places for 6"):
        model(F.pad(ids, (0, 3)))
    with pytest.raises(UserError, match="text_attention: length = 0; give at least 1"):
        text_attention(3, length=0)


def test_words_without_their_characters() -> None:
    found = encode_words(["Go, ÜBER!"], length=6, characters=False)
    assert found.tolist() == [[*hashed("go , über !"), 0, 0]]
