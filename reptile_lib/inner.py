"""Inner optimisers, and `adapt`: k inner steps for many tasks at once.

An inner optimiser is a pair of pure functions on parameter vectors::

    init(theta)                    -> state
    update(gradient, state, theta) -> theta, state

They serve one task, theta [P], and a stack of n tasks, theta [n, P], alike. A state is
a dict of tensors: "v" and "m" have the shape of theta, "step" that of theta[..., 0].
"""

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from reptile_lib.errors import UserError
from reptile_lib.params import layout, unravel

_T = TypeVar("_T")

State = dict[str, Tensor]
"""What an inner optimiser remembers: named tensors."""

Engine = Literal["auto", "vmap", "loop"]
"""How tasks are spread, see `map_tasks`; a learner resolves "auto"."""

Moments = Literal["carry", "reset"]
"""Whether the inner optimiser's state outlives a task."""


class Batch(NamedTuple):
    """Examples and what to answer, of one task or stacked on a leading task axis."""

    x: Tensor
    """``[..., examples, *shape]``"""
    y: Tensor
    """``[..., examples]`` or ``[..., examples, *shape]``"""


Loss = Callable[[Tensor, Batch], Tensor]
"""loss(theta [P], batch) -> scalar."""


@dataclass(frozen=True)
class InnerOptimizer:
    """A pure (init, update) pair; the makers below refuse rates out of range.

    `full_batch` asks for all support examples in every step instead of minibatches.
    """

    name: str
    lr: float
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
    full_batch: bool = False


def _check_rate(name: str, lr: float) -> None:
    if not lr > 0 or math.isinf(lr):
        raise UserError(f"{name}: lr = {lr} is no learning rate; give a positive one")


def _check_decay(name: str, argument: str, beta: float) -> None:
    if not 0.0 <= beta < 1.0:
        raise UserError(f"{name}: {argument} = {beta}; it must lie in [0, 1)")


def sgd(lr: float) -> InnerOptimizer:
    """Minibatch gradient descent: θ ← θ − α g."""
    _check_rate("sgd", lr)
    return InnerOptimizer(
        "sgd", lr, lambda theta: {}, lambda g, state, theta: (theta - lr * g, state)
    )


def gd(lr: float) -> InnerOptimizer:
    """Full-batch gradient descent: the step of `sgd`, each on the whole support set."""
    _check_rate("gd", lr)
    step = sgd(lr)
    return InnerOptimizer("gd", lr, step.init, step.update, full_batch=True)


def momentum(lr: float, beta: float = 0.9) -> InnerOptimizer:
    """Heavy-ball momentum as `torch.optim.SGD` has it: m ← βm + g, θ ← θ − α m."""
    _check_rate("momentum", lr)
    _check_decay("momentum", "beta", beta)

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        m = beta * state["m"] + g
        return theta - lr * m, {"m": m}

    return InnerOptimizer(
        "momentum", lr, lambda theta: {"m": torch.zeros_like(theta)}, update
    )


def adam(
    lr: float, betas: tuple[float, float] = (0.0, 0.999), eps: float = 1e-8
) -> InnerOptimizer:
    """Adam (Kingma & Ba 2015, algorithm 1); β₁ = 0 is the Reptile authors' setting.

    With β₁ = 0 the first moment is the gradient itself and is not stored.
    """
    _check_rate("adam", lr)
    beta1, beta2 = betas
    _check_decay("adam", "betas[0]", beta1)
    _check_decay("adam", "betas[1]", beta2)

    def init(theta: Tensor) -> State:
        state = {
            "step": theta.new_zeros(theta.shape[:-1]),
            "v": torch.zeros_like(theta),
        }
        if beta1 > 0:
            state["m"] = torch.zeros_like(theta)
        return state

    def one_minus_power(beta: float, step: Tensor) -> Tensor:
        # 1 − βᵗ; expm1 keeps it exact in float32, where 1 − 0.999 loses five digits.
        return -torch.expm1(step.unsqueeze(-1) * math.log(beta))

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        step = state["step"] + 1
        v = torch.addcmul(beta2 * state["v"], g, g, value=1 - beta2)
        new = {"step": step, "v": v}
        scale = v if beta2 == 0 else v / one_minus_power(beta2, step)
        direction = g
        if beta1 > 0:
            new["m"] = torch.lerp(state["m"], g, 1 - beta1)
            direction = new["m"] / one_minus_power(beta1, step)
        # The root of a zero has an infinite slope, which MAML would meet.
        root = scale.clamp_min(torch.finfo(scale.dtype).tiny).sqrt()
        return theta - lr * direction / (root + eps), new

    return InnerOptimizer("adam", lr, init, update)


def mean_state(states: State) -> State:
    """Average a stack of states [n, ...] over the tasks: what `carry` hands on."""
    return {name: value.mean(0) for name, value in states.items()}


def make_loss(
    model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Loss, Callable[[Tensor, Tensor], Tensor]]:
    """Turn a module into `loss(theta, batch)` and `forward(theta, x)` on flat vectors.

    `functional_call` lends the module its parameters for the time of a call, so
    threads must not share one module: each gets its own copy.
    """
    where, copies = layout(model), threading.local()

    def forward(theta: Tensor, x: Tensor) -> Tensor:
        if not hasattr(copies, "model"):
            copies.model = deepcopy(model)
        outputs: Tensor = functional_call(copies.model, unravel(theta, where), (x,))
        return outputs

    def loss(theta: Tensor, batch: Batch) -> Tensor:
        return criterion(forward(theta, batch.x), batch.y)

    return loss, forward


