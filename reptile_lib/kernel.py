"""The seam between the algorithm and how its gradients are computed.

A kernel knows one model and one criterion. The algorithm hands it parameter vectors of
n tasks and asks; it never inspects what it has. `Autograd` is the reference; those in
`fast` compute the same in less time.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from threading import local
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.params import layout, unravel
from reptile_lib.tasks import Batch

Criterion = Callable[[Tensor, Tensor], Tensor]
"""criterion(outputs, y) -> scalar loss."""

Loss = Callable[[Tensor, Batch], Tensor]
"""loss(theta [P], batch) -> scalar; differentiable."""

Forward = Callable[[Tensor, Inputs], Tensor]
"""forward(theta [P], x [B, ...]) -> outputs [B, ...]."""

Gradient = Callable[[Tensor, Batch], tuple[Tensor, Tensor]]
"""gradient(theta [n, P], batch) -> g [n, P], losses [n]."""


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

    def map(self, act: Callable[[Tensor], Tensor]) -> "Adapted":
        """Apply `act` to every tensor."""
        states = {name: act(value) for name, value in self.state.items()}
        return Adapted(act(self.theta), states, act(self.losses), act(self.steps))


class Kernel(Protocol):
    """What the algorithm asks of a model: always about n tasks, weights of their own.

    Vectors [..., P] stand in an order of the kernel's choice: `pack` brings what has
    the model's order (φ, moments, rates) there, `unpack` back.
    """

    def pack(self, vectors: Tensor) -> Tensor:
        """Bring vectors [..., P] from the model's order to the kernel's."""
        ...

    def unpack(self, vectors: Tensor) -> Tensor:
        """Undo `pack`."""
        ...

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task at theta [n, P]; differentiable."""
        ...

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return what the models theta [n, P] make of x [n, B, ...]: [n, B, ...]."""
        ...

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P], the caller's to keep, and losses [n]."""
        ...

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks.

        Args:
            inner: the optimiser; its vectors come in the kernel's order.
            theta: [n, P], where each task starts.
            state: entries [n, ...].
            support: x [n, S, ...], y [n, S, ...].
            order: [n, k, b], which of the S examples make up each minibatch.
        """
        ...


def steps_on(
    gradient: Gradient,
    inner: InnerOptimizer,
    theta: Tensor,
    state: State,
    batches: Iterable[Batch],
) -> Adapted:
    """Take an inner step on each minibatch: θ ← update(∇L(θ), state, θ)."""
    taken = inner.counter(theta[..., 0])
    losses = []
    for step, batch in enumerate(batches):
        g, value = gradient(theta, batch)
        theta, state, taken = inner.advance(step, g, value, theta, state, taken)
        losses.append(value)
    shape = (*theta.shape[:-1], 0)
    stacked = torch.stack(losses, -1) if losses else theta.new_zeros(shape)
    if taken is None:
        taken = stacked.new_full(shape[:-1], len(losses), dtype=torch.int64)
    return Adapted(theta, state, stacked, taken)


def batches_of(support: Batch, order: Tensor) -> Iterable[Batch]:
    """Gather the k minibatches [n, b, ...] that order [n, k, b] names."""
    rows = torch.arange(len(order), device=order.device)[:, None]
    return (
        support.map(lambda t, now=now: t[rows, now])  # type: ignore[misc]
        for now in order.unbind(1)
    )


def differentiated(
    losses: Callable[[Tensor, Batch], Tensor], keep_graph: bool = False
) -> Gradient:
    """Return the gradient of losses(theta [n, P], batch) -> [n] by autograd.

    The tasks' losses are independent, so the gradient of their sum is a stack of
    gradients; plain autograd finds it several times faster than vmap(grad(...)).
    """

    def gradient(theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if not keep_graph:
            theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            values = losses(theta, batch)
            (g,) = torch.autograd.grad(values.sum(), theta, create_graph=keep_graph)
        return g, values if keep_graph else values.detach()

    return gradient


@dataclass(frozen=True)
class Autograd:
    """The reference kernel: torch's autograd on two functions of one task's vector."""

    loss: Loss
    forward: Forward
    stacks: bool = True
    """Whether several tasks are one `vmap`; else one goes after the other."""

    def pack(self, vectors: Tensor) -> Tensor:
        """Return the vectors: the model's order is the kernel's."""
        return vectors

    def unpack(self, vectors: Tensor) -> Tensor:
        """Return the vectors."""
        return vectors

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task; differentiable."""
        if self.stacks and len(theta) > 1:
            return vmap(self.loss)(theta, batch)
        each = [
            self.loss(t, batch.map(lambda v, i=i: v[i]))  # type: ignore[misc]
            for i, t in enumerate(theta)
        ]
        return torch.stack(each)

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, ...]."""
        if self.stacks and len(theta) > 1:
            return vmap(self.forward)(theta, x)
        several = isinstance(x, tuple)
        xs = zip(*x, strict=True) if several else x
        return torch.stack([self.forward(*one) for one in zip(theta, xs, strict=True)])

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""
        return differentiated(self.losses)(theta, batch)

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""
        if len(order) > 1:
            batches = batches_of(support, order)
            return steps_on(self.gradient, inner, theta, state, batches)

        def laid_out(v: Tensor) -> Tensor:
            # a task's images: CPU convolutions are faster with channels last
            return v[0].to(memory_format=torch.channels_last) if v.dim() == 5 else v[0]

        own = support.map(laid_out)
        batches = (own.map(lambda t, b=b: t[b][None]) for b in order[0])  # type: ignore[misc]
        return steps_on(self.gradient, inner, theta, state, batches)


def of_loss(loss: Loss) -> Autograd:
    """Return the reference kernel of a loss alone; it has no outputs."""

    def forward(theta: Tensor, x: Inputs) -> Tensor:
        raise UserError("this kernel was made of a loss alone; use of_model")

    return Autograd(loss, forward)


def of_model(model: nn.Module, criterion: Criterion, bf16: bool = False) -> Autograd:
    """Return the reference kernel of a module and a criterion.

    `functional_call` lends the module its parameters for the time of a call, so threads
    must not share one module: each gets its own copy. With `bf16` the forward pass is
    torch's autocast.
    """
    where, copies = layout(model), local()

    def forward(theta: Tensor, x: Inputs) -> Tensor:
        if not hasattr(copies, "model"):
            copies.model = deepcopy(model)
        given = x if isinstance(x, tuple) else (x,)
        with torch.autocast(theta.device.type, torch.bfloat16, bf16):
            outputs: Tensor = functional_call(
                copies.model, unravel(theta, where), given
            )
        return outputs.to(theta.dtype)

    def loss(theta: Tensor, batch: Batch) -> Tensor:
        return criterion(forward(theta, batch.x), batch.y)

    return Autograd(loss, forward)


def reordered(state: State, theta: Tensor, turn: Callable[[Tensor], Tensor]) -> State:
    """Apply `pack` or `unpack` to the entries of a state that are vectors [..., P]."""
    vector = theta.shape[-1:]
    return {n: turn(v) if v.shape[-1:] == vector else v for n, v in state.items()}


def in_kernel_order(inner: InnerOptimizer, kernel: Kernel) -> InnerOptimizer:
    """Return an optimiser for vectors in the kernel's order.

    One that tells entries apart (a rate a weight, say) sees them in the model's order,
    and a gradient of its own.
    """
    if inner.formula is not None:
        return inner

    def init(theta: Tensor) -> State:
        return reordered(inner.init(kernel.unpack(theta)), theta, kernel.pack)

    def update(g: Tensor, state: State, theta: Tensor) -> tuple[Tensor, State]:
        state = reordered(state, theta, kernel.unpack)
        moved, state = inner.update(
            kernel.unpack(g).clone(), state, kernel.unpack(theta)
        )
        return kernel.pack(moved), reordered(state, theta, kernel.pack)

    return replace(inner, init=init, update=update)
