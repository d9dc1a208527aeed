"""The interpolated optimiser: Lookahead written out, and what torch.optim expects."""

import copy
import io
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from reptile_lib import UserError, mlp
from reptile_lib.optimizers.lookahead import Interpolated

pytestmark = pytest.mark.usefixtures("float64")

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
INNER: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, 0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
}
each_inner = pytest.mark.parametrize("make", INNER.values(), ids=INNER)


def network() -> nn.Module:
    return mlp(2, 5, 1, activation=nn.Tanh).double()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, 2, generator=g)
    return list(zip(x, x.sin().sum(2, keepdim=True), strict=True))


def run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: list[tuple[Tensor, Tensor]],
    after: Callable[[], Any] = lambda: None,
) -> Tensor:
    for x, y in data:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        after()
    return vector(model)


def vector(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


def lookahead(make: Make, k: int, alpha: float, count: int) -> Tensor:
    """Write algorithm 1 of Zhang et al. out, on vectors, with the paper's names."""
    model = network()
    fast_optimizer = make(model.parameters())
    slow = vector(model)
    for start in range(0, count, k):
        vector_to_parameters(slow.clone(), model.parameters())
        fast = run(model, fast_optimizer, batches(count)[start : start + k])
        if start + k > count:
            return fast
        slow = slow + alpha * (fast - slow)
    return slow


def by_hand(start: float = 3.0, k: int = 2) -> tuple[nn.Parameter, Interpolated]:
    weight = nn.Parameter(torch.tensor(start))
    return weight, Interpolated(torch.optim.SGD([weight], lr=1.0), k, epsilon=0.5)


def descend(weight: Tensor, step: Callable[[], Any], count: int) -> list[float]:
    """Return where `count` steps at gradient 1 lead."""
    seen = []
    for _ in range(count):
        weight.grad = torch.tensor(1.0)
        step()
        seen.append(weight.item())
    return seen


def test_in_the_head() -> None:
    # Gradient 1, rate 1, k = 2, half of the way: 3 -> 2 -> 1, back to 2; -> 1 -> 0 ...
    weight, optimizer = by_hand()
    assert descend(weight, optimizer.step, 4) == [2, 2, 1, 1]
    assert optimizer.round_step == 0


@each_inner
@pytest.mark.parametrize("count", [12, 13])
def test_is_lookahead(make: Make, count: int) -> None:
    model = network()
    found = run(model, Interpolated(make(model.parameters()), 4, 0.3), batches(count))
    torch.testing.assert_close(
        found, lookahead(make, 4, 0.3, count), rtol=0, atol=1e-13
    )
    assert (found - vector(network())).abs().max() > 0.01


@each_inner
def test_whole_steps_are_the_inner_optimizer(make: Make) -> None:
    plain, model = network(), network()
    expected = run(plain, make(plain.parameters()), batches(7))
    optimizer = Interpolated(make(model.parameters()), 3, 1.0)
    assert torch.equal(run(model, optimizer, batches(7)), expected)


@each_inner
def test_no_step_goes_nowhere(make: Make) -> None:
    model = network()
    found = run(model, Interpolated(make(model.parameters()), 3, 0.0), batches(6))
    assert torch.equal(found, vector(network()))


@given(epsilon=st.floats(0, 1), lr=st.floats(1e-3, 0.2))
def test_one_inner_step_is_sgd_at_the_product(epsilon: float, lr: float) -> None:
    plain, model = network(), network()
    expected = run(plain, torch.optim.SGD(plain.parameters(), epsilon * lr), batches(5))
    inner = torch.optim.SGD(model.parameters(), lr)
    found = run(model, Interpolated(inner, 1, epsilon), batches(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_inner_state_is_kept_over_the_end_of_a_round() -> None:
    weight = nn.Parameter(torch.tensor(0.0))
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    optimizer = Interpolated(inner, 1, 0.5)
    for expected in (1.0, 1.5, 1.75):  # the sum of halves goes on
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        assert inner.state[weight]["momentum_buffer"].item() == expected
    assert weight.item() == -(1.0 + 1.5 + 1.75) / 2


@each_inner
@pytest.mark.parametrize("stop", [4, 6])  # between rounds, and within one
def test_resume_equals_no_stop(make: Make, stop: int) -> None:
    model = network()
    expected = run(model, Interpolated(make(model.parameters()), 4, 0.3), batches(11))

    first = network()
    optimizer = Interpolated(make(first.parameters()), 4, 0.3)
    run(first, optimizer, batches(11)[:stop])
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    run(first, optimizer, batches(11)[stop:])  # must not reach what was saved

    second = network()
    second.load_state_dict(weights)
    optimizer = Interpolated(make(second.parameters()), 9, 0.9)
    optimizer.load_state_dict(state)
    assert (optimizer.inner_steps, optimizer.epsilon) == (4, 0.3)
    assert torch.equal(run(second, optimizer, batches(11)[stop:]), expected)


def test_loaded_state_is_a_copy() -> None:
    model = network()
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.1), 4, 0.5)
    run(model, optimizer, batches(2))
    state = optimizer.state_dict()
    other = network()
    twin = Interpolated(torch.optim.SGD(other.parameters(), 0.1), 4, 0.5)
    twin.load_state_dict(state)
    state["state"][0]["interpolated"].fill_(9.0)
    run(other, twin, batches(2))
    assert vector(other).abs().max() < 2


def test_a_schedule_reaches_the_inner_optimizer_also_after_loading() -> None:
    model = network()
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.1), 2, 0.5)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    run(model, optimizer, batches(2), scheduler.step)
    assert optimizer.inner.param_groups[0]["lr"] == 0.1 / 4
    assert scheduler.get_last_lr() == [0.1 / 4]


