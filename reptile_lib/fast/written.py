"""Kernels whose gradient is written out, in memory that is kept from step to step."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import cast

import torch
from torch import Tensor

from reptile_lib.examples import Inputs
from reptile_lib.fast.torch_settings import keep_freed_memory
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, Autograd, batches_of, steps_on
from reptile_lib.tasks import Batch

GATHERED = 2**22  # numbers of minibatches that are gathered at a time; bounds memory
STEPS = 10  # minibatches of a task that are gathered at a time; bounds memory, too

Block = tuple[Tensor, Tensor]
"""x [s, n, B, ...] and y [s, n, B, ...], the minibatches of s steps."""

Walk = Callable[[Tensor, Tensor, Callable[[], object]], Tensor]
"""walk(x, y, move) -> losses [s, n]: takes a block's steps, each with a `move`."""

Step = Callable[[Tensor, State, Tensor, Tensor], tuple[Tensor, State, Tensor]]
"""step(theta [n, P], state, x, y) -> theta, state, losses [n]."""


@dataclass(frozen=True)
class Space:
    """Where n tasks are adapted; its memory is used again step by step."""

    theta: Tensor  # [n, P]: the parameters
    g: Tensor  # [n, P]: their gradient, which a walk leaves here before each move
    walk: Walk


@dataclass(frozen=True)
class Net:
    """A network and a criterion whose gradient is written out.

    Attributes:
        takes: whether these are examples and answers [n, B, ...] for the weights.
        prepared: inputs [n, B, ...] -> what a walk wants of them, [n, B, ...].
        space: (n, b, shape, like) -> where n tasks are adapted with minibatches of b
            inputs of this shape.
        pack: vectors [..., P] in the model's order -> in this one's.
        unpack: back.
        compiled: inner -> a compiled inner step; None where there is none.
    """

    takes: Callable[[Batch], bool]
    prepared: Callable[[Tensor], Tensor]
    space: Callable[[int, int, torch.Size, Tensor], Space]
    pack: Callable[[Tensor], Tensor] = lambda vectors: vectors
    unpack: Callable[[Tensor], Tensor] = lambda vectors: vectors
    compiled: Callable[[InnerOptimizer], Step] | None = None


@dataclass(frozen=True)
class Written:
    """The kernel of a network whose gradient is written out; vectors in its order.

    Args:
        net: what is written out.
        reference: the same by autograd, in the model's order; it takes what `net`
            does not.
    """

    net: Net
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
            blocks = _gathered(self.net.prepared(x), support.y, order)
            # an optimiser without a formula is another one in every call, and must not
            # be compiled anew each time
            formula = inner.formula if order.shape[1] and inner.stop is None else None
            if formula and self.net.compiled:
                return _compiled(self.net.compiled(inner), theta, state, blocks)
            space = self._space(torch.Size((*order.shape[::2], *x.shape[2:])), theta)
            if not formula:
                take = partial(self._at, space)
                singly = (Batch(*one) for b in blocks for one in zip(*b, strict=True))
                return steps_on(take, inner, theta, state, singly)
            state = {name: _dense(v) for name, v in state.items()}
            space.theta.copy_(theta)
            move = partial(formula.in_place, space.g, state, space.theta)
            losses = [space.walk(*block, move) for block in blocks]
            return _adapted(space.theta.clone(), state, losses)

    def _at(self, space: Space, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient, in memory that the next call uses, and losses."""
        space.theta.copy_(theta)
        x, y = cast(Tensor, batch.x)[None], batch.y[None]
        return space.g, space.walk(x, y, lambda: None)[0]

    def _space(self, shape: torch.Size, like: Tensor) -> Space:
        """Return this thread's buffers for minibatches [n, b, ...] of this shape."""
        key = shape, like.dtype, like.device
        kept: dict[object, Space] = self._spaces.__dict__.setdefault("by_shape", {})
        if key not in kept:
            kept[key] = self.net.space(shape[0], shape[1], shape[2:], like)
        return kept[key]


def _compiled(
    step: Step, theta: Tensor, state: State, blocks: Iterable[Block]
) -> Adapted:
    """Take compiled steps, which want the same strides each time."""
    theta, state = _dense(theta), {name: _dense(v) for name, v in state.items()}
    losses = []
    for x, y in (one for block in blocks for one in zip(*block, strict=True)):
        theta, state, value = step(theta, state, x, y)
        losses.append(value[None])
    return _adapted(theta, state, losses)


def _adapted(theta: Tensor, state: State, losses: list[Tensor]) -> Adapted:
    """Return what came of steps, at least one, with these losses [s, n]."""
    found = torch.cat(losses).mT.contiguous()
    taken = theta.new_full(found.shape[:1], found.shape[1], dtype=torch.int64)
    return Adapted(theta, state, found, taken)


def _dense(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _gathered(x: Tensor, y: Tensor, order: Tensor) -> Iterator[Block]:
    """Gather the minibatches that order [n, k, b] names, many steps at a time."""
    n, k, b = order.shape
    rows = torch.arange(n, device=order.device)[:, None]
    size = max(1, n * b * x.shape[2:].numel())
    at_once = min(max(1, GATHERED // size), STEPS)
    for first in range(0, k, at_once):
        now = order[:, first : first + at_once].transpose(0, 1)  # [steps, n, b]
        yield x[rows, now], y[rows, now]
