"""What every kernel must do, asked of each: a new kernel is one line in KERNELS.

The answers come from `textbook`: deepcopy, backward(), torch.optim, in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import Batch, SwitchAtThreshold, SwitchEvery, conv4, conv4_pool, mlp
from reptile_lib.examples import Inputs
from reptile_lib.fast import conv4_compiled
from reptile_lib.fast.choose import make_kernel
from reptile_lib.fast.conv4 import conv4_kernel
from reptile_lib.fast.mlp import mlp_kernel
from reptile_lib.fast.spread import Spread
from reptile_lib.inner import InnerOptimizer, State, mean_state
from reptile_lib.inner_loop import InnerLoop, adapt
from reptile_lib.kernel import Adapted, Kernel, of_model
from reptile_lib.models.text import text_attention, text_bag
from reptile_lib.optimizers.formulas import adam, gd, momentum, sgd
from reptile_lib.params import layout, ravel
from tests import textbook
from tests.textbook import OneRateAWeight, WithLastGradient

TASKS, SUPPORT, STEPS, BATCH = 3, 6, 3, 3
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a criterion and the examples of TASKS tasks."""

    model: nn.Module
    criterion: textbook.Criterion
    support: Batch
    stacks: bool = True
    """Whether torch can `vmap` it."""
    twice: bool = True
    """Whether torch can differentiate it twice."""

    @cached_property
    def phi(self) -> Tensor:
        return ravel(self.model)

    @cached_property
    def several(self) -> Tensor:
        """Return a θ for each task, [n, P]."""
        g = torch.Generator().manual_seed(4)
        noise = torch.randn(TASKS, len(self.phi), generator=g, dtype=torch.float64)
        return self.phi + 0.05 * noise

    @cached_property
    def rates(self) -> Tensor:
        """Return a rate for each weight, in the model's order, [P]."""
        return torch.linspace(0.005, 0.05, len(self.phi), dtype=torch.float64)

    @cached_property
    def told(self) -> Tensor:
        """Mask the weights that batch norm takes out again, [P].

        Their gradient is zero but for rounding, which Adam blows up to full steps.
        """
        where = layout(self.model)
        out = [n.startswith("convolutions") and "bias" in n for n in where.names]
        return ~torch.tensor(out).repeat_interleave(torch.tensor(where.sizes))

    def task(self, i: int) -> tuple[Inputs, Tensor]:
        x = textbook.rows(self.support.x, i)
        return x if len(x) > 1 else x[0], self.support.y[i]


class Bag(nn.Module):
    """The mean of token vectors, through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.out(self.bag(tokens))
        return scores


class Recurrent(nn.Module):
    """A GRU's last output, through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.gru(x)[0][:, -1])
        return scores