@pytest.mark.parametrize("on_inner", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: StepLR(o, 2, 0.5),
        lambda o: CosineAnnealingLR(o, 9),
        lambda o: OneCycleLR(o, 0.1, total_steps=20),  # turns the momentum as well
    ],
)
def test_schedulers_drive_it(schedule: Callable[[Any], Any], on_inner: bool) -> None:
    def make(p: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, 0.05, 0.9)

    plain, model = network(), network()
    bare = make(plain.parameters())
    expected = run(plain, bare, batches(6), schedule(bare).step)
    optimizer = Interpolated(make(model.parameters()), 3, 1.0)
    scheduler = schedule(optimizer.inner if on_inner else optimizer)
    assert torch.equal(run(model, optimizer, batches(6), scheduler.step), expected)


def test_epsilon_may_change_on_the_way() -> None:
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = Interpolated(torch.optim.SGD([weight], lr=1.0), 1, epsilon=1.0)
    for epsilon, expected in ((1.0, -1.0), (0.5, -1.5), (0.0, -1.5)):
        optimizer.epsilon = epsilon
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        assert weight.item() == expected


def test_closures_reach_the_inner_optimizer() -> None:
    def descend(wrap: Callable[[torch.optim.Optimizer], torch.optim.Optimizer]) -> Any:
        model, (x, y), calls = network(), batches(1)[0], 0
        optimizer = wrap(torch.optim.LBFGS(model.parameters(), max_iter=4))

        def closure() -> float:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss.item()

        losses = [optimizer.step(closure) for _ in range(3)]
        return losses, calls, vector(model)

    losses, calls, found = descend(lambda inner: Interpolated(inner, 3, 1.0))
    expected = descend(lambda inner: inner)
    assert calls > 3  # several evaluations a step: rounds count steps
    assert (losses, calls) == expected[:2]
    assert torch.equal(found, expected[2])


