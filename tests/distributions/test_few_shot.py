"""Few-shot classification: what a task may and may not contain."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_lib import (
    Examples,
    FewShotTasks,
    UserError,
    load,
)
from reptile_lib.examples import Inputs
from reptile_lib.tasks import minibatches
from tests.kit import many, one

CLASSES, EXAMPLES = 12, 20


def readable_classes() -> Examples:
    """Return pictures from whose shade one reads the class and the example."""
    shade = torch.arange(CLASSES * EXAMPLES, dtype=torch.uint8)
    images = shade.view(CLASSES, EXAMPLES, 1, 1, 1).expand(-1, -1, 1, 3, 3)
    return Examples(images.contiguous(), tuple("abcdefghijkl"))


def read(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return class and example of pictures in [0, 1]."""
    assert torch.equal(x, x[..., :1, :1].expand_as(x))
    shade = (x[..., 0, 0, 0] * 255).round().long()
    return shade // EXAMPLES, shade % EXAMPLES


@given(
    seed=st.integers(0, 1000),
    ways=st.integers(1, CLASSES),
    shots=st.integers(1, EXAMPLES - 3),
    query_shots=st.integers(1, 3),
)
def test_few_shot_episodes(seed: int, ways: int, shots: int, query_shots: int) -> None:
    tasks = FewShotTasks(readable_classes(), ways, shots, query_shots)
    who = many(4, seed)
    support, query, order = minibatches(tasks.sample(who), who, 3, 5)
    assert one(support.x).shape == (4, ways * shots, 1, 3, 3)
    assert one(query.x).shape == (4, ways * query_shots, 1, 3, 3)
    assert order.shape == (4, 3, 5)
    for i in range(4):
        label_of: dict[int, int] = {}
        seen = set()
        for batch, each in ((support, shots), (query, query_shots)):
            classes, examples = read(one(batch.x)[i])
            labels = batch.y[i].tolist()
            assert sorted(labels) == sorted(list(range(ways)) * each)
            for c, e, label in zip(
                classes.tolist(), examples.tolist(), labels, strict=True
            ):
                assert label_of.setdefault(c, label) == label
                seen.add((c, e))
        assert len(label_of) == ways  # distinct classes, one label each
        assert len(seen) == ways * (shots + query_shots)  # no picture twice


def test_few_shot_tasks_use_every_class_label_and_example_alike() -> None:
    tasks = FewShotTasks(readable_classes(), ways=3, shots=2)
    support, query, _ = tasks.sample(many(3000))
    for batch in (support, query):
        classes, examples = read(one(batch.x))
        pairs = torch.bincount((classes * 3 + batch.y).flatten(), minlength=36)
        expected = batch.y.numel() / 36
        assert ((pairs - expected) ** 2 / expected).sum() < 85  # 35 d. o. f., p < 1e-5
        counts = torch.bincount(examples.flatten(), minlength=EXAMPLES)
        expected = batch.y.numel() / EXAMPLES
        assert ((counts - expected) ** 2 / expected).sum() < 57  # 19 d. o. f.
        # classes draw their examples apart from each other
        first, second = (examples[batch.y == c].view(3000, -1)[:, 0] for c in (0, 1))
        assert (first == second).double().mean() < 0.07  # 1/20


def test_pixels_are_scaled_to_one() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    tasks = FewShotTasks(Examples(images, ("a",)), ways=1, shots=2)
    support, query, _ = tasks.sample(many(1))
    pixels = torch.cat([one(support.x), one(query.x)], 1).flatten()
    assert pixels.dtype == torch.float32
    assert sorted(pixels.tolist()) == [0, pytest.approx(0.2), 1]


# --- classes of unequal size, of any values

COUNTS = 3, 9, 4, 3, 6


def named(counts: tuple[int, ...], make: Callable[[int, Tensor], Inputs]) -> Examples:
    """Return classes whose values `make`(class, examples [n]) tells."""
    values = [make(c, torch.arange(n)) for c, n in enumerate(counts)]
    return Examples(values, tuple(map(str, range(len(counts)))))


MAKES: dict[str, Callable[[int, Tensor], Inputs]] = {
    "ids": lambda c, e: torch.stack([100 * c + e, e], 1),
    "floats": lambda c, e: torch.stack([100.0 * c + e, e], 1),
    "several": lambda c, e: (
        100 * c + e,
        (100.0 * c + e).view(-1, 1, 1).expand(-1, 2, 3),
    ),
}