class Pair(nn.Module):
    """Two inputs of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 4), nn.Linear(6, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        both = torch.tanh(self.left(a) + self.right(b.flatten(1)))
        outputs: Tensor = self.out(both)
        return outputs


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def normal(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randn(TASKS, SUPPORT, *shape, generator=g, dtype=torch.float64)


def labels(ways: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randint(ways, (TASKS, SUPPORT), generator=g)


def convolutions() -> nn.Module:
    layers = nn.Conv2d(1, 3, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
    return nn.Sequential(*layers)


summed = partial(F.cross_entropy, reduction="sum")
tokens = torch.arange(TASKS * SUPPORT * 5).view(TASKS, SUPPORT, 5) * 7 % 9
pictures = Batch(normal(1, 10, 10), labels())  # 10 -> 5 -> 3 -> 2 -> 1
tanh_net = mlp(2, 5, 1, activation=nn.Tanh).double()
relu_net = nn.Sequential(nn.Flatten(), mlp(6, 5, 4, 3)).double()
small_conv4 = conv4(3, size=10, filters=32).double()
chances = normal(3).softmax(-1)

PROBLEMS: dict[str, Problem] = {
    "tanh": Problem(tanh_net, F.mse_loss, Batch(normal(2), normal(1))),
    "relu": Problem(relu_net, F.cross_entropy, Batch(normal(1, 2, 3), labels())),
    "conv4": Problem(small_conv4, F.cross_entropy, pictures),
    "conv4_pool": Problem(
        conv4_pool(3, 1, 20).double(),
        F.cross_entropy,
        Batch(normal(1, 20, 20), labels()),
    ),
    "convolutions": Problem(
        seeded(convolutions), F.cross_entropy, Batch(normal(1, 8, 8), labels())
    ),
    "tokens": Problem(
        seeded(Bag), F.cross_entropy, Batch(tokens, labels()), False, False
    ),
    "text": Problem(
        text_bag(3, 9, width=4, hidden=5).double(),
        F.cross_entropy,
        Batch(tokens, labels()),
    ),
    "attention": Problem(
        text_attention(3, 9, width=4, hidden=5).double(),
        F.cross_entropy,
        Batch(tokens, labels()),
    ),
    "recurrent": Problem(
        seeded(Recurrent), F.cross_entropy, Batch(normal(5, 2), labels()), False
    ),
    "pair": Problem(
        seeded(Pair), F.mse_loss, Batch((normal(2), normal(2, 3)), normal(1))
    ),
}
"""What a kernel may be made for."""

UNUSUAL: dict[str, Problem] = {
    "conv4 summed": Problem(small_conv4, summed, pictures),
    "relu summed": Problem(relu_net, summed, Batch(normal(1, 2, 3), labels())),
    "chances, relu": Problem(
        relu_net, F.cross_entropy, Batch(normal(1, 2, 3), chances)
    ),
    "chances, conv4": Problem(small_conv4, F.cross_entropy, Batch(pictures.x, chances)),
    "conv4 16x8": Problem(
        conv4(3, size=16).double(), F.cross_entropy, Batch(normal(1, 16, 8), labels())
    ),
    "conv4 32x28": Problem(
        conv4(3, size=28).double(), F.cross_entropy, Batch(normal(1, 32, 28), labels())
    ),
    "conv4 48x40": Problem(
        conv4(3, size=48).double(), F.cross_entropy, Batch(normal(1, 48, 40), labels())
    ),
}
"""More for the same models; most of it is none that their formulas are for."""


def stacked(it: Problem) -> Kernel | None:
    return of_model(it.model, it.criterion) if it.stacks else None


def plain(it: Problem) -> Kernel:
    return replace(of_model(it.model, it.criterion), stacks=False)


def dense(it: Problem) -> Kernel | None:
    return mlp_kernel(it.model, it.criterion, of_model(it.model, it.criterion))


def images(it: Problem, compiled: bool = False) -> Kernel | None:
    reference = of_model(it.model, it.criterion)
    return conv4_kernel(it.model, it.criterion, reference, compiled=compiled)


def spread(
    make: Callable[[Problem], Kernel | None], size: int, threads: bool = False
) -> Callable[[Problem], Kernel | None]:
    def made(it: Problem) -> Kernel | None:
        inner = make(it)
        return inner and Spread(inner, size, threads)

    return made


KERNELS: dict[str, Callable[[Problem], Kernel | None]] = {
    "autograd": stacked,
    "autograd, one by one": plain,
    "in turn": spread(plain, 1),
    "in twos": spread(stacked, 2),
    "on threads": spread(plain, 1, threads=True),
    "made": lambda it: make_kernel(it.model, it.criterion, device=CPU),
    "dense": dense,
    "dense in twos": spread(dense, 2),
    "images": images,
    "images in twos": spread(images, 2),
    "images on threads": spread(images, 1, threads=True),
    "images, compiled": partial(images, compiled=True),
}
COMPILED = "images, compiled"  # each of its tests waits for a compiler


def asked(problems: dict[str, Problem]) -> Sequence[object]:
    """Return the parameters (kernel, problem) of tests, those that take long marked."""
    parameters = []
    for kernel, make in KERNELS.items():
        for problem, it in problems.items():
            if make(it) is not None:
                # Conv4 has kernels of its own; those for all models are as for others.
                long = "conv4" in problem and kernel in ("in turn", "in twos")
                marks = [pytest.mark.slow] * (long or kernel == COMPILED)
                name = f"{kernel}: {problem}"
                parameters.append(pytest.param((kernel, problem), id=name, marks=marks))
    return parameters


each_case = pytest.mark.parametrize("case", asked(PROBLEMS))


@pytest.fixture(autouse=True)
def threads(case: tuple[str, str]) -> Iterator[None]:
    """Let there be two threads where they are used: a task is left over."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if "threads" in case[0] else 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def it(case: tuple[str, str]) -> Problem:
    return (PROBLEMS | UNUSUAL)[case[1]]


