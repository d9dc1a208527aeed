"""Inner loops of many tasks at once, against the serial textbook loop."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import Batch, UserError, adam, adapt, conv4, gd, mlp, momentum, sgd
from reptile_lib.engine import Engine, choose_engine, make_loss, map_tasks, precise
from reptile_lib.inner import InnerOptimizer, mean_state
from reptile_lib.params import interpolate, layout, ravel
from tests import textbook

TASKS, STEPS, SUPPORT, BATCH = 3, 5, 8, 4
ENGINES: list[Engine] = ["serial", "threads", "stacked"]
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[InnerOptimizer, Make]] = {
    "sgd": (sgd(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "gd": (gd(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (momentum(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, 0.8)),
    "adam-0": (
        adam(0.01, (0.0, 0.999)),
        lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.999)),
    ),
    "adam": (adam(0.01, (0.9, 0.99)), lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.99))),
}
each_optimizer = pytest.mark.parametrize(
    ("inner", "make"), OPTIMIZERS.values(), ids=OPTIMIZERS
)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def regression() -> tuple[nn.Module, textbook.Criterion, Batch]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(TASKS, SUPPORT, 2, generator=g, dtype=torch.float64)
    y = torch.randn(TASKS, SUPPORT, 1, generator=g, dtype=torch.float64)
    return mlp(2, 7, 1).double(), F.mse_loss, Batch(x, y)


def pictures() -> tuple[nn.Module, textbook.Criterion, Batch]:
    g = torch.Generator().manual_seed(2)
    # 12 -> 6 -> 3 -> 2 -> 1: even and odd sizes
    x = torch.rand(TASKS, SUPPORT, 1, 12, 12, generator=g, dtype=torch.float64)
    y = torch.randint(3, (TASKS, SUPPORT), generator=g)
    return conv4(ways=3, size=12).double(), F.cross_entropy, Batch(x, y)


def minibatches(inner: InnerOptimizer) -> Tensor:
    """Return a random order [n, k, b]."""
    b = SUPPORT if inner.full_batch else BATCH
    g = torch.Generator().manual_seed(3)
    u = torch.rand(TASKS, STEPS, SUPPORT, generator=g)
    return u.argsort(-1)[..., :b]


def without_norm_shifts(model: nn.Module) -> Tensor:
    """Mask the biases that batch norm takes out again.

    Their gradient is zero but for rounding, which Adam blows up to full steps.
    """
    where = layout(model)
    keep = [not n.startswith("convolutions") or "weight" in n for n in where.names]
    return torch.tensor(keep).repeat_interleave(torch.tensor(where.sizes))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("problem", [regression, pictures])
@each_engine
@each_optimizer
def test_adapt_is_the_textbook_loop(
    inner: InnerOptimizer, make: Make, engine: Engine, problem: Callable[[], Any]
) -> None:
    model, criterion, support = problem()
    order, keep = minibatches(inner), without_norm_shifts(model)
    loss, _ = make_loss(model, criterion)
    phi = ravel(model)
    theta, _, losses, _ = adapt(loss, phi, support, order, inner, engine=engine)
    assert losses.shape == (TASKS, STEPS)
    for i in range(TASKS):
        one = textbook.model_at(model, phi)
        expected = textbook.descend(
            one, make(one.parameters()), criterion, support.x[i], support.y[i], order[i]
        )
        assert_same(theta[i][keep], textbook.vector(one)[keep])
        assert_same(losses[i], torch.tensor(expected, dtype=losses.dtype))
    assert (theta - phi).abs().amax() > 1e-3  # or equality would say nothing
    assert torch.equal(phi, ravel(model))


@pytest.mark.parametrize("problem", [regression, pictures])
@each_engine
@each_optimizer
def test_carried_state_is_one_optimizer_over_all_tasks(
    inner: InnerOptimizer, make: Make, engine: Engine, problem: Callable[[], Any]
) -> None:
    # The authors' loop: weights are put back after each task, moments are not.
    model, criterion, support = problem()
    order, keep = minibatches(inner), without_norm_shifts(model)
    loss, _ = make_loss(model, criterion)
    serial = textbook.model_at(model, phi := ravel(model))
    optimizer = make(serial.parameters())
    state = None
    for i in range(TASKS):
        rows = slice(i, i + 1)
        theta, states, *_ = adapt(
            loss,
            phi,
            Batch(support.x[rows], support.y[rows]),
            order[rows],
            inner,
            state,
            engine,
        )
        state = mean_state(states)
        before = textbook.vector(serial)
        textbook.descend(
            serial, optimizer, criterion, support.x[i], support.y[i], order[i]
        )
        after = textbook.vector(serial)
        assert_same(theta[0][keep], after[keep])
        phi = interpolate(phi, theta[0], 0.7)
        nn.utils.vector_to_parameters(
            before + 0.7 * (after - before), serial.parameters()
        )
    assert_same(phi[keep], textbook.vector(serial)[keep])


@each_engine
def test_adapt_starts_each_task_from_its_own_phi_and_state(engine: Engine) -> None:
    model, criterion, support = regression()
    inner = adam(0.01, (0.9, 0.99))
    order = minibatches(inner)
    loss, _ = make_loss(model, criterion)
    whole = adapt(loss, ravel(model), support, order, inner, engine=engine)
    theta, state, *_ = adapt(
        loss, ravel(model), support, order[:, :2], inner, engine=engine
    )
    halves = adapt(loss, theta, support, order[:, 2:], inner, state, engine)
    assert_same(halves.theta, whole.theta)
    for name, value in whole.state.items():
        assert_same(halves.state[name], value)
    assert torch.equal(whole.state["step"], torch.full((TASKS,), 5.0).double())


@each_engine
def test_a_state_of_nothing_is_no_state(engine: Engine) -> None:
    model, criterion, support = regression()
    inner = adam(0.01)
    loss, _ = make_loss(model, criterion)
    arguments = (loss, ravel(model), support, minibatches(inner), inner)
    found, fresh = (adapt(*arguments, state, engine) for state in ({}, None))
    assert torch.equal(found.theta, fresh.theta)


def test_tasks_on_threads_are_the_tasks_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, criterion, support = pictures()
    inner = sgd(0.05)
    loss, forward = make_loss(model, criterion)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        theta = adapt(
            loss, ravel(model), support, minibatches(inner), inner, engine="threads"
        ).theta
        outputs = map_tasks(forward, "threads", theta, support.x)
        results += [(theta, outputs)]
    for one, two in zip(*results, strict=True):
        assert_same(one, two)


@each_engine
def test_no_inner_step_changes_nothing(engine: Engine) -> None:
    model, criterion, support = regression()
    loss, _ = make_loss(model, criterion)
    order = torch.empty(TASKS, 0, BATCH, dtype=torch.int64)
    for inner in (sgd(0.1), adam(0.1)):
        adapted = adapt(loss, ravel(model), support, order, inner, engine=engine)
        assert torch.equal(adapted.theta, ravel(model).expand(TASKS, -1))
        assert adapted.losses.shape == (TASKS, 0)


def test_momentum_by_hand() -> None:
    # g = 1, then 2: m = 1, then 0.5·1 + 2 = 2.5; θ = 0 − 0.1·1 − 0.1·2.5
    inner = momentum(0.1, 0.5)
    theta, state = torch.zeros(1), inner.init(torch.zeros(1))
    for g in (1.0, 2.0):
        theta, state = inner.update(torch.tensor([g]), state, theta)
    assert theta.item() == pytest.approx(-0.35)
    assert state["m"].item() == pytest.approx(2.5)


def test_first_adam_step_without_moments_is_a_step_of_full_size() -> None:
    # v̂ = g² after one step, so θ moves by lr whatever the gradient's size: the reason
    # why resetting moments between tasks is another procedure than carrying them.
    inner = adam(1e-3, betas=(0.0, 0.999))
    g, theta = torch.tensor([1e-4, -7.0]), torch.zeros(2)
    moved, state = inner.update(g, inner.init(theta), theta)
    torch.testing.assert_close(moved, torch.tensor([-1e-3, 1e-3]), rtol=2e-4, atol=0)
    assert "m" not in state


def test_adams_bias_correction_is_exact_in_float32() -> None:
    # a constant gradient gives v̂ = g² at every step, also late in training
    inner = adam(1.0, betas=(0.0, 0.999))
    g = torch.tensor([0.5])
    for step in (0.0, 1.0, 10.0, 1e4, 2e6):
        v = 0.25 * (1 - 0.999**step)
        state = {"step": torch.tensor(step), "v": torch.tensor([v])}
        moved, _ = inner.update(g, state, torch.zeros(1))
        assert moved.item() == pytest.approx(-1, rel=1e-6)


def test_state_is_averaged_over_tasks() -> None:
    states = {
        "v": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "step": torch.tensor([5.0, 5]),
    }
    mean = mean_state(states)
    assert mean["v"].tolist() == [2, 4]
    assert mean["step"].item() == 5


def test_precision_is_set_and_put_back() -> None:
    cudnn = torch.backends.cudnn

    def settings() -> tuple[object, ...]:
        matmul = torch.get_float32_matmul_precision()
        return matmul, cudnn.allow_tf32, cudnn.enabled, cudnn.deterministic

    before = settings()
    with precise("tf32"):
        assert settings() == ("high", True, *before[2:])
    assert settings() == before
    with precise("float32"):
        assert settings() == ("highest", False, *before[2:])
    with pytest.raises(ZeroDivisionError), precise("tf32"):
        _ = 1 / 0
    assert settings() == before


def test_engine_is_chosen_by_model_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    for cores, conv4_engine in ((1, "threads"), (2, "stacked")):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=cores: n)
        assert choose_engine(conv4(5), F.cross_entropy, cpu) == conv4_engine
        assert choose_engine(conv4(5), F.mse_loss, cpu) == "threads"
        assert choose_engine(other, F.cross_entropy, cpu) == "threads"
        assert choose_engine(mlp(1, 1), F.mse_loss, cpu) == "stacked"
        for model in (conv4(5), other, mlp(1, 1)):
            assert choose_engine(model, F.cross_entropy, cuda) == "stacked"


@pytest.mark.parametrize("make", [sgd, gd, momentum, adam])
@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_named(
    make: Callable[[float], InnerOptimizer], lr: float
) -> None:
    with pytest.raises(UserError, match=f"{make.__name__}: lr = {lr} .* positive"):
        make(lr)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_named(beta: float) -> None:
    with pytest.raises(UserError, match=rf"beta = {beta}; .* \[0, 1\)"):
        momentum(0.1, beta)
    with pytest.raises(UserError, match=rf"betas\[0\] = {beta}; .* \[0, 1\)"):
        adam(0.1, (beta, 0.9))
    with pytest.raises(UserError, match=rf"betas\[1\] = {beta}; .* \[0, 1\)"):
        adam(0.1, (0.0, beta))
