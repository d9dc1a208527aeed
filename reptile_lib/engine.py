"""How the inner loops of a meta-batch are run: `adapt`, k steps for many tasks at once.

One switch, `Engine`, says how the tasks are spread:

- "serial": one task after the other, plain autograd. Slow, plain, the reference.
- "threads": a task for each CPU core.
- "stacked": all tasks as one batch of operations, weights stacked on a leading axis.

The last two take a gradient that is written out where there is one (`conv4_gradient`,
`mlp_gradient`).
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, partial
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from reptile_lib import conv4_compiled, conv4_gradient, mlp_gradient
from reptile_lib.conv4_gradient import Conv4Loss
from reptile_lib.cross_entropy import reduction
from reptile_lib.inner import Batch, InnerOptimizer, State
from reptile_lib.machine import keep_freed_memory
from reptile_lib.mlp_gradient import MlpLoss
from reptile_lib.models import Conv4
from reptile_lib.params import layout, unravel

_T = TypeVar("_T")

Engine = Literal["auto", "serial", "threads", "stacked"]
"""How tasks are spread; a learner resolves "auto"."""

Precision = Literal["float32", "tf32", "bf16"]
"""How matrices are multiplied; parameters and optimisers keep their own precision.

"tf32" rounds the factors to 10 bits of mantissa (CUDA only); "bf16" rounds factors and
products to 7. Where no gradient is written out, bf16 is torch's autocast, which keeps
the activations between products in it as well.
"""

Loss = Callable[[Tensor, Batch], Tensor]
"""loss(theta [P], batch) -> scalar."""


@contextmanager
def precise(precision: Precision) -> Iterator[None]:
    """Multiply float32 matrices on CUDA in this precision, as long as it is open."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def make_loss(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    precision: Precision = "float32",
    compiled: bool = False,
) -> tuple[Loss, Callable[[Tensor, Tensor], Tensor]]:
    """Turn a module into `loss(theta, batch)` and `forward(theta, x)` on flat vectors.

    "tf32" is a setting of the whole process: open `precise` around their use.
    `compiled` is as in `train.MetaLearner`.

    `functional_call` lends the module its parameters for the time of a call, so
    threads must not share one module: each gets its own copy.
    """
    where, copies = layout(model), threading.local()

    def forward(theta: Tensor, x: Tensor) -> Tensor:
        if not hasattr(copies, "model"):
            copies.model = deepcopy(model)
        with torch.autocast(theta.device.type, torch.bfloat16, precision == "bf16"):
            outputs: Tensor = functional_call(copies.model, unravel(theta, where), (x,))
        return outputs.to(theta.dtype)

    def loss(theta: Tensor, batch: Batch) -> Tensor:
        return criterion(forward(theta, batch.x), batch.y)

    if isinstance(model, Conv4) and conv4_gradient.applies(model, criterion):
        eps = conv4_gradient.norm_eps(model)
        summed = reduction(criterion) == "sum"
        written = Conv4Loss(loss, where, eps, summed, precision == "bf16", compiled)
        return written, forward
    if mlp_gradient.applies(model, criterion) and precision != "bf16":
        return mlp_gradient.written(loss, model, criterion), forward
    return loss, forward


def choose_engine(
    model: nn.Module, criterion: Callable[..., Tensor], device: torch.device
) -> Engine:
    """Pick what measures best.

    A GPU and small layers gain from being stacked. On a CPU a stack of convolutions
    does not, unless they are written as products of matrices; even these, where there
    is one core to share, run faster a task at a time, which fits its cache.
    """
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
    if device.type != "cpu" or not convolves:
        return "stacked"
    written = conv4_gradient.applies(model, criterion)
    return "stacked" if written and torch.get_num_threads() > 1 else "threads"


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    # torch releases the interpreter lock inside its kernels, and small operations gain
    # more from a core each than from sharing a core.
    return ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads,)
    )


def map_tasks(fn: Callable[..., Tensor], engine: Engine, *args: Tensor) -> Tensor:
    """Apply `fn` to each of n tasks and stack the results.

    Args:
        fn: takes one task's tensors and returns a tensor [...].
        engine: how the tasks are spread.
        args: tensors [n, ...].

    Returns:
        [n, ...]
    """
    if engine == "stacked":
        return vmap(fn)(*args)
    n = len(args[0])
    return torch.stack(_each_task(lambda i: fn(*(a[i] for a in args)), n, engine))