def choose_engine(model: nn.Module, device: torch.device) -> Engine:
    """Pick what measures best: stack the tasks, or give each CPU core a task.

    Stacked convolutions become grouped ones, which gain nothing on a CPU.
    """
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
    return "loop" if convolves and device.type == "cpu" else "vmap"


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    # One task a thread, one core a thread: torch releases the interpreter lock inside
    # its kernels, and small convolutions gain more from this than from sharing a core.
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))


def map_tasks(fn: Callable[..., Tensor], engine: Engine, *args: Tensor) -> Tensor:
    """Apply `fn` to each of n tasks and stack the results.

    Args:
        fn: takes one task's tensors and returns a tensor [...].
        engine: "vmap" runs all tasks as one batch of operations; "loop" runs one task
            after the other, spread over the CPU's cores.
        args: tensors [n, ...].

    Returns:
        [n, ...]
    """
    if engine != "loop":
        return vmap(fn)(*args)
    return torch.stack(_each_task(lambda i: fn(*(a[i] for a in args)), len(args[0])))


def _each_task(fn: Callable[[int], _T], n: int) -> list[_T]:
    """Call fn(0), ... fn(n - 1), spread over the CPU's cores."""
    workers = min(n, torch.get_num_threads())
    return list(_pool(workers).map(fn, range(n)) if workers > 1 else map(fn, range(n)))


class Adapted(NamedTuple):
    """What n inner loops leave behind."""

    theta: Tensor
    """[n, P]: φ̃ of every task."""
    state: State
    """Entries [n, ...]."""
    losses: Tensor
    """[n, k]: minibatch loss before each inner step."""


def adapt(
    loss: Loss,
    phi: Tensor,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    state: State | None = None,
    engine: Engine = "vmap",
    differentiable: bool = False,
) -> Adapted:
    """Run k inner steps on each of n tasks: φ̃ᵢ = U_τᵢ^k(φ).

    Args:
        loss: loss(theta [P], batch) -> scalar.
        phi: start, [P] for all tasks or [n, P].
        support: x [n, S, ...], y [n, S, ...].
        order: [n, k, b], which of the S examples make up each minibatch.
        inner: the inner optimiser.
        state: where the optimiser starts, for all tasks (as `inner.init(phi[P])`
            shapes it) or with a leading task axis; `inner.init` if None.
        engine: see `map_tasks`.
        differentiable: keep the graph, so that φ̃ can be differentiated by φ (MAML).
            Memory then grows with k, and tasks are stacked whatever `engine` says.
    """
    n, k, _ = order.shape
    theta = phi.expand(n, -1)
    fresh = inner.init(theta)
    start = {
        name: value.expand_as(fresh[name]) for name, value in (state or fresh).items()
    }
    if differentiable or engine != "loop":
        rows = torch.arange(n, device=order.device)[:, None]
        batches = (
            Batch(support.x[rows, order[:, j]], support.y[rows, order[:, j]])
            for j in range(k)
        )
        stacked = partial(gradient, vmap(loss), differentiable=differentiable)
        return _steps(stacked, inner, theta, start, batches)

    def one(i: int) -> Adapted:
        x, y = support.x[i], support.y[i]
        if x.dim() == 4:  # images: CPU convolutions are faster with channels last
            x = x.to(memory_format=torch.channels_last)
        batches = (Batch(x[b], y[b]) for b in order[i])
        own = {name: value[i] for name, value in start.items()}
        return _steps(partial(gradient, loss), inner, theta[i], own, batches)

    done = _each_task(one, n)
    states = {name: torch.stack([d.state[name] for d in done]) for name in start}
    return Adapted(
        torch.stack([d.theta for d in done]),
        states,
        torch.stack([d.losses for d in done]),
    )


def gradient(
    loss: Loss, theta: Tensor, batch: Batch, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """Return gradient and loss at theta: [P] and [], or [n, P] and [n].

    For a stack, `loss` is a vmapped one. Only the forward pass is vmapped: that the
    tasks' losses are independent makes the gradient of their sum a stack of gradients,
    and plain autograd finds it several times faster than vmap(grad(...)).
    """
    if not differentiable:
        theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        values = loss(theta, batch)
        (g,) = torch.autograd.grad(values.sum(), theta, create_graph=differentiable)
    return g, values if differentiable else values.detach()


def _steps(
    gradient: Callable[[Tensor, Batch], tuple[Tensor, Tensor]],
    inner: InnerOptimizer,
    theta: Tensor,
    state: State,
    batches: Iterable[Batch],
) -> Adapted:
    """Take an inner step on each minibatch, for one task or a stack."""
    losses = []
    for batch in batches:
        g, value = gradient(theta, batch)
        theta, state = inner.update(g, state, theta)
        losses.append(value)
    stacked = (
        torch.stack(losses, -1) if losses else theta.new_zeros(*theta.shape[:-1], 0)
    )
    return Adapted(theta, state, stacked)
