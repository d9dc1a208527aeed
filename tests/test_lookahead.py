"""The interpolated optimiser: Lookahead written out, and what torch.optim expects."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from reptile_lib import UserError, mlp
from reptile_lib.lookahead import Interpolated

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


def test_in_the_head() -> None:
    # Gradient 1, rate 1, k = 2, half of the way: 3 -> 2 -> 1, back to 2; -> 1 -> 0 ...
    weight = nn.Parameter(torch.tensor(3.0))
    optimizer = Interpolated(torch.optim.SGD([weight], lr=1.0), 2, epsilon=0.5)
    seen = []
    for _ in range(4):
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        seen.append((weight.item(), optimizer.round_step))
    assert seen == [(2, 1), (2, 0), (1, 1), (1, 0)]


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
    state["interpolated"]["phi"][0].fill_(9.0)
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
    groups = [{"params": [slow], "lr": 0.1}, {"params": [fast]}]
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
    assert optimizer.state_dict()["interpolated"]["round_step"] == within
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


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_copies_go_on_alike(clone: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = Interpolated(torch.optim.Adam(model.parameters(), 0.01), 4, 0.3)
    run(model, optimizer, batches(8)[:6])
    twin, other = clone((model, optimizer))
    expected = run(model, optimizer, batches(8)[6:])
    assert torch.equal(run(twin, other, batches(8)[6:]), expected)


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
        assert len(optimizer.state_dict()["interpolated"]["phi"]) == held
        run(model, optimizer, batches(1))


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