def test_groups_keep_their_own_rates() -> None:
    slow, fast = (nn.Parameter(torch.zeros(())) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [slow], "lr": 0.1}, {"params": [fast]}]
    optimizer = Interpolated(torch.optim.SGD(groups, lr=1.0), 1, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    slow.grad, fast.grad = torch.ones(()), torch.ones(())
    optimizer.step()
    assert (slow.item(), fast.item()) == pytest.approx((-0.05, -0.5))


@pytest.mark.parametrize("within", [0, 1])
def test_groups_may_be_added(within: int) -> None:
    old, new = (nn.Parameter(torch.tensor(0.0)) for _ in range(2))
    optimizer = Interpolated(torch.optim.SGD([old], lr=1.0), 2, 0.5)

    def step(count: int) -> None:
        for _ in range(count):
            old.grad, new.grad = torch.tensor(1.0), torch.tensor(1.0)
            optimizer.step()

    step(within)
    optimizer.add_param_group({"params": [new], "lr": 0.1})
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.round_step == within
    step(2 - within)
    # To the end of the round: half of the way that each of them went.
    assert old.item() == -1.0
    assert new.item() == pytest.approx(-0.1 * (2 - within) / 2)


def test_frozen_parameters_stay() -> None:
    model = network()
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    before = frozen.clone()
    inner = torch.optim.Adam(model.parameters(), 0.1)
    run(model, Interpolated(inner, 2, 0.5), batches(4))
    assert torch.equal(frozen, before)


def test_zero_grad() -> None:
    model = network()
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.1), 2, 0.5)
    run(model, optimizer, batches(1))
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_weights_loaded_between_rounds_are_where_it_goes_on() -> None:
    model = network()
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.05), 3, 0.5)
    run(model, optimizer, batches(3))
    model.load_state_dict(network().state_dict())
    again = network()
    expected = run(
        again,
        Interpolated(torch.optim.SGD(again.parameters(), 0.05), 3, 0.5),
        batches(3),
    )
    assert torch.equal(run(model, optimizer, batches(3)), expected)


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_copies_go_on_alike(clone: Callable[[Any], Any], outer: bool) -> None:
    model = network()
    optimizer = Interpolated(torch.optim.Adam(model.parameters(), 0.01), 4, 0.3)
    if outer:
        optimizer = Interpolated(optimizer, 5, 0.5)
    run(model, optimizer, batches(8)[:6])
    twin, other = clone((model, optimizer))
    assert other.param_groups is other.inner.param_groups
    assert other.state is other.inner.state
    expected = run(model, optimizer, batches(8)[6:])
    assert torch.equal(run(twin, other, batches(8)[6:]), expected)


def test_a_shallow_copy_shares_the_inner_optimizer() -> None:
    weight, optimizer = by_hand()
    descend(weight, optimizer.step, 1)
    twin = copy.copy(optimizer)
    assert twin.param_groups is optimizer.param_groups
    assert descend(weight, twin.step, 1) == [2]


def test_hooks_run_once_a_step() -> None:
    model, calls = network(), []
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.1), 2, 0.5)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    run(model, optimizer, batches(3))
    assert len(calls) == 3


