"""Whether a GPU could record meta-steps: a graph cannot ask the host for anything.

Tensors of the device "meta" have no values. An operation that wants one raises, and one
with a tensor from elsewhere is seen.
"""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reptile_lib import (
    Batch,
    Episodes,
    Examples,
    FewShotTasks,
    InnerOptimizer,
    Sine,
    SwitchAtThreshold,
    adam,
    constant,
    conv4,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.fast.choose import make_kernel
from reptile_lib.fit.graphs import a_row, recordable
from reptile_lib.fit.prepare import training
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import MetaState, Rule, fomaml, joint, maml, reptile
from reptile_lib.rng import TRAIN, Draws
from reptile_lib.tasks import Tasks, minibatches

RULES = {"Reptile": reptile, "FOMAML": fomaml, "MAML": maml, "Joint": joint}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)

META = torch.device("meta")


class Foreign(TorchDispatchMode):
    """Collect the operations that have to do with a tensor that is not on META."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        if any(isinstance(t, Tensor) and t.device != META for t in leaves):
            self.found.append(str(func))
        return out


def unknown(outputs: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(outputs, y)


INNERS = {
    "sgd": sgd(0.1),
    "momentum": momentum(0.1),
    "adam": adam(0.1, (0.9, 0.999)),
    "stopped": adam(0.1).until(SwitchAtThreshold(0.5)),
    "a rate per run": sgd(torch.tensor([[0.1], [0.2]])),
    "a rate per weight": adam(torch.full((25,), 0.1)),
}


def foreign_operations(
    rule: Rule,
    model: nn.Module,
    criterion: Any,
    inner: InnerOptimizer,
    outer: InnerOptimizer | None = None,
    rates_as_given: bool = False,
) -> list[str]:
    """Return what two meta-steps of two runs, 3 tasks each, want from elsewhere."""
    images = criterion is F.cross_entropy

    def batch(size: int) -> Batch:
        x = torch.empty(6, 2, size, *((1, 28, 28) if images else (1,)), device=META)
        y = torch.empty(6, 2, size, *(() if images else (1,)), device=META)
        return Batch(x, y.long() if images else y)

    size = sum(p.numel() for p in model.parameters())
    phi = torch.empty(2, size, device=META)
    learner: Any = SimpleNamespace(
        kernel=make_kernel(model, criterion, device=META, engine="stacked"),
        state=MetaState(phi, None, None, 0),
        rule=rule,
        inner=inner,
        inner_steps=2,
        inner_batch=4,
        engine="stacked",
        moments="carry",
        outer=outer,
        team=None,
        at_once=6,
    )
    run = training(learner, cast(Tasks, None), 10, 3, constant(1.0), seed=0)
    if rates_as_given:
        run = replace(run, U=InnerLoop(run.U.kernel, inner))
    order = torch.empty(6, 2, 2, 4, dtype=torch.int64, device=META)
    tasks = Episodes(batch(10), batch(5), order)
    epsilons = torch.empty(2, device=META)
    # The first call makes buffers; what follows starts with the moments it left.
    _, state, moved, _ = a_row(run, phi, None, None, tasks, epsilons)
    foreign = Foreign()
    with foreign:
        a_row(run, phi, None, None, tasks, epsilons)
        a_row(run, phi, state, moved, tasks, epsilons)
    return foreign.found


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the device META does not have, though no graph records it."""
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())


@pytest.mark.slow
@each_rule
@pytest.mark.usefixtures("on_meta")
def test_a_meta_step_asks_the_host_for_nothing(rule: Rule) -> None:
    for criterion in (F.mse_loss, unknown):  # written out, and by autograd
        assert not foreign_operations(rule, mlp(1, 8, 1), criterion, adam(0.1))
    if rule is not maml:
        assert not foreign_operations(rule, conv4(5), F.cross_entropy, adam(0.1))


@pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)
@pytest.mark.usefixtures("on_meta")
def test_no_inner_optimiser_asks_the_host(inner: InnerOptimizer) -> None:
    assert not foreign_operations(reptile, mlp(1, 8, 1), F.mse_loss, inner)
    if not isinstance(inner.lr, Tensor):  # an outer optimiser has one rate
        given = reptile, mlp(1, 8, 1), F.mse_loss, sgd(0.1)
        assert not foreign_operations(*given, outer=inner)


@pytest.mark.usefixtures("on_meta")
def test_a_rate_in_the_cpus_memory_would_be_seen() -> None:
    inner = INNERS["a rate per run"]
    given = reptile, mlp(1, 8, 1), F.mse_loss, inner
    found = foreign_operations(*given, rates_as_given=True)
    assert set(found) == {"aten._to_copy.default"}


def few_shot(*counts: int, **settings: Any) -> FewShotTasks:
    """Return tasks of classes with so many pictures each."""
    pixels = torch.arange(16 * sum(counts)).remainder(251).to(torch.uint8)
    pictures = pixels.view(-1, 1, 4, 4).split(counts)
    examples = Examples(pictures, tuple("abc"), **settings)
    return FewShotTasks(examples, ways=2, shots=3)


@pytest.mark.parametrize(
    "tasks",
    [few_shot(5, 5, 5), few_shot(5, 4, 9), Sine(7, 11)],
    ids=["as many each", "unequal", "sine"],
)
def test_drawing_tasks_asks_the_host_for_nothing(tasks: Tasks) -> None:
    assert recordable(tasks)
    who = Draws(0, TRAIN, torch.empty(6, 2, dtype=torch.int64, device=META))
    there = tasks.to(META)
    there.sample(who)  # puts on the device what stays there
    foreign = Foreign()
    with foreign:
        found = minibatches(there.sample(who), who, 3, 4)
    assert not foreign.found
    assert all(leaf.device == META for leaf in tree_leaves(found))


@pytest.mark.parametrize("tasks", [few_shot(5, 5, 5), few_shot(5, 4, 9), Sine(7, 11)])
def test_drawing_is_the_same_calls_whatever_the_numbers(tasks: Tasks) -> None:
    """What is traced for some numbers, as a graph would be, is right for others."""

    def draw(numbers: Tensor) -> Any:
        who = Draws(0, TRAIN, numbers)
        return tree_leaves(minibatches(tasks.sample(who), who, 3, 4))

    some, others = (torch.tensor([[i, 0], [i, 1]]) for i in (3, 2**20))
    draw(some)  # what it keeps is made, as before a recording
    traced = make_fx(draw)(some)
    found, here, before = traced(others), draw(others), draw(some)
    assert all(torch.equal(a, b) for a, b in zip(found, here, strict=True))
    assert not torch.equal(found[0], before[0])  # the support sets differ


def test_numbers_of_the_host_would_be_seen() -> None:
    """In the first call, the numbers of the classes' examples go to the device."""
    who = Draws(0, TRAIN, torch.empty(6, 2, dtype=torch.int64, device=META))
    foreign = Foreign()
    with foreign:
        few_shot(5, 4, 9).to(META).sample(who)
    assert foreign.found


def test_what_one_writes_oneself_is_recorded_only_if_it_says_so() -> None:
    assert not recordable(few_shot(5, 5, 5, to_input=lambda x: x))

    class Own:
        def to(self, device: torch.device) -> "Own":
            return self

        def sample(self, draws: Draws) -> Episodes:
            return Sine().sample(draws)

    class Promised(Sine):
        def sample(self, draws: Draws) -> Episodes:
            return super().sample(draws)

    assert not recordable(Own())
    assert not recordable(Promised())
