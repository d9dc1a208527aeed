"""Task distributions: what a task may and may not contain."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_lib import (
    Episodes,
    Examples,
    FewShotTasks,
    GroupTasks,
    Quadratics,
    Sine,
    UserError,
    draw,
    load,
)
from reptile_lib.examples import Inputs
from reptile_lib.rng import TEST, TRAIN, Draws, draws
from reptile_lib.tasks import Tasks, minibatches
from reptile_lib.theory.quadratics import quadratic_loss
from tests.kit import one, tensors

CPU = torch.device("cpu")
CLASSES, EXAMPLES = 12, 20


def many(count: int, seed: int = 0) -> Draws:
    return draws(seed, TRAIN, range(count), range(1), CPU)


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


def orders(who: Draws, size: int, k: int, b: int | None) -> Tensor:
    """Return the minibatches [m, k, b] of support sets of `size` examples."""
    episodes = Sine(points=size).sample(who)
    return minibatches(episodes, who, k, b).order


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 12),
    k=st.integers(0, 6),
    b=st.integers(1, 15),
)
def test_minibatches_are_reshuffled_passes(
    seed: int, size: int, k: int, b: int
) -> None:
    order = orders(many(2, seed), size, k, b)
    assert order.shape == (2, k, b)
    for row in order.flatten(1).tolist():
        for start in range(0, k * b, size):  # the last pass may be cut short
            one_pass = row[start : start + size]
            assert len(set(one_pass)) == len(one_pass)
            assert set(one_pass) <= set(range(size))


def test_each_pass_is_shuffled_anew_and_a_minibatch_spans_the_seam() -> None:
    order = orders(many(500), 6, 3, 4).flatten(1)  # 12 = two passes
    first, second = order[:, :6], order[:, 6:]
    assert (first != second).any(1).float().mean() > 0.99  # 719/720
    assert (first[1:] != first[:-1]).any(1).float().mean() > 0.99
    places = torch.bincount((second * 6 + torch.arange(6)).flatten(), minlength=36)
    assert ((places - 500 / 6) ** 2 / (500 / 6)).sum() < 65  # 25 d. o. f.


def test_full_batch_takes_every_example_in_every_step() -> None:
    order = orders(many(3), 7, 4, None)
    assert torch.equal(order.sort().values, torch.arange(7).expand(3, 4, 7))


@pytest.mark.usefixtures("float64")
def test_sine_waves() -> None:
    support, query, _ = Sine(points=10, query_points=21).sample(many(4000))
    x, y, grid, values = tensors((support, query))
    assert x.shape == y.shape == (4000, 10, 1)
    assert -5 <= x.min() < -4.99
    assert 4.99 < x.max() < 5
    assert x.mean().abs() < 0.05
    assert torch.equal(grid[0, :, 0], torch.linspace(-5, 5, 21))

    # y = a sin(x + b) = (a cos b) sin x + (a sin b) cos x: two unknowns, ten equations
    def basis(x: Tensor) -> Tensor:
        return torch.cat([x.sin(), x.cos()], -1)

    solution = torch.linalg.lstsq(basis(x), y).solution
    torch.testing.assert_close(basis(x) @ solution, y)
    torch.testing.assert_close(basis(grid) @ solution, values, rtol=0, atol=1e-9)
    in_phase, quadrature = solution.squeeze(-1).unbind(1)
    amplitude = torch.hypot(in_phase, quadrature)
    phase = torch.atan2(quadrature, in_phase) % (2 * math.pi)
    for value, low, high in ((amplitude, 0.1, 5), (phase, 0, 2 * math.pi)):
        share = (value - low) / (high - low)
        assert -1e-9 < share.min() < 0.005
        assert 0.995 < share.max() < 1 + 1e-9
        bins = torch.bincount((share * 10).long().clamp(0, 9), minlength=10)
        assert ((bins - 400) ** 2 / 400).sum() < 38  # 9 d. o. f., p < 2e-5
    assert torch.corrcoef(torch.stack([amplitude, phase]))[0, 1].abs() < 0.06


def test_sine_waves_have_the_default_dtype() -> None:
    support, query, _ = Sine().sample(many(1))
    assert {t.dtype for t in tensors((support, query))} == {torch.float32}


def test_quadratic_bowls() -> None:
    g = torch.Generator().manual_seed(0)
    H, w = torch.randn(3, 2, 2, generator=g), torch.randn(3, 2, generator=g)
    H = H @ H.mT
    support, query, _ = Quadratics(H, w).sample(many(900))
    assert one(support.x).shape == (900, 1, 2, 2)
    which = [(w == y).all(1).nonzero().item() for y in support.y[:, 0]]
    assert torch.equal(one(support.x)[:, 0], H[which])
    assert torch.equal(one(support.x), one(query.x))
    assert torch.equal(support.y, query.y)
    assert torch.bincount(torch.tensor(which)).min() > 250
    theta = torch.tensor([0.3, -2.0])
    off = theta - w[0]
    expected = 0.5 * off @ H[0] @ off
    torch.testing.assert_close(
        quadratic_loss(theta, type(support)(H[:1], w[:1])), expected
    )


DISTRIBUTIONS = [
    FewShotTasks(readable_classes(), ways=3, shots=3),
    Sine(points=7, query_points=9),
    Quadratics(torch.eye(3).expand(5, 3, 3), torch.arange(15.0).view(5, 3)),
    FewShotTasks(
        Examples([torch.randn(n, 2) for n in (4, 9, 5, 4)], tuple("abcd")), 3, 3
    ),
    GroupTasks(torch.randn(30, 2), torch.randn(30), torch.arange(30) % 4, shots=5),
]
each_distribution = pytest.mark.parametrize(
    "tasks", DISTRIBUTIONS, ids=lambda tasks: type(tasks).__name__
)


@each_distribution
@pytest.mark.parametrize("inner_batch", [2, None])
def test_a_task_does_not_depend_on_the_tasks_beside_it(
    tasks: Tasks, inner_batch: int | None
) -> None:
    def cut(who: Draws) -> Episodes:
        return minibatches(tasks.sample(who), who, 4, inner_batch)

    together = cut(draws(3, TRAIN, range(10, 14), range(5), CPU))
    for i, (step, task) in enumerate(product(range(10, 14), range(5))):
        alone = tensors(cut(Draws(3, TRAIN, torch.tensor([[step, task]]))))
        part = [t[i : i + 1] for t in tensors(together)]
        assert all(torch.equal(a, b) for a, b in zip(alone, part, strict=True))


@each_distribution
def test_no_step_and_the_other_device_are_served(tasks: Tasks) -> None:
    assert draw(tasks, 2, inner_batch=3).order.shape == (2, 0, 3)
    moved = tasks.to(CPU)
    pairs = zip(*(tensors(t.sample(many(2))) for t in (tasks, moved)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@each_distribution
def test_drawing_shows_the_tasks_that_evaluation_draws(tasks: Tasks) -> None:
    who = draws(7, TEST, range(1), range(3), CPU)
    expected = minibatches(tasks.sample(who), who, 2, 3)
    found = draw(tasks, 3, 7, inner_steps=2, inner_batch=3)
    pairs = zip(tensors(found), tensors(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


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


def test_support_and_query_of_unequal_classes_share_nothing() -> None:
    tasks = FewShotTasks(named(COUNTS, lambda c, e: 100 * c + e), 5, 2, 1)
    support, query, _ = tasks.sample(many(500))
    both = torch.cat([one(support.x), one(query.x)], 1)
    assert all(len(set(row)) == 15 for row in both.tolist())


def test_the_smallest_class_says_how_many_shots_there_are() -> None:
    classes = named(COUNTS, lambda c, e: e)
    with pytest.raises(UserError, match=r"a class has 3 examples; ask for at most 3"):
        FewShotTasks(classes, ways=2, shots=3)
    with pytest.raises(UserError, match=r"a Splits; give Examples, such as load"):
        FewShotTasks(load("glyphs"), ways=5, shots=1)  # type: ignore[arg-type]


# --- groups of rows

GROUP = torch.tensor([7, 7, 3, 3, 3, 9, 7, 9, 9, 3, 7, 9, 9, 9, 3])  # 4, 5 and 6 rows


def group_tasks(shots: int = 2, query_shots: int = 1) -> GroupTasks:
    rows = torch.arange(len(GROUP))
    x = (rows, torch.stack([rows, GROUP], 1).float())
    return GroupTasks(x, rows.float()[:, None], GROUP, shots, query_shots)


def test_a_task_is_rows_of_one_group() -> None:
    support, query, _ = group_tasks(shots=2, query_shots=2).sample(many(3000))
    groups: Counter[int] = Counter()
    used: Counter[int] = Counter()
    assert isinstance(support.x, tuple)
    assert isinstance(query.x, tuple)
    assert support.x[0].shape == (3000, 2)
    assert support.x[1].shape == (3000, 2, 2)
    assert support.y.shape == (3000, 2, 1)
    rows = torch.cat([support.x[0], query.x[0]], 1)
    assert torch.equal(torch.cat([support.y, query.y], 1)[..., 0], rows.float())
    assert torch.equal(support.x[1][..., 0], support.x[0].float())
    for task in rows.tolist():
        assert len(set(task)) == 4  # support and query share no row
        (group,) = {int(GROUP[row]) for row in task}
        groups[group] += 1
        used.update(task)
    assert set(groups) == {3, 7, 9}
    for count in groups.values():
        assert abs(count - 1000) < 120  # all groups alike, whatever their size
    for group in (3, 7, 9):
        counts = torch.tensor([float(used[r]) for r in range(15) if GROUP[r] == group])
        assert ((counts - counts.mean()).abs() / counts.mean()).max() < 0.1


def test_groups_may_have_any_names_and_y_any_shape() -> None:
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    group = torch.tensor([-5, -5, -5, 40, 40, 40], dtype=torch.int32)
    support, query, _ = draw(GroupTasks(x, y, group, shots=2), 4)
    assert one(support.x).shape == (4, 2, 3)
    assert one(query.x).shape == (4, 1, 3)
    assert support.y.dtype == torch.int64


def test_bad_groups_are_told() -> None:
    x = torch.zeros(6, 2)
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    for bad, message in (
        ((x, x[:5], group, 1), r"x, y and group have \[6, 5, 6\] rows"),
        (((x, x[:4]), x, group, 1), r"\[6, 4, 6, 6\] rows; give one of each a row"),
        ((x, x, x, 1), r"group have \[6, 6, 6\] rows"),
        ((x[:0], x[:0], group[:0], 1), r"\[0, 0, 0\] rows"),
        ((x, x, group, 2), r"group 1 has 2 rows; leave out .* query_shots = 3"),
        ((x, x, group, 0), r"shots = 0; give at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            GroupTasks(*bad)


def test_bad_settings_name_the_value_and_the_remedy() -> None:
    classes = readable_classes()
    with pytest.raises(UserError, match=r"ways = 13, but .* 12 classes; .* at most 12"):
        FewShotTasks(classes, ways=13, shots=1)
    with pytest.raises(
        UserError, match=r"shots = 20 .* = 1, .* 20 examples; .* most 20"
    ):
        FewShotTasks(classes, ways=5, shots=20)
    FewShotTasks(classes, ways=12, shots=19)
    for name in ("ways", "shots", "query_shots"):
        settings = {"ways": 2, "shots": 2, "query_shots": 2, name: 0}
        with pytest.raises(UserError, match=f"{name} = 0; give at least 1"):
            FewShotTasks(classes, **settings)
    with pytest.raises(UserError, match="query_points = -1; give at least 1"):
        Sine(query_points=-1)
    with pytest.raises(UserError, match=r"H has shape \[2, 3, 2\] and w \[2, 3\]"):
        Quadratics(torch.zeros(2, 3, 2), torch.zeros(2, 3))