@pytest.fixture
def kernel(case: tuple[str, str], it: Problem) -> Kernel:
    if case[0] == COMPILED and not conv4_compiled.works():
        pytest.skip("torch cannot compile here")
    made = KERNELS[case[0]](it)
    assert made is not None
    return made


# Optimisers: the library's, and the serial one of the same kind.

Make = Callable[[Tensor], InnerOptimizer]  # of rates, [P]
Serial = Callable[[nn.Module, Tensor], torch.optim.Optimizer]


def closing_over(rates: Tensor) -> InnerOptimizer:
    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta - rates * g, state

    return InnerOptimizer("own", 0.1, lambda theta: {}, update)


def in_its_state(rates: Tensor) -> InnerOptimizer:
    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta - state["rates"] * g, state

    def init(theta: Tensor) -> State:
        return {"rates": rates.expand_as(theta)}

    return InnerOptimizer("own", 0.1, init, update)


def keeping_its_gradient(rates: Tensor) -> InnerOptimizer:
    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        return theta - 0.05 * (g + 0.5 * state["last"]), {"last": g}

    def init(theta: Tensor) -> State:
        return {"last": torch.zeros_like(theta)}

    return InnerOptimizer("own", 0.05, init, update)


def at_rates(steps: Callable[..., torch.optim.Optimizer]) -> Serial:
    return lambda m, rates: OneRateAWeight(m, steps(m.parameters()), rates)


def serial(steps: Callable[..., torch.optim.Optimizer]) -> Serial:
    return lambda m, rates: steps(m.parameters())


