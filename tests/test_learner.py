"""The training loop: exact repetition, exact resume, bounded memory, clear refusals."""

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_book.costs import PeakBytes
from reptile_lib import (
    FOMAML,
    MAML,
    Batch,
    Episodes,
    Examples,
    FewShotTasks,
    InnerLoop,
    InnerOptimizer,
    Joint,
    MetaLearner,
    Quadratics,
    Reptile,
    Sine,
    UserError,
    adam,
    constant,
    conv4,
    draw,
    gd,
    linear,
    load,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.device import find_device
from reptile_lib.fast.choose import Engine
from reptile_lib.kernel import of_model
from reptile_lib.meta import reptile
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.storage import checkpoint
from reptile_lib.tasks import minibatches
from reptile_lib.theory.quadratics import quadratic_loss
from tests import textbook

CPU = torch.device("cpu")
METHODS = {"Reptile": Reptile, "FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
Make = Callable[..., MetaLearner]


def sine_learner(
    method: Make = Reptile, inner: InnerOptimizer | None = None, **options: Any
) -> MetaLearner:
    model = mlp(1, 8, 8, 1, activation=nn.Tanh)
    inner = inner or adam(0.01, (0.9, 0.99))
    settings = {"criterion": F.mse_loss, "device": "cpu"} | options
    return method(model, inner, 3, 4, **settings)


SINE = Sine(points=7, query_points=11)


def fit(learner: MetaLearner, **options: Any) -> MetaLearner:
    settings: dict[str, Any] = {
        "meta_steps": 12,
        "meta_batch": 3,
        "epsilon": linear(0.1, 0.0),
    }
    learner.fit(SINE, **(settings | options))
    return learner


def assert_identical(one: MetaLearner, two: MetaLearner) -> None:
    """Compare bit for bit; of the history all but the seconds."""
    assert torch.equal(one.phi, two.phi)
    assert one.state.meta_step == two.state.meta_step
    assert (one.inner_state or {}).keys() == (two.inner_state or {}).keys()
    for name, value in (one.inner_state or {}).items():
        assert torch.equal(value, (two.inner_state or {})[name])
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in learner.history]
        for learner in (one, two)
    ]
    assert rows[0] == rows[1]


# --- what is computed


