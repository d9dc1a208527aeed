"""The gradient of a small network of dense layers, for a stack of tasks.

With weights W [n, out, in] for n tasks, a layer is one batched product, forward and
back. Written out, a step is some twenty operations; autograd through a vmapped model
needs several times as many, and for small layers the operations cost more than their
arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.examples import Inputs
from reptile_lib.fast.cross_entropy import reduction
from reptile_lib.fast.in_place import steps_in
from reptile_lib.fast.mlp_buffers import Workspace, gradient, workspace
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import Adapted, Autograd, Criterion
from reptile_lib.params import Layout, layout
from reptile_lib.tasks import Batch

NAMES = "weight", "bias"
GROUP = 256  # tasks that a CPU stacks at a time; bounds memory
GATHERED = 2**22  # numbers of minibatches that are gathered at a time; likewise


def mlp_kernel(
    model: nn.Module, criterion: Criterion, reference: Autograd
) -> "MlpKernel | None":
    """Return the kernel of this model and criterion, or None if it is not theirs.

    It is for linear layers with biases, one kind of activation between them (Tanh or
    ReLU), perhaps a Flatten before them; and for the mean squared error or the
    cross-entropy, as mean or sum. A parameter that two layers share, or one that is
    computed from others, is not of this kind.
    """
    if not _applies(model, criterion):
        return None
    tanh = any(type(m) is nn.Tanh for m in _modules(model))
    labels = reduction(criterion)
    return MlpKernel(reference, layout(model), tanh, _flattens(model), labels)


def _applies(model: nn.Module, criterion: Criterion) -> bool:
    if type(model) is not nn.Sequential:
        return False
    if criterion is not F.mse_loss and reduction(criterion) not in ("mean", "sum"):
        return False
    found = _modules(model)
    found = found[1:] if _flattens(model) else found
    layers, between = found[::2], found[1::2]
    theirs = [p for m in layers for p in (m._parameters.get(n) for n in NAMES)]
    return (
        len(layers) == len(between) + 1
        and all(type(m) is nn.Linear for m in layers)
        and list(map(id, theirs)) == list(map(id, model.parameters()))
        and len({type(m) for m in between}) <= 1
        and all(type(m) in (nn.Tanh, nn.ReLU) for m in between)
    )


def _flattens(model: nn.Module) -> bool:
    """Say whether the model begins by making a vector of each example."""
    first = next(iter(_modules(model)), None)
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a Sequential, also of those inside it, in their order."""
    if type(model) is not nn.Sequential:
        return [model]
    return [layer for part in model for layer in _modules(part)]


@dataclass(frozen=True)
class MlpKernel:
    """Inner loops of dense layers with the gradient written out.

    Args:
        reference: the same by autograd; takes what is not as expected here.
        where: names and shapes of weights and biases.
        tanh: whether the activation is tanh, else ReLU.
        flat: whether examples are made vectors first.
        labels: of the cross-entropy, "mean" or "sum"; None is the mean squared error.
            Labels must lie in [0, ways).
    """

    reference: Autograd
    where: Layout
    tanh: bool
    flat: bool = False
    labels: str | None = None
    _spaces: local = field(default_factory=local)  # each thread's buffers, by shape

    def pack(self, vectors: Tensor) -> Tensor:
        """Return the vectors: the model's order is the kernel's."""
        return vectors

    def unpack(self, vectors: Tensor) -> Tensor:
        """Return the vectors."""
        return vectors

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return [n], the loss of each task; differentiable."""
        return self.reference.losses(theta, batch)

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """Return outputs [n, B, out]."""
        return self.reference.outputs(theta, x)

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n]."""
        if not self._takes(batch):
            return self.reference.gradient(theta, batch)
        with torch.no_grad():
            space = self._space(batch.y.shape[0], batch.y.shape[1], theta)
            space.theta.copy_(theta)
            flat = Batch(cast(Tensor, batch.x).flatten(2), batch.y)
            losses = self._take(space, flat)
            return space.g.clone(), losses

    def descend(
        self,
        inner: InnerOptimizer,
        theta: Tensor,
        state: State,
        support: Batch,
        order: Tensor,
    ) -> Adapted:
        """Take k inner steps for each of n tasks."""
        if not self._takes(support):
            return self.reference.descend(inner, theta, state, support, order)
        n, _, b = order.shape
        with torch.no_grad():  # threads do not hand it on
            space = self._space(n, b, theta)
            batches = _gathered(support, order)
            take = partial(self._take, space)
            return steps_in(space, take, inner, (theta, state), batches)

    def _space(self, n: int, b: int, like: Tensor) -> Workspace:
        """Return this thread's buffers for n tasks and minibatches of b examples."""
        key = (n, b, like.dtype, like.device)
        kept = self._spaces.__dict__.setdefault("by_shape", {})
        if key not in kept:
            kept[key] = workspace(self.where, n, b, like)
        space: Workspace = kept[key]
        return space

    def _take(self, space: Workspace, batch: Batch) -> Tensor:
        x = cast(Tensor, batch.x)
        return gradient(space, x, batch.y, tanh=self.tanh, labels=self.labels)

    def _takes(self, batch: Batch) -> bool:
        """Say whether these are the examples and answers that the weights are for."""
        x, y = batch
        if not isinstance(x, Tensor) or x.dim() < 3 or (x.dim() > 3 and not self.flat):
            return False
        if x.shape[2:].numel() != self.where.shapes[0][1]:
            return False
        ends = () if self.labels else self.where.shapes[-1]
        return y.shape == (*x.shape[:2], *ends)


def _gathered(support: Batch, order: Tensor) -> Iterator[Batch]:
    """Gather the minibatches that order [n, k, b] names, many steps at a time."""
    n, k, b = order.shape
    rows = torch.arange(n, device=order.device)[:, None]
    support = Batch(cast(Tensor, support.x).flatten(2), support.y)
    width = cast(Tensor, support.x).shape[2]
    at_once = max(1, GATHERED // max(1, n * b * width))
    for first in range(0, k, at_once):
        now = order[:, first : first + at_once].transpose(0, 1)  # [steps, n, b]
        x, y = support.map(lambda t, now=now: t[rows, now])  # type: ignore[misc]
        yield from map(Batch, x, y)