def _each_task(fn: Callable[[int], _T], n: int, engine: Engine) -> list[_T]:
    """Call fn(0), ... fn(n - 1), in turn or spread over the CPU's cores."""
    cores = torch.get_num_threads()
    if engine == "serial" or cores == 1 or n == 1:
        return list(map(fn, range(n)))
    # Full rounds of a task a core; then the rest, with several cores a task.
    rest = n % cores
    done = list(_pool(cores, 1).map(fn, range(n - rest)))
    return done + list(
        _pool(max(rest, 1), cores // max(rest, 1)).map(fn, range(n - rest, n))
    )


class Adapted(NamedTuple):
    """What n inner loops leave behind."""

    theta: Tensor
    """[n, P]: φ̃ of every task."""
    state: State
    """Entries [n, ...]."""
    losses: Tensor
    """[n, k]: minibatch loss before each inner step, those not taken included."""
    steps: Tensor
    """int64 [n]: inner steps taken, k unless the optimiser has a rule that stops."""


def adapt(
    loss: Loss,
    phi: Tensor,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    state: State | None = None,
    engine: Engine = "stacked",
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
            shapes it) or with a leading task axis; `inner.init` if None or empty, as
            the state of `sgd` is.
        engine: how the tasks are spread.
        differentiable: keep the graph, so that φ̃ can be differentiated by φ (MAML).
            Memory then grows with k, and tasks are stacked whatever `engine` says.
    """
    if (
        isinstance(loss, Conv4Loss | MlpLoss)
        and loss.takes(support)
        and engine != "serial"
        and not differentiable
    ):
        return _written(loss, phi, support, order, inner, state, engine)
    theta, start = _expand(phi, state, inner, len(order))
    # A stack of one is slower than a task on its own.
    if differentiable or (engine == "stacked" and len(order) > 1):
        return _stacked(loss, theta, start, support, order, inner, differentiable)

    def one(i: int) -> Adapted:
        own = {name: value[i] for name, value in start.items()}
        x, y = support.x[i], support.y[i]
        if x.dim() == 4:  # images: CPU convolutions are faster with channels last
            x = x.to(memory_format=torch.channels_last)
        batches = (Batch(x[b], y[b]) for b in order[i])
        return _steps(partial(gradient, loss), inner, theta[i], own, batches)

    return _joined(torch.stack, _each_task(one, len(order), engine))


def _expand(
    phi: Tensor, state: State | None, inner: InnerOptimizer, n: int
) -> tuple[Tensor, State]:
    """Give each of n tasks its start: theta [n, P], state entries [n, ...]."""
    theta = phi.expand(n, -1)
    if not state:
        return theta, inner.init(theta)
    shapes = inner.init(theta.to("meta"))  # makes no memory
    return theta, {name: v.expand(shapes[name].shape) for name, v in state.items()}


def _written(
    loss: Conv4Loss | MlpLoss,
    phi: Tensor,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    state: State | None,
    engine: Engine,
) -> Adapted:
    """Take the gradient that is written out, in its own order of the parameters."""
    if isinstance(loss, Conv4Loss) and not loss.inside:
        loss, phi, (state,) = loss.enter(phi, [state])
        found = _written(loss, phi, support, order, inner, state, engine)
        theta, (left,) = loss.leave(found.theta, [found.state])
        return found._replace(theta=theta, state=left or {})
    keep_freed_memory()
    n = len(order)
    theta, start = _expand(phi, state, inner, n)
    size = 1 if engine == "threads" else loss.group if phi.device.type == "cpu" else n

    def some(i: int) -> Adapted:
        rows = slice(i * size, (i + 1) * size)
        own = {name: value[rows] for name, value in start.items()}
        examples = Batch(support.x[rows], support.y[rows])
        with torch.no_grad():  # threads do not hand it on
            found, batches = loss.minibatches(examples, order[rows])
            compiles = inner.stop is None and order.shape[1] > 0
            if isinstance(loss, Conv4Loss) and loss.compiled and compiles:
                return _compiled(loss, inner, theta[rows], own, batches)
            return _steps(found, inner, theta[rows], own, batches)

    spread: Engine = "threads" if size == 1 else "serial"
    parts = _each_task(some, -(-n // size), spread)
    return _joined(torch.cat, parts) if len(parts) > 1 else parts[0]


def _compiled(
    loss: Conv4Loss,
    inner: InnerOptimizer,
    theta: Tensor,
    state: State,
    batches: Iterable[Batch],
) -> Adapted:
    """Take compiled inner steps; these want the same strides each time."""
    step = conv4_compiled.step(inner, loss.where, loss.eps, loss.summed, loss.bf16)
    theta, state = _dense(theta), {name: _dense(v) for name, v in state.items()}
    losses = []
    for batch in batches:
        theta, state, value = step(theta, state, *batch)
        losses.append(value)
    stacked = torch.stack(losses, -1)
    return Adapted(theta, state, stacked, _counted(None, stacked))


def _dense(value: Tensor) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format).copy_(value)


def _stacked(
    loss: Loss,
    theta: Tensor,
    state: State,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    differentiable: bool,
) -> Adapted:
    n, k, _ = order.shape
    rows = torch.arange(n, device=order.device)[:, None]
    batches = (
        Batch(support.x[rows, order[:, j]], support.y[rows, order[:, j]])
        for j in range(k)
    )
    stacked = partial(gradient, vmap(loss), differentiable=differentiable)
    return _steps(stacked, inner, theta, state, batches)


def _joined(join: Callable[[list[Tensor]], Tensor], parts: list[Adapted]) -> Adapted:
    """Make one `Adapted` of those of single tasks."""
    names = parts[0].state
    return Adapted(
        join([p.theta for p in parts]),
        {name: join([p.state[name] for p in parts]) for name in names},
        join([p.losses for p in parts]),
        join([p.steps for p in parts]),
    )


def _counted(taken: Tensor | None, losses: Tensor) -> Tensor:
    """Return the steps taken [...], which are all where none were counted."""
    *shape, k = losses.shape
    return losses.new_full(shape, k, dtype=torch.int64) if taken is None else taken


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
    taken = inner.counter(theta[..., 0])
    losses = []
    for step, batch in enumerate(batches):
        g, value = gradient(theta, batch)
        theta, state, taken = inner.advance(step, g, value, theta, state, taken)
        losses.append(value)
    stacked = (
        torch.stack(losses, -1) if losses else theta.new_zeros(*theta.shape[:-1], 0)
    )
    return Adapted(theta, state, stacked, _counted(taken, stacked))
