"""Meta-steps on fixed buffers: the same result as without, whatever the shapes.

On a CPU the buffers are those of the graphs, and what a graph would replay is computed.
Whether graphs find the same φ on a GPU is among the checks of `benchmarks.gpu`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from reptile_lib import (
    FOMAML,
    MAML,
    Examples,
    FewShotTasks,
    Joint,
    MetaLearner,
    Reptile,
    Sine,
    adam,
    linear,
    mlp,
)
from reptile_lib.fit.graphs import (
    Advance,
    captured,
    in_a_row,
    one_by_one,
    recordable,
)
from reptile_lib.fit.prepare import training
from reptile_lib.inner import InnerOptimizer, Moments
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import MetaState, Training, reptile
from reptile_lib.optimizers.formulas import momentum, sgd
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import Episodes, minibatches
from tests import textbook

METHODS: dict[str, Callable[..., MetaLearner]] = {
    "Reptile": Reptile,
    "FOMAML": FOMAML,
    "MAML": MAML,
    "Joint": Joint,
}
STEPS = 23


def run_of(method: str, **settings: Any) -> tuple[MetaState, Training]:
    """Return the start and the settings of a run."""
    given = {"criterion": F.mse_loss, "device": "cpu", **settings}
    learner = METHODS[method](mlp(1, 8, 1), adam(0.01), 3, 4, **given)
    schedule = linear(0.1, 0)
    run = training(learner, Sine(7, 11), STEPS, 5, schedule, 0)
    phi = run.U.kernel.pack(learner.phi)
    return learner.state._replace(phi=phi), run


def gone(
    advance: Advance, now: MetaState, chunks: Sequence[range]
) -> tuple[MetaState, Tensor]:
    """Return where the meta-steps of these chunks lead, and all that was watched."""
    watched = []
    for chunk in chunks:
        for reached, seen in advance(now, chunk):
            now = reached
            watched.append(seen)
    return now, torch.cat(watched)


def same(one: MetaState, other: MetaState) -> bool:
    tensors = ([s.phi, *(s.inner_state or {}).values()] for s in (one, other))
    outer = ([*(s.outer_state or {}).values()] for s in (one, other))
    pairs = [*zip(*tensors, strict=True), *zip(*outer, strict=True)]
    return one.meta_step == other.meta_step and all(torch.equal(*p) for p in pairs)


@pytest.mark.parametrize("outer", [None, momentum(0.5)], ids=["plain", "momentum"])
@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("method", METHODS)
def test_steps_in_a_row_are_the_plain_ones(
    method: str, moments: Moments, outer: Any
) -> None:
    """Also where they do not go into rows, and after a halt in the middle."""
    start, run = run_of(method, moments=moments, outer=outer)
    plain, losses = gone(one_by_one(run), start, [range(STEPS)])
    for most, halts in ((5, [0, STEPS]), (5, [0, 8, 9, STEPS]), (50, [0, STEPS])):
        chunks = [range(a, b) for a, b in pairwise(halts)]
        row, watched = gone(in_a_row(run, most), start, chunks)
        assert same(row, plain)
        torch.testing.assert_close(watched, losses, rtol=0, atol=0, equal_nan=True)


def test_a_row_goes_on_where_another_run_stood() -> None:
    start, run = run_of("Reptile", outer=adam(0.02))
    whole, _ = gone(in_a_row(run, 4), start, [range(STEPS)])
    half, _ = gone(in_a_row(run, 4), start, [range(10)])
    later, _ = gone(in_a_row(run, 4), half, [range(10, STEPS)])
    assert same(later, whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inner", [adam(0.01), sgd(0.01)], ids=["adam", "sgd"])
def test_a_row_asks_for_as_many_steps_as_it_can(
    method: str, inner: InnerOptimizer
) -> None:
    """One that may start without a state, rows of four, and the rest one by one."""
    start, run = run_of(method)
    run = replace(run, U=InnerLoop(run.U.kernel, inner))
    advance = in_a_row(run, 4)
    counts = [len(seen) for _, seen in advance(start, range(15))]
    assert counts == [1, 4, 4, 4, 1, 1]
    *_, (now, _) = advance(start, range(1))
    assert [len(seen) for _, seen in advance(now, range(1, 6))] == [4, 1]


def test_epsilon_may_be_a_tensor_in_some_steps() -> None:
    start, run = run_of("Reptile")
    body = torch.arange(len(start.phi)) % 2

    def epsilon(done: float) -> float | Tensor:
        return 0.5 * body if done > 0.4 else 0.1

    run = replace(run, epsilon=epsilon)
    plain, _ = gone(one_by_one(run), start, [range(STEPS)])
    row, _ = gone(in_a_row(run, 4), start, [range(STEPS)])
    torch.testing.assert_close(row.phi, plain.phi, rtol=0, atol=1e-7)


def test_a_row_in_float64_is_the_textbooks(float64: None) -> None:
    """The loop of the tests, task by task and weight by weight, finds the same φ."""
    start, run = run_of("Reptile", moments="reset")
    row, _ = gone(in_a_row(run, 4), start, [range(STEPS)])
    model = mlp(1, 8, 1)
    phi = textbook.vector(model)
    for step in range(STEPS):
        who = draws(0, TRAIN, range(step, step + 1), range(5), start.phi.device)
        tasks = run.sample(start.phi, who)
        ends = []
        for x, y, order in zip(*tasks.support, tasks.order, strict=True):
            net = textbook.model_at(model, phi)
            steps = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.999))
            textbook.descend(net, steps, F.mse_loss, x, y, order)
            ends.append(textbook.vector(net))
        phi += 0.1 * (1 - step / STEPS) * (torch.stack(ends).mean(0) - phi)
    found = run.U.kernel.unpack(row.phi)
    torch.testing.assert_close(found, phi, rtol=0, atol=1e-12)


def test_a_rule_in_parts_on_buffers_is_the_plain_one() -> None:
    """As several processes record it, and meta-batches in parts: 3 tasks and 2."""
    start, run = run_of("Reptile", at_once=3)
    replayed = captured(lambda *given: reptile(run.U, *given))
    recorded = replace(run, rule=lambda _, *given: replayed(*given))
    plain, row = (
        gone(one_by_one(r), start, [range(STEPS)])[0] for r in (run, recorded)
    )
    assert same(row, plain)


def test_rows_of_runs_side_by_side_are_the_plain_ones() -> None:
    """φ [runs, P] and tasks [n, runs, ...] go through the same buffers."""
    start, run = run_of("Reptile")
    noise = torch.randn(2, len(start.phi), generator=torch.Generator().manual_seed(0))
    start, run = start._replace(phi=noise), replace(run, tasks=Both())
    plain, _ = gone(one_by_one(run), start, [range(STEPS)])
    row, _ = gone(in_a_row(run, 4), start, [range(STEPS)])
    assert same(row, plain)
    assert not torch.equal(row.phi[0], row.phi[1])


def unequal() -> FewShotTasks:
    """Return tasks of classes of 6, 8, ... 14 rows of numbers."""
    chance = torch.Generator().manual_seed(0)
    rows = [torch.randn(6 + 2 * i, 3, generator=chance) for i in range(5)]
    return FewShotTasks(Examples(rows, tuple("abcde")), ways=3, shots=4)


def test_drawing_on_buffers_gives_the_same_tasks() -> None:
    """Also in chunks of other sizes, and where they come again."""
    learner = Reptile(mlp(3, 8, 3), adam(0.01), 3, 4, device="cpu")
    tasks = unequal()
    run = training(learner, tasks, STEPS, 5, linear(0.1, 0), 0)
    start = learner.state._replace(phi=run.U.kernel.pack(learner.phi))
    chunks = [range(9), range(9, 18), range(18, STEPS)]
    plain, losses = gone(one_by_one(run), start, chunks)
    assert recordable(tasks)
    for drawn in (tasks, Unmarked(tasks)):
        there = replace(run, tasks=drawn)
        row, watched = gone(in_a_row(there, 4), start, chunks)
        assert same(row, plain)
        torch.testing.assert_close(watched, losses, rtol=0, atol=0, equal_nan=True)


@dataclass
class Unmarked:
    """Tasks that do not say whether they are recordable."""

    tasks: FewShotTasks

    def to(self, device: torch.device) -> "Unmarked":
        return self

    def sample(self, draws: Draws) -> Episodes:
        return self.tasks.sample(draws)


def test_a_float_epsilon_keeps_its_digits_in_float64(float64: None) -> None:
    torch.set_default_dtype(torch.float32)  # in which 0.1 has 8 digits
    start, run = run_of("Reptile")
    run = replace(run, epsilon=lambda done: 0.1, U=InnerLoop(run.U.kernel, sgd(0.01)))
    start = start.map(torch.Tensor.double)
    plain, _ = gone(one_by_one(run), start, [range(STEPS)])
    row, _ = gone(in_a_row(run, 4), start, [range(STEPS)])
    torch.testing.assert_close(row.phi, plain.phi, rtol=0, atol=1e-14)


class Both:
    """The waves of two seeds, [m, runs, ...]."""

    def to(self, device: torch.device) -> "Both":
        return self

    def sample(self, draws: Draws) -> Episodes:
        seeds = map(draws.with_seed, (0, 1))
        found = [minibatches(Sine(7, 11).sample(who), who, 3, 4) for who in seeds]
        both: Episodes = tree_map(lambda *same: torch.stack(same, 1), *found)
        return both
