"""The gradient of a small network of dense layers, for a stack of tasks.

With weights W [n, out, in] for n tasks, a layer is one batched product, forward and
back. Written out, a step is some twenty operations; autograd through a vmapped model
needs several times as many, and for small layers the operations cost more than their
arithmetic.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.cross_entropy import reduction, with_gradient
from reptile_lib.inner import Batch
from reptile_lib.params import Layout, layout

NAMES = "weight", "bias"


def applies(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Say whether the gradient below is the one of this model and criterion.

    It is for linear layers with biases, one kind of activation between them (Tanh or
    ReLU), perhaps a Flatten before them; and for the mean squared error or the
    cross-entropy, as mean or sum. A parameter that two layers share, or one that is
    computed from others, is not of this kind.
    """
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
class MlpLoss:
    """The loss of `engine.make_loss`, and inner loops with its gradient written out."""

    plain: Callable[[Tensor, Batch], Tensor]
    where: Layout
    tanh: bool
    """Whether the activation is tanh, else ReLU."""
    flat: bool = False
    """Whether examples are made vectors first."""
    labels: str | None = None
    """Of the cross-entropy, "mean" or "sum"; None is the mean squared error.

    Labels must lie in [0, ways)."""
    group = 256
    """Tasks that a CPU stacks at a time; bounds memory."""

    def __call__(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the loss at theta [P]; differentiable."""
        return self.plain(theta, batch)

    def takes(self, support: Batch) -> bool:
        """Say whether these are examples and answers of a stack of tasks."""
        x, y = support.x.dim(), support.y.dim()
        return (x >= 3 if self.flat else x == 3) and y == (2 if self.labels else 3)

    def minibatches(
        self, support: Batch, order: Tensor
    ) -> tuple[Callable[[Tensor, Batch], tuple[Tensor, Tensor]], Iterator[Batch]]:
        """Return the gradient below, and the k minibatches that it takes.

        Args:
            support: x [n, S, in] or, made vectors first, [n, S, ...]; y [n, S, out],
                of the cross-entropy [n, S].
            order: [n, k, b].
        """
        n = torch.arange(len(order), device=order.device)[:, None]
        x, y = support.x.flatten(2), support.y
        batches = (Batch(x[n, o], y[n, o]) for o in order.unbind(1))
        return self.gradient, batches

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n] at theta [n, P].

        Args:
            theta: [n, P].
            batch: x [n, B, in], y [n, B, out] or, of the cross-entropy, [n, B].
        """
        (x, y), n = batch, theta.shape[0]
        parts = torch.split(theta, self.where.sizes, 1)
        weights = [
            part.view(n, *shape)
            for part, shape in zip(parts[::2], self.where.shapes[::2], strict=True)
        ]
        biases = [part[:, None] for part in parts[1::2]]
        inputs = [x]
        for weight, bias in zip(weights, biases, strict=True):
            z = torch.baddbmm(bias, inputs[-1], weight.mT)
            if len(inputs) < len(weights):
                z = z.tanh_() if self.tanh else z.relu_()
            inputs.append(z)
        losses, d = self._criterion(inputs.pop(), y)
        found: list[Tensor] = []
        for weight, h in zip(reversed(weights), reversed(inputs), strict=True):
            found += [d.sum(1), torch.bmm(d.mT, h).flatten(1)]
            if h is not x:
                d = torch.bmm(d, weight)
                d = d.addcmul_(d, h.square(), value=-1) if self.tanh else d.mul_(h > 0)
        return torch.cat(found[::-1], 1), losses

    def _criterion(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses [n], and their gradient by the output [n, B, out]."""
        if self.labels is None:
            off = output.sub_(y)
            return off.square().mean((1, 2)), off.mul_(2 / off[0].numel())
        return with_gradient(output, y, self.labels == "sum")


def written(
    plain: Callable[[Tensor, Batch], Tensor],
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> MlpLoss:
    """Return the loss `plain`, with its gradient written out, where it `applies`."""
    tanh = any(type(m) is nn.Tanh for m in _modules(model))
    labels = reduction(criterion)
    return MlpLoss(plain, layout(model), tanh, _flattens(model), labels)