@pytest.mark.parametrize("kind", MAKES)
def test_no_class_has_an_example_of_another(kind: str) -> None:
    tasks = FewShotTasks(named(COUNTS, MAKES[kind]), ways=4, shots=2)
    support, query, _ = tasks.sample(many(2000))
    seen: Counter[int] = Counter()
    codes = []
    for batch in (support, query):
        for x in batch.x if isinstance(batch.x, tuple) else (batch.x,):
            expected = torch.int64 if x.dtype == torch.int64 else torch.float32
            assert x.dtype == expected  # values are given as they are
            first = x.flatten(2)[..., 0] if x.dim() > 2 else x
            code = first.long()
            codes.append(code)
            label_of = (code // 100 * 4 + batch.y).sort(1).values
            assert (code % 100 < torch.tensor(COUNTS)[code // 100]).all()
            for row in label_of.unique(dim=0)[:50]:
                four = set(row.tolist())  # classes, each with one label
                assert len(four) == len({pair // 4 for pair in four}) == 4
            seen.update(code.flatten().tolist())
        if isinstance(batch.x, tuple):  # the parts of an example stay together
            assert torch.equal(codes[-1], codes[-2])
    assert len(seen) == sum(COUNTS)  # every example has its turn
    for c, n in enumerate(COUNTS):
        counts = torch.tensor([float(seen[100 * c + e]) for e in range(n)])
        mean = counts.mean()
        # each is equally likely: chi-squared, p < 1e-5 for up to 8 d. o. f.
        assert ((counts - mean) ** 2 / mean).sum() < 2 * 40


def test_sampling_is_uniform_within_classes_of_unequal_size() -> None:
    counts, ways, tasks = (3, 17, 4, 3, 8), 3, 12_000
    drawn = FewShotTasks(named(counts, lambda c, e: 100 * c + e), ways, 2).sample(
        many(tasks)
    )
    support = one(drawn.support.x).view(tasks, ways, 2)
    query = one(drawn.query.x)
    # each class alike, whatever its size, ...
    found = torch.bincount(query.flatten() // 100, minlength=5)
    expected = tasks * ways / 5
    assert ((found - expected) ** 2 / expected).sum() < 28.5  # 4 d. o. f., p < 1e-5
    for c, n in enumerate(counts):
        # ... each of its examples in the query set, ...
        rows = query // 100 == c
        found = torch.bincount(query[rows] % 100, minlength=n)
        assert len(found) == n
        expected = int(rows.sum()) / n
        limit = {3: 23.1, 4: 25.9, 8: 35.3, 17: 52.2}[n]  # n - 1 d. o. f., p < 1e-5
        assert ((found - expected) ** 2 / expected).sum() < limit
        # ... and each ordered pair of them in the support set
        first, second = (support[rows] % 100).unbind(-1)
        pairs = torch.bincount(first * n + second, minlength=n * n).view(n, n)
        assert (pairs.diagonal() == 0).all()
        expected = int(rows.sum()) / (n * (n - 1))
        off = pairs[~torch.eye(n, dtype=torch.bool)]
        degrees = n * (n - 1) - 1
        limit = degrees + 6 * (2 * degrees) ** 0.5
        assert ((off - expected) ** 2 / expected).sum() < limit


def test_support_and_query_of_unequal_classes_share_nothing() -> None:
    tasks = FewShotTasks(named(COUNTS, lambda c, e: 100 * c + e), 5, 2, 1)
    support, query, _ = tasks.sample(many(500))
    both = torch.cat([one(support.x), one(query.x)], 1)
    assert all(len(set(row)) == 15 for row in both.tolist())


def test_the_smallest_class_says_how_many_shots_there_are() -> None:
    classes = named(COUNTS, lambda c, e: e)
    with pytest.raises(
        UserError,
        match=r"shots = 3 .* 2 of 5 classes .*: '0' \(3\), '3' \(3\); ask for at most 3"
        r" together, or leave such classes out: .*only\(classes, at_least=4\)$",
    ):
        FewShotTasks(classes, ways=2, shots=3)
    with pytest.raises(UserError, match=r"'0' \(3\), '3' \(3\); .* most 3 together$"):
        FewShotTasks(classes, ways=4, shots=3)  # without these, too few are left
    with pytest.raises(UserError, match=r"1 of 2 classes .*: '0' \(1\); get more$"):
        FewShotTasks(named((1, 2), lambda c, e: e), ways=2, shots=1)
    with pytest.raises(UserError, match=r"a Splits; give Examples, such as load"):
        FewShotTasks(load("glyphs"), ways=5, shots=1)  # type: ignore[arg-type]


def test_bad_settings_name_the_value_and_the_remedy() -> None:
    classes = readable_classes()
    with pytest.raises(UserError, match=r"ways = 13, but .* 12 classes; .* at most 12"):
        FewShotTasks(classes, ways=13, shots=1)
    with pytest.raises(
        UserError, match=r"shots = 20 .* = 1, .* \(20\), \.\.\.; .* most 20 together$"
    ):
        FewShotTasks(classes, ways=5, shots=20)
    FewShotTasks(classes, ways=12, shots=19)
    for name in ("ways", "shots", "query_shots"):
        settings = {"ways": 2, "shots": 2, "query_shots": 2, name: 0}
        with pytest.raises(UserError, match=f"{name} = 0; give at least 1"):
            FewShotTasks(classes, **settings)