class Bowl(nn.Module):
    """A model whose one parameter is its answer, so that φ can be followed by hand."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.expand(len(x), 1)


def half_square(answer: Tensor, target: Tensor) -> Tensor:
    return (answer - target).square().sum(1).mean() / 2


def bowl_learner(start: float, steps: int = 1, **options: Any) -> MetaLearner:
    return Reptile(Bowl(start), sgd(0.5), steps, criterion=half_square, **options)


BOWL = Quadratics(torch.ones(1, 1, 1), torch.zeros(1, 1))


def test_fit_in_the_head() -> None:
    # w = 0 and α = ½: φ̃ = φ/2, so φ ← φ(1 − ε/2) with ε = 1, ¾, ½, ¼
    learner = bowl_learner(64.0)
    learner.fit(BOWL, meta_steps=4, epsilon=linear(1.0, 0.0))
    assert learner.phi.item() == 64 * (1 / 2) * (5 / 8) * (3 / 4) * (7 / 8)
    assert [row["epsilon"] for row in learner.history] == [1, 0.75, 0.5, 0.25]
    assert [row["meta_step"] for row in learner.history] == [1, 2, 3, 4]
    phis = [64, 32, 20, 15]
    assert [row["loss"] for row in learner.history] == [phi**2 / 2 for phi in phis]


@pytest.mark.usefixtures("float64")
def test_serial_reptile_is_the_authors_loop() -> None:
    # one model, one Adam: weights move by ε(φ̃ − φ) after each task, moments stay
    learner = sine_learner()
    model = textbook.model_at(learner.model, learner.phi)
    optimizer = torch.optim.Adam(model.parameters(), 0.01, (0.9, 0.99))
    steps, losses = 9, []
    fit(learner, meta_steps=steps, meta_batch=1, epsilon=linear(1.0, 0.0), seed=4)
    for step in range(steps):
        who = draws(4, TRAIN, range(step, step + 1), range(1), CPU)
        (x, y), _, order = minibatches(SINE.sample(who), who, 3, 4)
        old = textbook.vector(model)
        descent = textbook.descend(model, optimizer, F.mse_loss, x[0], y[0], order[0])
        losses.append(sum(descent) / 3)
        new = old + (1 - step / steps) * (textbook.vector(model) - old)
        nn.utils.vector_to_parameters(new, model.parameters())
    torch.testing.assert_close(learner.phi, textbook.vector(model), rtol=0, atol=1e-10)
    assert [row["loss"] for row in learner.history] == pytest.approx(losses)


@pytest.mark.usefixtures("float64")
def test_epsilon_one_with_one_task_gives_the_adapted_weights() -> None:
    learner = sine_learner(inner=sgd(0.05))
    start = learner.phi
    fit(learner, meta_steps=1, meta_batch=1, epsilon=constant(1.0))
    task = draw(SINE, stream=TRAIN, inner_steps=3, inner_batch=4)
    U = InnerLoop(of_model(learner.model, F.mse_loss), learner.inner)
    target = reptile(U, start, task, None)
    torch.testing.assert_close(learner.phi, target.phi, rtol=0, atol=1e-13)


@each_method
def test_epsilon_zero_leaves_phi(method: Make) -> None:
    learner = sine_learner(method)
    before = learner.phi.clone()
    assert torch.equal(fit(learner, epsilon=constant(0.0)).phi, before)


@pytest.mark.usefixtures("float64")
def test_one_full_batch_step_of_reptile_is_joint_training() -> None:
    settings: dict[str, Any] = {"criterion": F.mse_loss, "device": "cpu"}
    one = Reptile(mlp(1, 8, 1), gd(0.05), 1, **settings)
    two = Joint(mlp(1, 8, 1), gd(0.05), 1, **settings)
    one.fit(SINE, meta_steps=8, meta_batch=4, epsilon=constant(0.4))
    two.fit(SINE, meta_steps=8, meta_batch=4, epsilon=constant(0.4 * 0.05))
    torch.testing.assert_close(one.phi, two.phi, rtol=0, atol=1e-13)


def test_full_batch_descent_takes_the_whole_support_set() -> None:
    assert Reptile(mlp(1, 1), gd(0.1), 1, 5).inner_batch is None
    assert Reptile(mlp(1, 1), sgd(0.1), 1, 5).inner_batch == 5


def test_moments_are_carried_or_reset() -> None:
    carried = fit(sine_learner())
    reset = fit(sine_learner(moments="reset"))
    assert carried.inner_state is not None
    assert carried.inner_state["step"].item() == 12 * 3
    assert reset.inner_state is None or reset.inner_state["step"].item() == 3
    assert not torch.equal(carried.phi, reset.phi)


@each_method
def test_training_leaves_the_model_alone(method: Make) -> None:
    learner = sine_learner(method)
    before = [p.detach().clone() for p in learner.model.parameters()]
    start = learner.phi
    fit(learner)
    assert not torch.equal(learner.phi, start)
    assert not learner.phi.requires_grad
    for p, q in zip(learner.model.parameters(), before, strict=True):
        assert torch.equal(p, q)


# --- the same again


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
def test_a_seed_fixes_phi_whatever_is_drawn_at_once(
    method: Make, engine: Engine
) -> None:
    expected = fit(sine_learner(method, engine=engine), seed=5)
    for at_once in (3, 7, 24):
        again = fit(sine_learner(method, engine=engine, at_once=at_once), seed=5)
        assert_identical(again, expected)
    assert not torch.equal(fit(sine_learner(method), seed=6).phi, expected.phi)


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("moments", ["carry", "reset"])
def test_stop_and_restore_equals_no_stop(
    method: Make, moments: str, tmp_path: Path
) -> None:
    whole = fit(sine_learner(method, moments=moments))
    path, copy = tmp_path / "x.safetensors", tmp_path / "copy.safetensors"

    def keep(learner: MetaLearner) -> dict[str, float]:
        shutil.copy(path, copy)  # of step 4, as if the run was killed now
        return {}

    settings = {"checkpoint_to": path, "checkpoint_every": 4}
    fit(
        sine_learner(method, moments=moments),
        validate=keep,
        validate_every=7,
        **settings,
    )
    again = sine_learner(method, moments=moments)
    again.restore(copy)
    assert again.state.meta_step == 4
    with pytest.raises(UserError, match=r"12 meta-steps, which one of 4 would replace"):
        fit(again, **settings)
    assert_identical(fit(again, checkpoint_to=copy, checkpoint_every=4), whole)
    final = sine_learner(method, moments=moments)
    final.restore(path)
    assert_identical(final, whole)


class Stop:
    """A rule that is interrupted at its n-th call."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return reptile(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [3, 15, 256])  # 1, 5 or all meta-steps