def test_phi_is_held_only_within_a_round() -> None:
    model = network()
    optimizer = Interpolated(torch.optim.SGD(model.parameters(), 0.1), 2, 0.5)
    for held in (0, 4, 0):
        state = optimizer.state_dict()["state"]
        assert sum("interpolated" in entry for entry in state.values()) == held
        run(model, optimizer, batches(1))


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("eager", "sgd"),
        ("eager", "momentum"),
        ("eager", "adam"),
        ("aot_eager", "sgd"),
        pytest.param("inductor", "momentum", marks=pytest.mark.slow),
    ],
)
def test_compiled_steps_are_steps(backend: str, name: str) -> None:
    def train(wrap: Callable[[Any], Any]) -> Tensor:
        model = network()
        optimizer = Interpolated(INNER[name](model.parameters()), 2, 0.5)
        scheduler = StepLR(optimizer, 2, 0.5)
        step = wrap(lambda: optimizer.step())
        for x, y in batches(5):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            step()
            scheduler.step()
        assert optimizer.round_step == 1
        return vector(model)

    compiled = train(lambda step: torch.compile(step, backend=backend))
    assert torch.equal(compiled, train(lambda step: step))


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:Graph break")  # torch 2.6 tells of the hook below
@pytest.mark.parametrize("wrapped", [False, True])
def test_compiled_steps_in_the_head(wrapped: bool) -> None:
    weight, optimizer = by_hand()

    def closure() -> float:
        optimizer.zero_grad()
        (weight * 1.0).backward()
        return weight.item()

    hooked: list[float] = []
    optimizer.register_step_post_hook(lambda *_: hooked.append(weight.item()))
    losses: list[float] = []
    bare: Any = optimizer.step
    step = torch.compile((lambda c: bare(c)) if wrapped else bare, backend="eager")
    found = descend(weight, lambda: losses.append(step(closure)), 4)
    assert found == [2, 2, 1, 1]
    assert losses == [3, 2, 2, 1]
    assert hooked == [2, 2, 1, 1]


@pytest.mark.usefixtures("compiler")
def test_a_whole_compiled_step_of_training() -> None:
    def train(wrap: Callable[[Any], Any]) -> Tensor:
        model = network()
        optimizer = Interpolated(torch.optim.Adam(model.parameters(), 0.01), 2, 0.5)

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()

        called = wrap(step)
        for x, y in batches(5):
            called(x, y)
        return vector(model)

    compiled = train(lambda step: torch.compile(step, backend="eager"))
    torch.testing.assert_close(compiled, train(lambda step: step), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_library_does_not_import_the_compiler() -> None:
    code = "import sys, reptile_lib; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("within", [0, 1])
def test_state_loaded_into_the_inner_optimizer_is_the_one(within: int) -> None:
    weight, optimizer = by_hand()
    descend(weight, optimizer.step, within)
    plain = torch.optim.SGD([nn.Parameter(torch.tensor(0.0))], lr=0.5, momentum=0.5)
    descend(plain.param_groups[0]["params"][0], plain.step, 1)  # the buffer is 1
    optimizer.inner.load_state_dict(plain.state_dict())
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.state is optimizer.inner.state
    assert optimizer.state[weight]["momentum_buffer"].item() == 1
    scheduler = StepLR(optimizer, 1, 0.5)
    moved = {0: [2.25, (3 + 2.25 - 0.25 * 1.75) / 2], 1: [(3 + 2 - 0.75) / 2]}[within]

    def step() -> None:
        optimizer.step()
        scheduler.step()

    assert descend(weight, step, 2 - within) == moved
    assert optimizer.inner.param_groups[0]["lr"] == 0.5 ** (3 - within)


def test_groups_and_state_may_be_assigned_and_the_inner_ones_added_to() -> None:
    weight, optimizer = by_hand()
    optimizer.inner.param_groups[0]["momentum"] = 1.0
    assert descend(weight, optimizer.step, 2) == [2, 1.5]  # 3 -> 2 -> 0
    optimizer.state = defaultdict(dict)  # forgets the momentum
    assert descend(weight, optimizer.step, 1) == [0.5]
    new = nn.Parameter(torch.tensor(8.0))
    optimizer.inner.add_param_group({"params": [new], "lr": 2.0, "momentum": 0.0})
    new.grad = torch.tensor(1.0)
    assert descend(weight, optimizer.step, 1) == [(1.5 - 1.5) / 2]
    assert new.item() == (8 + 6) / 2
    optimizer.param_groups = optimizer.param_groups[1:]
    assert descend(new, optimizer.step, 2) == [5, 5]
    assert weight.item() == 0


def test_hooks_of_saving_and_loading() -> None:
    calls: list[str] = []

    def hooked(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        o = optimizer

        def note(name: str, returned: Any = None) -> Callable[..., Any]:
            def hook(*args: Any) -> Any:
                assert args[0] is o
                if len(args) == 2:
                    assert {"state", "param_groups"} <= args[1].keys()
                    args[1][name] = True
                calls.append(name)
                return returned and {**args[1], returned: True}

            return hook

        o.register_state_dict_pre_hook(note("save 2"))
        o.register_state_dict_pre_hook(note("save 1"), prepend=True)
        o.register_state_dict_post_hook(note("saved 2", "new"))
        o.register_state_dict_post_hook(note("saved 1"), prepend=True)
        o.register_load_state_dict_pre_hook(note("load 1", "newer"))
        o.register_load_state_dict_pre_hook(note("load 2"))
        o.register_load_state_dict_post_hook(note("loaded 1"))
        gone = o.register_load_state_dict_post_hook(note("loaded 2"))
        gone.remove()
        return o

    _, ours = by_hand()
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(()))], 1.0)
    seen = []
    for optimizer in (hooked(plain), hooked(ours)):
        calls.clear()
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        marks = [k for k in state if k not in ("state", "param_groups")]
        seen.append((marks, [*calls]))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 7


