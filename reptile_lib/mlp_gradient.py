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

from reptile_lib.inner import Batch
from reptile_lib.params import Layout


def applies(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Say whether the gradient below is the one of this model and criterion.

    It is for linear layers with biases, one kind of activation between them (Tanh or
    ReLU) and the mean squared error.
    """
    if type(model) is not nn.Sequential or criterion is not F.mse_loss:
        return False
    layers, between = list(model)[::2], list(model)[1::2]
    return (
        len(layers) == len(between) + 1
        and all(type(m) is nn.Linear and m.bias is not None for m in layers)
        and len({type(m) for m in between}) <= 1
        and all(type(m) in (nn.Tanh, nn.ReLU) for m in between)
    )


@dataclass(frozen=True)
class MlpLoss:
    """The loss of `engine.make_loss`, and inner loops with its gradient written out."""

    plain: Callable[[Tensor, Batch], Tensor]
    where: Layout
    tanh: bool
    """Whether the activation is tanh, else ReLU."""
    group = 256
    """Tasks that a CPU stacks at a time; bounds memory."""

    def __call__(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the loss at theta [P]; differentiable."""
        return self.plain(theta, batch)

    def takes(self, support: Batch) -> bool:
        """Say whether these are vectors and answers of a stack of tasks."""
        return support.x.dim() == support.y.dim() == 3

    def minibatches(
        self, support: Batch, order: Tensor
    ) -> tuple[Callable[[Tensor, Batch], tuple[Tensor, Tensor]], Iterator[Batch]]:
        """Return the gradient below, and the k minibatches that it takes.

        Args:
            support: x [n, S, in], y [n, S, out].
            order: [n, k, b].
        """
        n = torch.arange(len(order), device=order.device)[:, None]
        batches = (Batch(support.x[n, o], support.y[n, o]) for o in order.unbind(1))
        return self.gradient, batches

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, P] and losses [n] at theta [n, P].

        Args:
            theta: [n, P].
            batch: x [n, B, in], y [n, B, out].
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
        off = inputs.pop().sub_(y)
        losses = off.square().mean((1, 2))
        d = off.mul_(2 / off[0].numel())
        found: list[Tensor] = []
        for weight, h in zip(reversed(weights), reversed(inputs), strict=True):
            found += [d.sum(1), torch.bmm(d.mT, h).flatten(1)]
            if h is not x:
                d = torch.bmm(d, weight)
                d = d.addcmul_(d, h.square(), value=-1) if self.tanh else d.mul_(h > 0)
        return torch.cat(found[::-1], 1), losses
