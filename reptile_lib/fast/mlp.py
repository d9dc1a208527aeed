"""The gradient of a small network of dense layers, for a stack of tasks.

With weights W [n, out, in] for n tasks, a layer is one batched product, forward and
back. Written out, a step is some twenty operations; autograd through a vmapped model
needs several times as many, and for small layers the operations cost more than their
arithmetic.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.fast.cross_entropy import reduction
from reptile_lib.fast.mlp_buffers import Workspace, gradient, workspace
from reptile_lib.fast.written import Written
from reptile_lib.kernel import Autograd, Criterion
from reptile_lib.params import Layout, layout
from reptile_lib.tasks import Batch

NAMES = "weight", "bias"
GROUP = 256  # tasks that a CPU stacks at a time; bounds memory


def mlp_kernel(
    model: nn.Module, criterion: Criterion, reference: Autograd
) -> Written[Workspace] | None:
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
    net = MlpNet(layout(model), tanh, _flattens(model), labels)
    return Written(net, reference)


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
class MlpNet:
    """Dense layers with their gradient written out.

    Args:
        where: names and shapes of weights and biases.
        tanh: whether the activation is tanh, else ReLU.
        flat: whether examples are made vectors first.
        labels: of the cross-entropy, "mean" or "sum"; None is the mean squared error.
            Labels must lie in [0, ways).
    """

    where: Layout
    tanh: bool
    flat: bool = False
    labels: str | None = None

    def pack(self, vectors: Tensor) -> Tensor:
        """Return the vectors: the model's order is this one's."""
        return vectors

    def unpack(self, vectors: Tensor) -> Tensor:
        """Return the vectors."""
        return vectors

    def takes(self, batch: Batch) -> bool:
        """Say whether these are the examples and answers that the weights are for."""
        x, y = batch
        if not isinstance(x, Tensor) or x.dim() < 3 or (x.dim() > 3 and not self.flat):
            return False
        if x.shape[2:].numel() != self.where.shapes[0][1]:
            return False
        ends = () if self.labels else self.where.shapes[-1]
        return y.shape == (*x.shape[:2], *ends)

    def prepared(self, x: Tensor) -> Tensor:
        """Make vectors of the examples."""
        return x.flatten(2)

    def workspace(self, n: int, b: int, shape: torch.Size, like: Tensor) -> Workspace:
        """Make buffers for n tasks and minibatches of b examples."""
        return workspace(self.where, n, b, like, tanh=self.tanh)

    def gradient(self, space: Workspace, x: Tensor, y: Tensor) -> Tensor:
        """Leave the gradient in `space.g`; return losses [n]."""
        return gradient(space, x, y, self.labels)