SGD, Adam = torch.optim.SGD, torch.optim.Adam
# Made once: a kernel that compiles does so for each optimiser that it meets.
PLAIN, MOMENTS = sgd(0.05), adam(0.01, (0.9, 0.99))
OPTIMIZERS: dict[str, tuple[Make, Serial]] = {
    "sgd": (lambda rates: PLAIN, serial(partial(SGD, lr=0.05))),
    "gd": (lambda rates: gd(0.05), serial(partial(SGD, lr=0.05))),
    "momentum": (
        lambda rates: momentum(0.05, 0.8),
        serial(partial(SGD, lr=0.05, momentum=0.8)),
    ),
    "adam-0": (
        lambda rates: adam(0.01),
        serial(partial(Adam, lr=0.01, betas=(0.0, 0.999))),
    ),
    "adam": (
        lambda rates: MOMENTS,
        serial(partial(Adam, lr=0.01, betas=(0.9, 0.99))),
    ),
    "sgd, one rate": (
        lambda rates: sgd(torch.tensor(0.05, dtype=rates.dtype)),
        serial(partial(SGD, lr=0.05)),
    ),
    "sgd, rates": (sgd, at_rates(partial(SGD, lr=1.0))),
    "momentum, rates": (momentum, at_rates(partial(SGD, lr=1.0, momentum=0.9))),
    "adam, rates": (adam, at_rates(partial(Adam, lr=1.0, betas=(0.0, 0.999)))),
    "own, closing over rates": (closing_over, at_rates(partial(SGD, lr=1.0))),
    "own, rates in its state": (in_its_state, at_rates(partial(SGD, lr=1.0))),
    "own, keeping its gradient": (
        keeping_its_gradient,
        lambda m, rates: WithLastGradient(m, 0.05),
    ),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
own_kinds = ["sgd", "adam", "own, rates in its state"]


def minibatches(steps: int = STEPS, size: int = BATCH) -> Tensor:
    """Return a random order [n, k, b]."""
    g = torch.Generator().manual_seed(3)
    return torch.rand(TASKS, steps, SUPPORT, generator=g).argsort(-1)[..., :size]


def order_for(inner: InnerOptimizer) -> Tensor:
    return minibatches(size=SUPPORT if inner.full_batch else BATCH)


Ends = tuple[Tensor, list[float], torch.optim.Optimizer, nn.Module]


@cache
def textbooks(problem: str, name: str, threshold: float = -torch.inf) -> list[Ends]:
    """Return θ, losses and optimiser of each task's serial loop."""
    it = (PROBLEMS | UNUSUAL)[problem]
    make, make_serial = OPTIMIZERS[name]
    ends = []
    for i, order in enumerate(order_for(make(it.rates))):
        model = textbook.model_at(it.model, it.several[i])
        optimizer = make_serial(model, it.rates)
        x, y = it.task(i)
        losses = textbook.descend(
            model, optimizer, it.criterion, x, y, order, threshold
        )
        ends.append((textbook.vector(model), losses, optimizer, model))
    return ends


def same(actual: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def same_ends(one: Adapted, two: Adapted, it: Problem) -> None:
    same(one.theta[..., it.told], two.theta[..., it.told])
    same(one.losses, two.losses)
    assert one.steps.tolist() == two.steps.tolist()
    assert set(one.state) == set(two.state)
    for name, value in one.state.items():
        vector = value.shape[-1:] == it.told.shape
        keep = it.told if vector else ...
        same(value[..., keep], two.state[name][..., keep])


@each_case
def test_unpack_undoes_pack(kernel: Kernel, it: Problem) -> None:
    size = len(it.phi)
    for lead in ((), (2,), (2, 3)):
        vectors = torch.arange(size * torch.Size(lead).numel()).view(*lead, size)
        packed = kernel.pack(vectors)
        assert torch.equal(packed.sort(-1).values, vectors)  # an order, and no more
        assert torch.equal(kernel.unpack(packed), vectors)
    assert torch.equal(kernel.pack(vectors)[1, 2], kernel.pack(vectors[1, 2]))


@each_case
def test_gradient_is_autograds(kernel: Kernel, it: Problem) -> None:
    theta = kernel.pack(it.several)
    g, losses = kernel.gradient(theta, it.support)
    assert g.shape == theta.shape
    for i in range(TASKS):
        model = textbook.model_at(it.model, it.several[i])
        expected, loss = textbook.gradient(model, it.criterion, *it.task(i))
        same(kernel.unpack(g)[i], expected)
        same(losses[i], loss)


@each_case
def test_a_gradient_is_the_callers_to_keep(kernel: Kernel, it: Problem) -> None:
    one, two = kernel.pack(it.several), kernel.pack(it.several + 0.1)
    before = one.clone()
    found = kernel.gradient(one, it.support)
    kept = [t.clone() for t in found]
    others = kernel.gradient(two, it.support)
    assert torch.equal(one, before)
    for t, copy, other in zip(found, kept, others, strict=True):
        assert torch.equal(t, copy)
        assert not torch.equal(t, other)
        assert not t.requires_grad


@pytest.mark.slow
@each_case
@each_optimizer
def test_descend_is_the_textbook_loop(
    kernel: Kernel, it: Problem, case: tuple[str, str], name: str
) -> None:
    inner, start = OPTIMIZERS[name][0](it.rates), it.several
    before = start.clone()
    found = adapt(kernel, start, it.support, order_for(inner), inner)
    assert found.losses.shape == (TASKS, STEPS)
    assert found.steps.tolist() == [STEPS] * TASKS
    for i, (theta, losses, *_) in enumerate(textbooks(case[1], name)):
        # of a gradient near zero, Adam takes the rounding for a direction
        atol = 1e-6 if name == "adam, rates" else 1e-9
        same(found.theta[i][it.told], theta[it.told], atol)
        same(found.losses[i], torch.tensor(losses, dtype=theta.dtype), atol)
    assert (found.theta - start).abs().amax() > 1e-3  # or equality would say nothing
    assert torch.equal(start, before)


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("name", own_kinds)
def test_a_state_of_its_own_for_each_task(
    kernel: Kernel, it: Problem, name: str
) -> None:
    # Stopped after two steps, and gone on from there: the same as without.
    inner, order = OPTIMIZERS[name][0](it.rates), minibatches()
    whole = adapt(kernel, it.several, it.support, order, inner)
    theta, state, *_ = adapt(kernel, it.several, it.support, order[:, :2], inner)
    halves = adapt(kernel, theta, it.support, order[:, 2:], inner, state)
    losses = torch.cat([whole.losses[:, :2], halves.losses], 1)
    same_ends(halves._replace(losses=losses, steps=whole.steps), whole, it)


@pytest.mark.slow
@each_case
def test_carried_state_is_one_optimizer_over_all_tasks(
    kernel: Kernel, it: Problem
) -> None:
    # The authors' loop: weights are put back after each task, moments are not.
    inner, order, phi = MOMENTS, minibatches(), it.phi
    model = textbook.model_at(it.model, phi)
    optimizer = Adam(model.parameters(), 0.01, (0.9, 0.99))
    state = None
    for i in range(TASKS):
        support = it.support.map(lambda t, i=i: t[i : i + 1])  # type: ignore[misc]
        theta, states, *_ = adapt(kernel, phi, support, order[i : i + 1], inner, state)
        state = mean_state(states)
        x, y = it.task(i)
        textbook.descend(model, optimizer, it.criterion, x, y, order[i])
        same(theta[0][it.told], textbook.vector(model)[it.told])
        nn.utils.vector_to_parameters(phi.clone(), model.parameters())


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("name", own_kinds)
def test_no_steps_change_nothing(kernel: Kernel, it: Problem, name: str) -> None:
    inner, order = OPTIMIZERS[name][0](it.rates), minibatches(steps=0)
    state = inner.init(it.phi)
    found = adapt(kernel, it.phi, it.support, order, inner, state)
    assert torch.equal(found.theta, it.phi.expand(TASKS, -1))
    assert found.losses.shape == (TASKS, 0)
    assert found.steps.tolist() == [0] * TASKS
    for entry, value in state.items():
        assert torch.equal(found.state[entry], value.expand(TASKS, *value.shape))
    # ... and what it learnt of a kernel that way does not spoil the next loop
    adapt(kernel, it.phi, it.support, minibatches(steps=1), inner)


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("name", ["sgd", "adam", "own, closing over rates"])
def test_a_stopped_task_is_a_loop_that_broke(
    kernel: Kernel, it: Problem, case: tuple[str, str], name: str
) -> None:
    inner = OPTIMIZERS[name][0](it.rates)
    lowest = sorted(min(losses) for _, losses, *_ in textbooks(case[1], name))
    threshold = (lowest[0] + lowest[-1]) / 2  # one stops, one goes on
    rule = SwitchAtThreshold(threshold)
    found = adapt(kernel, it.several, it.support, order_for(inner), inner.until(rule))
    expected = textbooks(case[1], name, threshold)
    for i, (theta, losses, optimizer, model) in enumerate(expected):
        same(found.theta[i][it.told], theta[it.told])
        same(found.losses[i, : len(losses)], torch.tensor(losses, dtype=theta.dtype))
        assert found.steps[i] == len(losses)
        if name == "adam":  # its memory is frozen with the task
            assert found.state["step"][i] == len(losses)
            for ours, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                memory = [
                    optimizer.state[p].get(theirs, torch.zeros_like(p)).flatten()
                    for p in model.parameters()
                ]
                same(found.state[ours][i], torch.cat(memory))
    assert len(set(found.steps.tolist())) > 1  # or the mask has not been seen


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("steps", [0, 2, 9])
def test_switch_every_takes_the_first_steps(
    kernel: Kernel, it: Problem, steps: int
) -> None:
    inner, order = adam(0.01, (0.9, 0.99)), minibatches()
    rule = inner.until(SwitchEvery(steps))
    found = adapt(kernel, it.phi, it.support, order, rule)
    short = adapt(kernel, it.phi, it.support, order[:, :steps], inner)
    assert found.losses.shape == (TASKS, STEPS)
    same_ends(found._replace(losses=found.losses[:, :steps]), short, it)


@pytest.mark.slow
@each_case
def test_one_task_is_its_row_of_many(kernel: Kernel, it: Problem) -> None:
    inner, order, theta = MOMENTS, minibatches(), it.several
    many = adapt(kernel, theta, it.support, order, inner)
    g, losses = kernel.gradient(kernel.pack(theta), it.support)
    outputs = kernel.outputs(kernel.pack(theta), it.support.x)
    for i in range(TASKS):
        rows = slice(i, i + 1)
        own = it.support.map(lambda t, rows=rows: t[rows])  # type: ignore[misc]
        start = kernel.pack(theta[rows])
        one = adapt(kernel, theta[rows], own, order[rows], inner)
        same_ends(one, many.map(lambda t, rows=rows: t[rows]), it)  # type: ignore[misc]
        same(kernel.gradient(start, own)[0][0], g[i])
        same(kernel.losses(start, own)[0], losses[i])
        same(kernel.outputs(start, own.x)[0], outputs[i])


@each_case
def test_outputs_and_losses_are_the_modules(kernel: Kernel, it: Problem) -> None:
    outputs = kernel.outputs(kernel.pack(it.several), it.support.x)
    losses = kernel.losses(kernel.pack(it.several), it.support)
    assert losses.shape == (TASKS,)
    for i in range(TASKS):
        x, y = it.task(i)
        model = textbook.model_at(it.model, it.several[i])
        expected = model(*textbook.rows(x, slice(None))).detach()
        same(outputs[i], expected)
        same(losses[i], it.criterion(expected, y))


@each_case
def test_losses_can_be_differentiated(kernel: Kernel, it: Problem) -> None:
    theta = kernel.pack(it.several).requires_grad_()
    values = kernel.losses(theta, it.support)
    weights = torch.tensor([1.0, -2.0, 3.0]).double()
    (g,) = torch.autograd.grad((weights * values).sum(), theta)
    expected, _ = kernel.gradient(theta.detach(), it.support)
    same(g, weights[:, None] * expected)


TWICE = {name: it for name, it in PROBLEMS.items() if it.twice}


@pytest.mark.slow
@pytest.mark.parametrize("case", asked(TWICE))
def test_maml_is_the_gradient_of_the_unrolled_loop(kernel: Kernel, it: Problem) -> None:
    order, phi = minibatches(), it.phi.requires_grad_()
    start = kernel.pack(it.phi).requires_grad_()
    theta = InnerLoop(kernel, sgd(0.05)).differentiable(start, it.support, order).theta
    values = kernel.losses(theta, it.support)
    (g,) = torch.autograd.grad(values.mean(), start)
    expected = torch.stack(
        [
            textbook.unrolled(it.model, phi, it.criterion, *it.task(i), order[i], 0.05)
            for i in range(TASKS)
        ]
    )
    same(values.detach(), expected.detach())
    same(kernel.unpack(g), torch.autograd.grad(expected.mean(), phi)[0])


@pytest.mark.slow
@each_case
def test_runs_side_by_side_are_each_run_alone(kernel: Kernel, it: Problem) -> None:
    phi = it.several[:2]  # [runs, P]
    support = it.support.map(lambda t: torch.stack([t, t.flip(0)], 1))
    order = torch.stack([minibatches(), minibatches().flip(1)], 1)
    inner = sgd(torch.tensor([[0.05], [0.02]], dtype=torch.float64))
    both = InnerLoop(kernel, inner)(kernel.pack(phi), support, order)
    assert both.theta.shape == (TASKS, *phi.shape)
    for run, inner in enumerate((PLAIN, sgd(0.02))):
        own = support.map(lambda t, run=run: t[:, run])  # type: ignore[misc]
        alone = adapt(kernel, phi[run], own, order[:, run], inner)
        same(kernel.unpack(both.theta)[:, run], alone.theta)
        same(both.losses[:, run], alone.losses)


@pytest.mark.slow
@pytest.mark.parametrize("case", asked(UNUSUAL))
def test_what_the_formulas_are_not_for_is_left_to_autograd(
    kernel: Kernel, it: Problem, case: tuple[str, str]
) -> None:
    test_gradient_is_autograds(kernel, it)
    test_outputs_and_losses_are_the_modules(kernel, it)
    for name in ("sgd", "own, rates in its state"):
        test_descend_is_the_textbook_loop(kernel, it, case, name)