@pytest.mark.parametrize("n", [1, 4, 5, 12])
def test_ctrl_c_saves_what_was_done(n: int, at_once: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = fit(sine_learner())
    stopped = sine_learner(rule=Stop(n), at_once=at_once)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, checkpoint_to=path)
    again = sine_learner()
    again.restore(path)
    assert again.state.meta_step == n - 1
    fit(again, checkpoint_to=path)
    assert_identical(again, whole)


def test_ctrl_c_while_validating_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"

    def stop(learner: MetaLearner) -> dict[str, float]:
        raise KeyboardInterrupt

    def measure(learner: MetaLearner) -> dict[str, float]:
        return {"norm": learner.phi.norm().item()}

    whole = fit(sine_learner(), validate=measure, validate_every=5)
    with pytest.raises(KeyboardInterrupt):
        fit(sine_learner(), validate=stop, validate_every=5, checkpoint_to=path)
    again = sine_learner()
    again.restore(path)
    fit(again, validate=measure, validate_every=5)
    assert torch.equal(again.phi, whole.phi)


# --- history, validation, checkpoints


class Counted:
    """Sine waves that count how often tasks are drawn, and how many."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def to(self, device: torch.device) -> "Counted":
        return self

    def sample(self, draws: Draws) -> Episodes:
        found = SINE.sample(draws)
        self.calls.append(len(found.support.y))
        return found


def test_a_short_run_draws_its_tasks_at_once() -> None:
    # rows of the history, one a meta-step here, must not make the device wait
    tasks, learner = Counted(), sine_learner()
    learner.fit(tasks, meta_steps=100, meta_batch=2, epsilon=constant(0.1))
    checked, *drawn = tasks.calls
    assert checked == 2  # `fit` first asks whether the model takes them
    assert drawn == [200]
    assert [row["meta_step"] for row in learner.history] == list(range(1, 101))


def test_tasks_are_drawn_so_many_at_a_time() -> None:
    tasks, learner = Counted(), sine_learner(at_once=7)
    learner.fit(tasks, meta_steps=5, meta_batch=3, epsilon=constant(0.1))
    assert tasks.calls[1:] == [6, 6, 3]
    learner.fit(tasks, meta_steps=6, meta_batch=16, epsilon=constant(0.1))
    assert tasks.calls[5:] == [7, 7, 2]


@pytest.mark.usefixtures("float64")
def test_history_has_a_row_a_share_of_the_run_and_a_row_a_validation() -> None:
    measured = []

    def measure(learner: MetaLearner) -> dict[str, float]:
        measured.append(learner.state.meta_step)
        return {"norm": learner.phi.norm().item()}

    learner = bowl_learner(1.0)
    learner.fit(
        BOWL.to(CPU),
        meta_steps=402,  # a row every two
        epsilon=constant(1.0),
        validate=measure,
        validate_every=5,
    )
    assert measured == list(range(5, 401, 5))
    rows = {row["meta_step"]: row for row in learner.history}
    assert list(rows) == sorted({*range(2, 403, 2), *range(5, 401, 5)})
    assert [step for step, row in rows.items() if "norm" in row] == measured
    assert rows[5]["norm"] == 2**-5
    # a row's loss is the mean since the row before, φ²/2 at φ = 2⁻⁵; 2⁻⁶, 2⁻⁷
    assert rows[6]["loss"] == 4.0**-5 / 2
    assert rows[8]["loss"] == (4.0**-6 + 4.0**-7) / 4
    seconds = [row["seconds"] for row in learner.history]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_checkpoints_are_written_when_asked(tmp_path: Path) -> None:
    def on_disk(path: Path) -> int:
        done: int = checkpoint.load(path).metadata["meta_step"]
        return done

    for every, expected in ((5, [0, 5, 10]), (0, [0])):
        path = tmp_path / str(every)
        seen: list[int] = []

        def epsilon(done: float, path: Path = path, seen: list[int] = seen) -> float:
            seen.append(on_disk(path))
            return 0.1

        learner = sine_learner(at_once=3)  # a look at every meta-step
        fit(learner, epsilon=epsilon, checkpoint_to=path, checkpoint_every=every)
        assert sorted(set(seen)) == expected
        assert on_disk(path) == 12


def test_more_meta_steps_continue_a_run() -> None:
    learner = fit(sine_learner(), meta_steps=5, epsilon=constant(0.1))
    fit(learner, meta_steps=12, epsilon=constant(0.1))
    assert torch.equal(learner.phi, fit(sine_learner(), epsilon=constant(0.1)).phi)


# --- memory


def peak_bytes(method: Make, k: int, engine: Engine) -> int:
    model = mlp(1, 40, 40, 1, activation=nn.Tanh)
    learner = method(model, adam(0.01), k, 4, criterion=F.mse_loss, engine=engine)
    episodes = draw(SINE, 2, inner_steps=k, inner_batch=4)
    U = InnerLoop(learner.kernel, learner.inner)
    with PeakBytes(touched=True) as measured:
        learner.rule(U, learner.phi, episodes, None)
    peak: int = measured.peak
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
@pytest.mark.parametrize("method", [Reptile, FOMAML], ids=["Reptile", "FOMAML"])
def test_memory_does_not_grow_with_the_inner_steps(
    method: Make, engine: Engine
) -> None:
    few, many = (peak_bytes(method, k, engine) for k in (3, 30))
    assert few > 2 * 1761 * 4  # the measure sees at least the parameters of two tasks
    assert many < 1.05 * few


def test_memory_of_maml_grows_with_the_inner_steps() -> None:
    few, many = (peak_bytes(MAML, k, "stacked") for k in (3, 30))
    assert many > 5 * few


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
def test_memory_is_bounded_for_a_meta_batch_of_any_size(engine: Engine) -> None:
    def peak(meta_batch: int) -> int:
        learner = sine_learner(engine=engine, at_once=16)
        with PeakBytes(touched=True) as measured:
            fit(learner, meta_steps=1, meta_batch=meta_batch)
        peak: int = measured.peak
        return peak

    assert peak(6 * 16) < 1.3 * peak(2 * 16)
    assert peak(16) > 2 * peak(16 // 8)  # the measure sees the tasks


@pytest.mark.slow
@each_method
@pytest.mark.usefixtures("float64")
def test_a_meta_batch_in_parts_is_the_whole(method: Make) -> None:
    whole = fit(sine_learner(method), meta_batch=5)
    parts = fit(sine_learner(method, at_once=2), meta_batch=5)
    torch.testing.assert_close(parts.phi, whole.phi, rtol=0, atol=1e-12)
    for name, value in (whole.inner_state or {}).items():
        found = (parts.inner_state or {})[name]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-12)
    losses = [[row["loss"] for row in x.history] for x in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


# --- refusals


def test_too_little_memory_is_told_with_what_to_change() -> None:
    def hungry(*arguments: Any) -> Any:
        return torch.empty(2**60)  # an exabyte is refused by every allocator

    learner = sine_learner(rule=hungry)
    with pytest.raises(UserError, match=r"meta_batch = 3.*too little memory.*lower"):
        fit(learner)
    assert learner.state.meta_step == 0


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(sine_learner(rule=broken))


def test_tf32_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match='precision = "tf32" on cpu'):
        sine_learner(precision="tf32")


def poisoned(step: int) -> Callable[..., Any]:
    """Return a rule whose loss is not a number from one call on."""
    calls = 0

    def rule(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        target = reptile(*arguments)
        bad = float("nan") if calls > step else 1.0
        return target._replace(phi=target.phi * bad, loss=target.loss * bad)

    return rule


@pytest.mark.parametrize("at_once", [3, 256])
def test_a_loss_that_is_no_number_is_named_and_phi_stays(
    at_once: int, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    learner = sine_learner(rule=poisoned(5), at_once=at_once)
    with pytest.raises(UserError, match=r"nan at meta-step 5; lower the inner .* 0.01"):
        fit(learner, checkpoint_to=path)
    assert learner.phi.isfinite().all()
    # one step a chunk: the five good steps stand; one chunk: none of it does
    assert learner.state.meta_step == (5 if at_once == 3 else 0)
    good = sine_learner()
    if at_once == 3:
        fit(
            good, meta_steps=12, epsilon=lambda done: 0.1 * (done < 5 / 12) * (1 - done)
        )
        assert torch.allclose(good.phi, learner.phi)
    else:
        assert torch.equal(good.phi, learner.phi)
    found = sine_learner()
    found.restore(path)
    assert found.phi.isfinite().all()


def test_a_rate_too_high_ends_in_one_message() -> None:
    learner = sine_learner(inner=sgd(1e30))
    before = learner.phi.clone()
    message = r"training diverged: the loss is .* meta-step 0; .* 1e\+30"
    with pytest.raises(UserError, match=message):
        fit(learner, meta_steps=600)
    assert torch.equal(learner.phi, before)


def test_a_phi_that_overflows_in_the_last_step_is_noticed() -> None:
    learner = bowl_learner(3e38, moments="reset")
    learner.rule = lambda *a: reptile(*a)._replace(
        phi=torch.tensor([math.inf]), loss=torch.tensor(1.0)
    )
    with pytest.raises(UserError, match="at meta-step 0"):
        learner.fit(BOWL, meta_steps=1, epsilon=constant(1.0))
    assert learner.phi.item() == pytest.approx(3e38)


def few_shot(ways: int) -> FewShotTasks:
    images = torch.zeros(5, 4, 1, 8, 8, dtype=torch.uint8)
    return FewShotTasks(Examples(images, tuple("abcde")), ways, 2)


def test_bad_settings_name_the_value_and_the_remedy() -> None:
    with pytest.raises(UserError, match=r"inner_steps = 0; give at least 1"):
        Reptile(mlp(1, 1), sgd(0.1), 0)
    for bad in (0, -3):
        with pytest.raises(UserError, match=f"inner_batch = {bad}; give at least 1"):
            Reptile(mlp(1, 1), sgd(0.1), 1, bad)
    with pytest.raises(UserError, match=r"meta_batch = 0, .* ask for more"):
        fit(sine_learner(), meta_batch=0)
    learner = fit(sine_learner())
    with pytest.raises(UserError, match=r"checkpoint_every = -5; give meta-steps"):
        fit(sine_learner(), checkpoint_every=-5)
    with pytest.raises(UserError, match=r"meta_steps = 12 with 12 done; ask for more"):
        fit(learner)
    with pytest.raises(UserError, match=r"3 classes apart, the tasks have 4 ways"):
        Reptile(conv4(3, size=8), sgd(0.1), 1).fit(
            few_shot(4), meta_steps=1, epsilon=constant(1.0)
        )
    with pytest.raises(UserError, match="seed = -1"):
        fit(sine_learner(), seed=-1)


def test_running_statistics_are_refused() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    with pytest.raises(
        UserError, match=r"'1' keeps running .* track_running_stats=Fal"
    ):
        Reptile(model, sgd(0.1), 1)
    model[1] = nn.BatchNorm1d(2, track_running_stats=False)
    Reptile(model, sgd(0.1), 1)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU
    assert find_device(CPU) == CPU
    for name in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(UserError, match=r"device 'cuda.* finds no CUDA GPU; use"):
            Reptile(mlp(1, 1), sgd(0.1), 1, device=name)
    for name in ("gpu", "meta"):
        with pytest.raises(UserError, match=f"device '{name}'; try auto, cpu or cuda"):
            Reptile(mlp(1, 1), sgd(0.1), 1, device=name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1").index == 1
    with pytest.raises(UserError, match=r"'cuda:2' .* there are 2, counted from 0"):
        find_device("cuda:2")


def test_an_unwritable_checkpoint_shows_itself_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    learner = sine_learner()
    before = learner.phi
    with pytest.raises(UserError, match=r"cannot write .* choose a folder"):
        fit(learner, checkpoint_to=tmp_path / "file" / "x")
    assert learner.phi is before


def test_restore_refuses_another_model_and_keeps_its_own(tmp_path: Path) -> None:
    fit(sine_learner(), checkpoint_to=tmp_path / "x")
    other = Reptile(mlp(1, 9, 1), sgd(0.1), 1)
    before = other.state
    with pytest.raises(UserError, match="another model"):
        other.restore(tmp_path / "x")
    assert other.state is before


def test_a_bowl_is_what_quadratic_loss_says() -> None:
    theta, batch = torch.tensor([3.0]), Batch(torch.ones(1, 1, 1), torch.ones(1, 1))
    kernel = of_model(Bowl(0.0), half_square)
    assert kernel.loss(theta, batch) == quadratic_loss(theta, batch) == 2


@pytest.mark.usefixtures("float64")
def test_an_outer_optimiser_sees_phi_minus_target() -> None:
    learner = fit(sine_learner(outer=adam(0.05, (0.9, 0.99))), meta_steps=5)
    serial = sine_learner()
    phi = nn.Parameter(serial.phi.clone())
    optimizer = torch.optim.Adam([phi], 0.05, (0.9, 0.99))
    for step in range(5):
        # A plain meta-step with ε = 1 tells the target.
        one = sine_learner()
        one.state = serial.state._replace(phi=phi.detach().clone(), meta_step=step)
        fit(one, meta_steps=step + 1, epsilon=constant(1.0))
        serial = one
        before = phi.detach().clone()
        phi.grad = before - one.phi
        optimizer.step()
        phi.data = before + linear(0.1, 0.0)(step / 5) * (phi.data - before)
    torch.testing.assert_close(learner.phi, phi.data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", ["sine", "glyphs"])
def test_a_run_with_an_outer_optimiser_goes_on_bit_for_bit(
    model: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    if model == "sine":
        tasks: Any = SINE
        build = partial(sine_learner, outer=momentum(0.5, 0.9))
    else:  # whose parameters stand in another order while it trains
        tasks = FewShotTasks(load("glyphs").train, ways=2, shots=2)
        build = partial(
            Reptile, conv4(2), adam(0.01), 2, 2, device="cpu", outer=adam(0.01)
        )
    settings: dict[str, Any] = {"meta_batch": 2, "epsilon": constant(0.5)}
    whole = build()
    other = tmp_path / "whole.safetensors"
    whole.fit(tasks, meta_steps=6, checkpoint_every=3, checkpoint_to=other, **settings)
    first, second = build(), build()
    first.fit(tasks, meta_steps=3, checkpoint_to=path, **settings)
    second.restore(path)
    assert second.state.outer_state is not None
    second.fit(tasks, meta_steps=6, **settings)
    assert torch.equal(second.phi, whole.phi)
    assert whole.state.outer_state is not None
    for name, value in whole.state.outer_state.items():
        assert torch.equal(second.state.outer_state[name], value)
    first.outer = None
    with pytest.raises(UserError, match="of another outer optimiser than None"):
        first.restore(path)


def test_a_state_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    fit(sine_learner(inner=adam(0.01)), checkpoint_to=path)
    for inner in (sgd(0.01), adam(0.01, betas=(0.9, 0.999))):
        with pytest.raises(UserError, match=r"\['step', 'v'\] of another inner"):
            sine_learner(inner=inner).restore(path)


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("moments", "carried", "carry, reset"),
        ("engine", "thread", "auto, serial, threads, stacked"),
        ("precision", "bfloat16", "float32, tf32, bf16"),
    ],
)
def test_a_misspelt_setting_is_refused(name: str, value: str, choices: str) -> None:
    with pytest.raises(UserError, match=f"{name} = '{value}'; choose one of {choices}"):
        sine_learner(**{name: value})  # type: ignore[arg-type]


def test_a_new_learner_does_not_replace_the_checkpoint_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    fit(sine_learner(), checkpoint_to=path)
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=r"holds a run of 12 meta-steps, .* one of 0 would"
    ):
        fit(sine_learner(), checkpoint_to=path)
    assert path.read_bytes() == before
