"""Meta-steps on fixed buffers: the same result as without, whatever the shapes."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reptile_lib
from reptile_lib import (
    Batch,
    Episodes,
    InnerLoop,
    InnerOptimizer,
    MetaLearner,
    Sine,
    SwitchAtThreshold,
    adam,
    conv4,
    linear,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.fast.choose import make_kernel
from reptile_lib.fast.graphs import captured, rates_on
from reptile_lib.meta import Rule, fomaml, joint, maml, reptile
from reptile_lib.runs.side_by_side import fit_side_by_side

RULES = {"Reptile": reptile, "FOMAML": fomaml, "MAML": maml, "Joint": joint}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def learner(rule: Rule, **how: Any) -> MetaLearner:
    how = {"criterion": F.mse_loss, "inner": adam(0.01)} | how
    return MetaLearner(
        mlp(1, 8, 1), inner_steps=3, inner_batch=4, rule=rule, device="cpu", **how
    )


HOW: dict[str, Any] = {"meta_steps": 7, "meta_batch": 5, "epsilon": linear(0.1, 0)}


def assert_same(one: MetaLearner, other: MetaLearner) -> None:
    assert torch.equal(one.phi, other.phi)
    for name, value in (one.inner_state or {}).items():
        assert torch.equal(value, (other.inner_state or {})[name])
    assert one.history[-1]["loss"] == other.history[-1]["loss"]


@pytest.mark.parametrize("at_once", [256, 3])  # 3: parts of 3 and of 2 tasks
@pytest.mark.parametrize("moments", ["carry", "reset"])
@each_rule
def test_replayed_steps_are_the_plain_ones(
    rule: Rule, moments: str, at_once: int
) -> None:
    plain, replayed = (
        learner(how, moments=moments, at_once=at_once) for how in (rule, captured(rule))
    )
    for one in (plain, replayed):
        one.fit(Sine(7, 11), **HOW)
    assert_same(plain, replayed)


def test_replayed_runs_side_by_side_are_the_plain_ones() -> None:
    rates = [adam(0.01), adam(0.02)]
    plain, replayed = (
        [learner(rule, inner=inner) for inner in rates]
        for rule in (reptile, captured(reptile))
    )
    for runs in (plain, replayed):
        fit_side_by_side(runs, [Sine(7, 11)] * 2, (0, 1), **HOW)
    for one, other in zip(plain, replayed, strict=True):
        assert_same(one, other)


# Whether graphs find the same φ on a GPU is among the checks of `benchmarks.gpu`. What
# can be asked here is whether there could be one. A graph cannot ask the host for
# anything. Tensors of the device "meta" have no values: an operation that wants one
# raises, and one with a tensor from elsewhere is seen.
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
}


def foreign_operations(
    rule: Rule, model: nn.Module, criterion: Any, inner: InnerOptimizer
) -> list[str]:
    """Return what a meta-step of two runs, 3 tasks each, wants from elsewhere."""
    images = criterion is F.cross_entropy

    def batch(size: int) -> Batch:
        x = torch.empty(3, 2, size, *((1, 28, 28) if images else (1,)), device=META)
        y = torch.empty(3, 2, size, *(() if images else (1,)), device=META)
        return Batch(x, y.long() if images else y)

    kernel = make_kernel(model, criterion, device=META, engine="stacked")
    size = sum(p.numel() for p in model.parameters())
    phi = torch.empty(2, size, device=META)
    order = torch.empty(3, 2, 2, 4, dtype=torch.int64, device=META)
    tasks = Episodes(batch(10), batch(5), order)
    U = InnerLoop(kernel, inner)
    # The first call makes buffers; what follows starts with the moments it left.
    state = rule(U, phi, tasks, None).state
    with Foreign() as foreign:
        rule(U, phi, tasks, None)
        rule(U, phi, tasks, state)
    return foreign.found


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the device META does not have, though no graph records it."""
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr(reptile_lib.inner, "_check_rate", lambda *_: None)


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
    moved = rates_on(inner, torch.empty(1, device=META))
    assert not foreign_operations(reptile, mlp(1, 8, 1), F.mse_loss, moved)
    assert moved.name == inner.name
    assert moved.stop == inner.stop


@pytest.mark.usefixtures("on_meta")
def test_a_rate_in_the_cpus_memory_would_be_seen() -> None:
    inner = INNERS["a rate per run"]
    found = foreign_operations(reptile, mlp(1, 8, 1), F.mse_loss, inner)
    assert found == ["aten._to_copy.default"]
