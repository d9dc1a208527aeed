"""Task distributions: what a task may and may not contain."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_lib import Classes, FewShotTasks, Quadratics, Sine, UserError
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import Episodes, minibatch_order, quadratic_loss

CPU = torch.device("cpu")
CLASSES, EXAMPLES = 12, 20


def many(count: int, seed: int = 0) -> Draws:
    return draws(seed, TRAIN, range(count), range(1), CPU)


def readable_classes() -> Classes:
    """Return pictures from whose shade one reads the class and the example."""
    shade = torch.arange(CLASSES * EXAMPLES, dtype=torch.uint8)
    images = shade.view(CLASSES, EXAMPLES, 1, 1, 1).expand(-1, -1, 1, 3, 3)
    return Classes(images.contiguous(), tuple("abcdefghijkl"))


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
    support, order, query = tasks.sample(many(4, seed), 3, 5)
    assert support.x.shape == (4, ways * shots, 1, 3, 3)
    assert query.x.shape == (4, ways * query_shots, 1, 3, 3)
    assert order.shape == (4, 3, 5)
    for i in range(4):
        label_of = {}
        seen = set()
        for batch, each in ((support, shots), (query, query_shots)):
            classes, examples = read(batch.x[i])
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
    support, _, query = tasks.sample(many(3000), 1, 1)
    for batch in (support, query):
        classes, examples = read(batch.x)
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
    tasks = FewShotTasks(Classes(images, ("a",)), ways=1, shots=2)
    support, _, query = tasks.sample(many(1), 1, 1)
    pixels = torch.cat([support.x, query.x], 1).flatten()
    assert pixels.dtype == torch.float32
    assert sorted(pixels.tolist()) == [0, pytest.approx(0.2), 1]


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 12),
    k=st.integers(0, 6),
    b=st.integers(1, 15),
)
def test_minibatches_are_reshuffled_passes(
    seed: int, size: int, k: int, b: int
) -> None:
    order = minibatch_order(many(2, seed), 4, size, k, b)
    assert order.shape == (2, k, b)
    for row in order.flatten(1).tolist():
        for start in range(0, k * b, size):  # the last pass may be cut short
            one_pass = row[start : start + size]
            assert len(set(one_pass)) == len(one_pass)
            assert set(one_pass) <= set(range(size))


def test_each_pass_is_shuffled_anew_and_a_minibatch_spans_the_seam() -> None:
    order = minibatch_order(many(500), 0, 6, 3, 4).flatten(1)  # 12 = two passes
    first, second = order[:, :6], order[:, 6:]
    assert (first != second).any(1).float().mean() > 0.99  # 719/720
    assert (first[1:] != first[:-1]).any(1).float().mean() > 0.99
    places = torch.bincount((second * 6 + torch.arange(6)).flatten(), minlength=36)
    assert ((places - 500 / 6) ** 2 / (500 / 6)).sum() < 65  # 25 d. o. f.


def test_full_batch_takes_every_example_in_every_step() -> None:
    order = minibatch_order(many(3), 0, 7, 4, None)
    assert torch.equal(order.sort().values, torch.arange(7).expand(3, 4, 7))


@pytest.mark.usefixtures("float64")
def test_sine_waves() -> None:
    (x, y), order, (grid, values) = Sine(points=10, query_points=21).sample(
        many(4000), 2, 5
    )
    assert x.shape == y.shape == (4000, 10, 1)
    assert order.shape == (4000, 2, 5)
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
    support, _, query = Sine().sample(many(1), 1, 2)
    assert {t.dtype for t in (*support, *query)} == {torch.float32}


def test_quadratic_bowls() -> None:
    g = torch.Generator().manual_seed(0)
    H, w = torch.randn(3, 2, 2, generator=g), torch.randn(3, 2, generator=g)
    H = H @ H.mT
    support, order, query = Quadratics(H, w).sample(many(900), 4, None)
    assert support.x.shape == (900, 1, 2, 2)
    assert order.shape == (900, 4, 1)
    which = [(w == y).all(1).nonzero().item() for y in support.y[:, 0]]
    assert torch.equal(support.x[:, 0], H[which])
    assert all(torch.equal(s, q) for s, q in zip(support, query, strict=True))
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
]
each_distribution = pytest.mark.parametrize(
    "tasks", DISTRIBUTIONS, ids=lambda tasks: type(tasks).__name__
)


def tensors(episodes: Episodes) -> list[Tensor]:
    return [*episodes.support, episodes.order, *episodes.query]


@each_distribution
@pytest.mark.parametrize("inner_batch", [2, None])
def test_a_task_does_not_depend_on_the_tasks_beside_it(
    tasks: FewShotTasks | Sine | Quadratics, inner_batch: int | None
) -> None:
    together = tasks.sample(
        draws(3, TRAIN, range(10, 14), range(5), CPU), 4, inner_batch
    )
    for i, (step, task) in enumerate(product(range(10, 14), range(5))):
        who = Draws(3, TRAIN, torch.tensor([[step, task]]))
        alone = tensors(tasks.sample(who, 4, inner_batch))
        part = tensors(together.part(slice(i, i + 1)))
        assert all(torch.equal(a, b) for a, b in zip(alone, part, strict=True))


@each_distribution
def test_no_step_and_the_other_device_are_served(
    tasks: FewShotTasks | Sine | Quadratics,
) -> None:
    assert tasks.sample(many(2), 0, 3).order.shape[:2] == (2, 0)
    moved = tasks.to(CPU)
    pairs = zip(
        *(tensors(t.sample(many(2), 3, 2)) for t in (tasks, moved)), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


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
