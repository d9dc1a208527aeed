"""Kernels whose gradient is written out, in memory that is kept from step to step."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from reptile_lib.examples import Inputs
from reptile_lib.fast.torch_settings import keep_freed_memory
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, Autograd, batches_of, steps_on
from reptile_lib.tasks import Batch

GATHERED = 2**22  # numbers of minibatches that are gathered at a time; bounds memory

Stepped = tuple[Tensor, State, Tensor]
"""theta [n, P], state, losses [n]."""

Step = Callable[[Tensor, State, Tensor, Tensor], Stepped]
"""step(theta [n, P], state, x, y) -> theta, state, losses [n]."""


class Space(Protocol):
    """Where n tasks are adapted: parameters and their gradient, [n, P] both."""

    @property
    def theta(self) -> Tensor: ...  # noqa: D102
    @property
    def g(self) -> Tensor: ...  # noqa: D102


S = TypeVar("S", bound=Space)


@dataclass(frozen=True)
class Net(Generic[S]):
    """A network and a criterion whose gradient is written out.

    Attributes:
        takes: whether these are examples and answers [n, B, ...] for the weights.
        prepared: inputs [n, B, ...] -> what `gradient` wants of them, [n, B, ...].
        workspace: (n, b, shape, like) -> buffers for n tasks and minibatches of b
            inputs of this shape.
        gradient: (space, x, y) -> losses [n]; leaves the gradient at `space.theta` in
            `space.g`.
        pack: vectors [..., P] in the model's order -> in this one's.
        unpack: back.
        compiled: inner -> a compiled inner step; None where there is none.
    """

    takes: Callable[[Batch], bool]
    prepared: Callable[[Tensor], Tensor]
    workspace: Callable[[int, int, torch.Size, Tensor], S]
    gradient: Callable[[S, Tensor, Tensor], Tensor]
    pack: Callable[[Tensor], Tensor] = lambda vectors: vectors
    unpack: Callable[[Tensor], Tensor] = lambda vectors: vectors
    compiled: Callable[[InnerOptimizer], Step] | None = None


@dataclass(frozen=True)
class Written(Generic[S]):
    """The kernel of a network whose gradient is written out; vectors in its order.

    Args:
        net: what is written out.
        reference: the same by autograd, in the model's order; it takes what `net`
            does not.
    """

    net: Net[S]
    reference: Autograd
    _spaces: local = field(default_factory=local)  # each thread's, by what they are for

    def pack(self, vectors: Tensor) -> Tensor:
        """Bring vectors to the network's order."""
        return self.net.pack(vectors)

    def unpack(self, vectors: Tensor) -> Tensor:
        """Undo `pack`."""
        return self.net.unpack(vectors)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task; differentiable."""
        return self.reference.losses(self.unpack(theta), batch)

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, ...]."""
        return self.reference.outputs(self.unpack(theta), x)

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""
        if not self.net.takes(batch):
            g, losses = self.reference.gradient(self.unpack(theta), batch)
            return self.pack(g), losses
        with torch.no_grad():
            x = cast(Tensor, batch.x)
            space = self._space(x.shape, theta)
            g, losses = self._at(space, theta, Batch(self.net.prepared(x), batch.y))
            return g.clone(), losses

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""
        if not self.net.takes(support):
            batches = batches_of(support, order)
            return steps_on(self.gradient, inner, theta, state, batches)
        keep_freed_memory()
        with torch.no_grad():  # threads do not hand it on
            x = cast(Tensor, support.x)
            batches = _gathered(self.net.prepared(x), support.y, order)
            # an optimiser without a formula is another one in every call, and must not
            # be compiled anew each time
            formula = inner.formula if order.shape[1] and inner.stop is None else None
            if self.net.compiled and formula:  # wants the same strides each time
                return _stepped(self.net.compiled(inner), _dense(theta), state, batches)
            space = self._space(torch.Size((*order.shape[::2], *x.shape[2:])), theta)
            if not formula:
                take = partial(self._at, space)
                return steps_on(take, inner, theta, state, batches)

            def step(theta: Tensor, state: State, x: Tensor, y: Tensor) -> Stepped:
                losses = self.net.gradient(space, x, y)
                formula.in_place(space.g, state, theta)
                return theta, state, losses

            start = space.theta.copy_(theta)
            done = _stepped(step, start, state, batches)
            return done._replace(theta=done.theta.clone())

    def _at(self, space: S, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient, in memory that the next call uses, and losses."""
        space.theta.copy_(theta)
        return space.g, self.net.gradient(space, cast(Tensor, batch.x), batch.y)

    def _space(self, shape: torch.Size, like: Tensor) -> S:
        """Return this thread's buffers for minibatches [n, b, ...] of this shape."""
        key = shape, like.dtype, like.device
        kept: dict[object, S] = self._spaces.__dict__.setdefault("by_shape", {})
        if key not in kept:
            n, b, *rest = shape
            kept[key] = self.net.workspace(n, b, torch.Size(rest), like)
        return kept[key]


def _stepped(
    step: Step, theta: Tensor, state: State, batches: Iterable[Batch]
) -> Adapted:
    """Take steps that nothing stops, at least one; the state is copied first."""
    state = {name: _dense(v) for name, v in state.items()}
    losses = []
    for x, y in batches:
        theta, state, value = step(theta, state, cast(Tensor, x), y)
        losses.append(value)
    taken = theta.new_full(theta.shape[:1], len(losses), dtype=torch.int64)
    return Adapted(theta, state, torch.stack(losses, -1), taken)


def _dense(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _gathered(x: Tensor, y: Tensor, order: Tensor) -> Iterator[Batch]:
    """Gather the minibatches that order [n, k, b] names, many steps at a time."""
    n, k, b = order.shape
    rows = torch.arange(n, device=order.device)[:, None]
    at_once = max(1, GATHERED // max(1, n * b * x.shape[2:].numel()))
    for first in range(0, k, at_once):
        now = order[:, first : first + at_once].transpose(0, 1)  # [steps, n, b]
        yield from map(Batch, x[rows, now], y[rows, now])
