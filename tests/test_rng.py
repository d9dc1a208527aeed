"""Random numbers that depend on what they are for."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reptile_lib import UserError
from reptile_lib.rng import TEST, TRAIN, VALIDATE, Draws, draws, philox

CPU = torch.device("cpu")


# Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    words = [int(word, 16) for word in counter.split()]
    k0, k1 = (int(word, 16) for word in key.split())
    # three columns: a vector of counters is hashed as each of them alone
    c0, c1, c2, c3 = torch.tensor([words, [0, 1, 2, 3], words]).T
    for out, word in zip(
        philox((c0, c1, c2, c3), (k0, k1)), expected.split(), strict=True
    ):
        assert f"{out[0].item():08x}" == word
        assert out[2] == out[0] != out[1]


def many(count: int, seed: int = 0, stream: int = TRAIN) -> Draws:
    return draws(seed, stream, range(count), range(1), CPU)


def chi_square(seen: Counter[tuple[int, ...]], cells: int) -> float:
    expected = seen.total() / cells
    missing = cells - len(seen)
    return (
        sum((n - expected) ** 2 / expected for n in seen.values()) + missing * expected
    )


def rows(values: Tensor) -> Counter[tuple[int, ...]]:
    return Counter(tuple(row) for row in values.tolist())


def test_uniform_is_uniform() -> None:
    u = many(2000).uniform(0, 5, 2)
    assert u.shape == (2000, 5, 2)
    assert u.dtype == torch.float64
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    bins = rows((u * 20).long().flatten(1).reshape(-1, 1))
    assert chi_square(bins, 20) < 50  # 19 degrees of freedom: p < 0.0002
    # neighbours within a task and across tasks are independent
    for pair in (u.flatten(1)[:, :2], torch.stack([u[:-1, 0, 0], u[1:, 0, 0]], 1)):
        assert chi_square(rows((pair * 4).long()), 16) < 44  # 15


def test_permutations_are_uniform_orders() -> None:
    orders = many(6000).permutations(0, 2, 3)
    assert orders.shape == (6000, 2, 3)
    for column in orders.unbind(1):
        seen = rows(column)
        assert set(seen) == set(permutations(range(3)))
        assert chi_square(seen, 6) < 26  # 5 degrees of freedom: p < 0.0001
    assert (orders[:, 0] != orders[:, 1]).any(1).float().mean() > 0.7  # 5/6


@pytest.mark.parametrize(("count", "size"), [(2, 5), (3, 4), (3, 3), (1, 9)])
def test_distinct_is_uniform_in_set_and_order(count: int, size: int) -> None:
    seen = rows(many(20_000).distinct(0, count, size))
    possible = set(permutations(range(size), count))
    assert set(seen) == possible
    # mean n − 1, variance 2(n − 1); five standard deviations
    n = len(possible) - 1
    assert chi_square(seen, len(possible)) < n + 5 * (2 * n) ** 0.5


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(0, 200),
    st.integers(0, 9),
)
def test_distinct_and_permutations_hold_each_value_once(
    seed: int, count: int, more: int, slot: int
) -> None:
    who = many(5, seed)
    chosen = who.distinct(slot, count, count + more)
    assert all(len(set(row)) == count for row in chosen.tolist())
    assert chosen.min() >= 0
    assert chosen.max() < count + more
    orders = who.permutations(slot, 2, count)
    assert torch.equal(orders.sort().values, torch.arange(count).expand(5, 2, -1))


@given(
    seed=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**31),
    steps=st.integers(1, 5),
    tasks=st.integers(1, 5),
)
def test_numbers_do_not_depend_on_who_draws_them(
    seed: int, first: int, steps: int, tasks: int
) -> None:
    def numbers(who: Draws) -> Tensor:
        values = [who.uniform(3, 7), who.distinct(1, 3, 9), who.permutations(2, 1, 6)]
        return torch.cat([v.flatten(1).double() for v in values], 1)

    together = numbers(
        draws(seed, TRAIN, range(first, first + steps), range(tasks), CPU)
    )
    alone = [
        numbers(Draws(seed, TRAIN, torch.tensor([[step, task]])))
        for step in range(first, first + steps)
        for task in range(tasks)
    ]
    assert torch.equal(together, torch.cat(alone))
    half = draws(
        seed, TRAIN, range(first, first + steps), range(tasks // 2, tasks), CPU
    )
    by_step = together.view(steps, tasks, -1)[:, tasks // 2 :]
    assert torch.equal(numbers(half), by_step.flatten(0, 1))


def test_everything_that_names_a_number_changes_it() -> None:
    def numbers(seed: int, stream: int, step: int, task: int, slot: int) -> Tensor:
        return Draws(seed, stream, torch.tensor([[step, task]])).uniform(slot, 50)

    drawn = [
        numbers(*who)
        for who in [
            (0, TRAIN, 0, 0, 0),
            (1, TRAIN, 0, 0, 0),
            (2**32 - 1, TRAIN, 0, 0, 0),
            (0, VALIDATE, 0, 0, 0),
            (0, TEST, 0, 0, 0),
            (0, TRAIN, 1, 0, 0),
            (0, TRAIN, 0, 1, 0),
            (0, TRAIN, 0, 0, 1),
        ]
    ]
    values = torch.cat(drawn)
    assert len(values.unique()) == values.numel()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    with pytest.raises(
        UserError, match=f"seed = {seed}; give one from 0 to 4294967295"
    ):
        many(1, seed)