def test_hooks_see_and_change_what_is_saved_and_loaded() -> None:
    weight, optimizer = by_hand()
    descend(weight, optimizer.step, 1)

    def saved(_: Any, state: dict[str, Any]) -> None:
        assert state["state"][0]["interpolated"].item() == 3  # φ is there
        state["param_groups"][0]["interpolated"]["epsilon"] = 0.25

    def load(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        (group,) = state["param_groups"]
        settings = {**group["interpolated"], "inner_steps": 3}
        return {**state, "param_groups": [{**group, "interpolated": settings}]}

    optimizer.register_state_dict_post_hook(saved)
    state = optimizer.state_dict()
    other, twin = by_hand(2.0)
    twin.register_load_state_dict_pre_hook(load)
    twin.register_load_state_dict_post_hook(lambda o: setattr(o, "epsilon", 1 / 8))
    twin.load_state_dict(state)
    assert (twin.inner_steps, twin.epsilon, twin.round_step) == (3, 1 / 8, 1)
    assert descend(other, twin.step, 2) == [1, 3 - 3 / 8]


def test_hooks_of_the_inner_optimizer_run_as_well() -> None:
    calls: list[int] = []
    _, optimizer = by_hand()
    optimizer.inner.register_state_dict_post_hook(lambda *_: calls.append(1))
    optimizer.inner.register_load_state_dict_post_hook(lambda *_: calls.append(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == [1, 2]


OPTIONS = {
    "default": StateDictOptions(),
    "whole": StateDictOptions(full_state_dict=True, cpu_offload=True),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
}


@pytest.mark.parametrize("stop", [0, 4, 6])
@pytest.mark.parametrize("options", OPTIONS)
@each_inner
def test_distributed_checkpoints(make: Make, options: str, stop: int) -> None:
    model, data = network(), batches(11)
    optimizer = Interpolated(make(model.parameters()), 4, 0.3)
    first = run(model, optimizer, data[:stop])
    optimizer.zero_grad()  # without gradients torch takes a step of its own
    state = get_optimizer_state_dict(model, optimizer, options=OPTIONS[options])
    assert optimizer.round_step == stop % 4
    other = network()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    twin = Interpolated(make(other.parameters()), 9, 0.9)
    if options == "whole" and not twin.defaults.get("momentum", 1):
        return  # torch wants a tensor in the state
    state = pickle.loads(pickle.dumps(state))

    def load() -> None:
        set_optimizer_state_dict(other, twin, state, options=OPTIONS[options])

    if options == "flat" and stop == 6:  # torch loads only names that are there
        with pytest.raises(UserError, match=r"φ was lost.*round_step = 0"):
            load()
        return
    load()
    assert (twin.inner_steps, twin.epsilon, twin.round_step) == (4, 0.3, stop % 4)
    assert torch.equal(vector(other), first)
    expected = run(model, optimizer, data[stop:])
    assert torch.equal(run(other, twin, data[stop:]), expected)
    if stop:
        never_saved = network()
        plain = Interpolated(make(never_saved.parameters()), 4, 0.3)
        assert torch.equal(run(never_saved, plain, data), expected)


def test_distributed_checkpoints_leave_the_round_alone() -> None:
    weight, optimizer = by_hand()
    model = nn.Module()
    model.weight = weight
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        get_optimizer_state_dict(model, optimizer)
        found += descend(weight, optimizer.step, 1)
    assert found == [2, 2, 1, 1]


def test_a_rate_of_nought_is_a_step() -> None:
    weight, optimizer = by_hand()
    optimizer.param_groups[0]["lr"] = 0.0  # a warm-up's start
    assert descend(weight, optimizer.step, 1) == [3]
    assert optimizer.round_step == 1


def nested(make: Make, model: nn.Module, k: int = 3) -> Interpolated:
    return Interpolated(Interpolated(make(model.parameters()), 2, 0.5), k, 0.25)


def test_nested_in_the_head() -> None:
    # 3 -> 2 -> 2 -> 1, and a quarter of the way from 3; the inner round is open then,
    # its φ is 2: 1.5 -> 1.75 -> 0.75 -> -0.25 -> 0.75, a quarter of the way from 2.5.
    weight, inner = by_hand()
    found = descend(weight, Interpolated(inner, 3, 0.25).step, 6)
    assert found == [2, 2, 2.5, 1.75, 0.75, 2.0625]


@each_inner
@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("stop", [2, 3, 4, 5, 6])
def test_nested_ones_save_and_load(make: Make, distributed: bool, stop: int) -> None:
    model = network()
    expected = run(model, nested(make, model), batches(9))
    first = network()
    optimizer = nested(make, first)
    run(first, optimizer, batches(9)[:stop])
    second = network()
    second.load_state_dict(first.state_dict())
    twin = nested(make, second, k=7)
    if distributed:
        set_optimizer_state_dict(
            second, twin, get_optimizer_state_dict(first, optimizer)
        )
    else:
        twin.load_state_dict(optimizer.state_dict())
    assert torch.equal(run(second, twin, batches(9)[stop:]), expected)


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, float("nan")])
def test_bad_epsilon_is_named(epsilon: float) -> None:
    inner = torch.optim.SGD([nn.Parameter(torch.zeros(()))], 0.1)
    with pytest.raises(UserError, match=f"epsilon = {epsilon}"):
        Interpolated(inner, 5, epsilon)
    optimizer = Interpolated(inner, 5, 0.5)
    with pytest.raises(UserError, match=f"epsilon = {epsilon}"):
        optimizer.epsilon = epsilon


def test_other_mistakes_are_named() -> None:
    model = network()
    inner = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UserError, match="inner_steps = 0"):
        Interpolated(inner, 0, 0.5)
    with pytest.raises(UserError, match="is no optimiser"):
        Interpolated(list(model.parameters()), 5, 0.5)  # type: ignore[arg-type]
    optimizer = Interpolated(inner, 5, 0.5)
    with pytest.raises(UserError, match="another optimiser saved it"):
        optimizer.load_state_dict(inner.state_dict())
    run(model, optimizer, batches(1))
    wide = mlp(3, 5, 1).double()
    stranger = Interpolated(torch.optim.SGD(wide.parameters(), 0.1), 5, 0.5)
    before = stranger.state_dict()
    with pytest.raises(UserError, match=r"\[5, 2\].*these are \[\[5, 3\]"):
        stranger.load_state_dict(optimizer.state_dict())
    assert stranger.state_dict() == before  # nothing is half loaded
