"""From a learner to a network for use: adapted to a support set, which it remembers."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from reptile_lib.device import out_of_memory
from reptile_lib.errors import UserError
from reptile_lib.evaluation import Drawn
from reptile_lib.examples import Inputs, each
from reptile_lib.fast.choose import make_kernel
from reptile_lib.fit.checks import Learner
from reptile_lib.inner import Moments
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.models.frozen import OnSupport, batch_norms, frozen
from reptile_lib.rng import TEST, Draws
from reptile_lib.tasks import Batch, Episodes


def predictor(
    learner: Learner,
    support: Batch,
    *,
    inner_steps: int = 50,
    inner_batch: int | None = None,
    seed: int = 0,
    moments: Moments | None = None,
) -> nn.Module:
    """Adapt φ to one's own examples, and return a module that answers for others.

    Its batch norms keep the statistics of the whole support set, see `models.frozen`:
    what it makes of an example does not depend on which others are asked with it.

    Args:
        learner: the meta-learner; it is not changed.
        support: the examples of one task, x [S, ...] and y [S].
        inner_steps: steps of adaptation.
        inner_batch: examples a step; by default the learner's, or the whole support
            set where that is smaller.
        seed: which minibatches; those of the first task that `evaluate` draws with it.
        moments: "carry" or "reset", as for `evaluate`; by default as in training.

    Raises:
        UserError: the examples do not fit the model, are none or not finite, a label is
            out of range, the steps diverge, or a batch norm cannot keep statistics.

    >>> from reptile_lib import Reptile, mlp, sgd
    >>> support = Batch(torch.tensor([[-2.0], [-1.0], [1.0]]), torch.tensor([0, 0, 1]))
    >>> net = Reptile(mlp(1, 2), sgd(lr=1.0), inner_steps=5).predictor(support)
    >>> net(torch.tensor([[-3.0], [2.0]])).argmax(1)
    tensor([0, 1])
    """
    batch: int | Literal["learner"] = "learner" if inner_batch is None else inner_batch
    task = _Given(checked(support))
    drawn = Drawn(learner, task, inner_steps, batch, seed, TEST, moments)
    U = InnerLoop(learner.kernel, learner.inner)
    with learner.computing():
        ((phi, state, found),) = drawn.parts(range(1), 1)
        check_loss(U, phi, found.support)
        theta = U(phi, found.support, found.order, state).theta
        if not theta.isfinite().all():
            raise UserError(
                f"the weights diverged in {inner_steps} inner steps; lower the inner"
                f" learning rate (now {learner.inner.lr})"
            )
        x = each(lambda t: t[0], found.support.x)
        return frozen(learner.model, learner.kernel.unpack(theta)[0], x)


def outputs_on_support(
    learner: Learner, theta: Tensor, support: Inputs, query: Inputs
) -> Tensor | None:
    """Return what `predictor` would answer for the queries of n tasks: [n, Q, ...].

    Args:
        learner: whose model it is.
        theta: [n, P], adapted weights in the kernel's order.
        support: [n, S, ...].
        query: [n, Q, ...].

    Returns:
        None for a model without batch norm: it answers as ever.
    """
    if not batch_norms(learner.model):
        return None
    on_cpu, engine = theta.device.type == "cpu", learner.engine
    kernel = make_kernel(
        OnSupport(learner.model),
        learner.criterion,
        device=theta.device,
        # a CPU is slower at a stack of convolutions than at one task after the other
        engine="threads" if on_cpu and engine == "stacked" else engine,
        precision=learner.precision,
    )
    both = (x if isinstance(x, tuple) else (x,) for x in (support, query))
    return kernel.outputs(learner.kernel.unpack(theta), sum(both, ()))


@dataclass(frozen=True)
class _Given:
    """A distribution of a single task, which is at hand."""

    support: Batch

    def to(self, device: torch.device) -> "_Given":
        return _Given(self.support.map(lambda t: t.to(device)))

    def sample(self, draws: Draws) -> Episodes:
        return Episodes(self.support, self.support)


def checked(support: Batch) -> Batch:
    """Return examples and answers with an axis of tasks, [1, S, ...].

    Raises:
        UserError: they are no tensors, of different number, none, or not finite.
    """
    x, y = support
    kinds = (*(x if isinstance(x, tuple) else (x,)), y)
    for given in kinds:
        if not isinstance(given, Tensor) or given.dim() < 1:
            raise UserError(
                f"support has a {type(given).__name__} where a tensor should be; give"
                " tensors x [examples, ...] and y [examples]"
            )
    counts = [len(t) for t in kinds]
    if len(set(counts)) > 1 or 0 in counts:
        raise UserError(
            f"support has {', '.join(map(str, counts[:-1]))} examples and {counts[-1]}"
            " answers; give one example at least, and an answer for each"
        )
    for name, t in zip((*("x" for _ in counts[1:]), "y"), kinds, strict=True):
        good = t.reshape(len(t), -1).isfinite().all(1)
        if not good.all():
            raise UserError(
                f"{name}[{int(good.int().argmin())}] of the support set is not finite;"
                " give numbers, or leave the example out"
            )
    return Batch(x, y).map(lambda t: t[None])


def check_loss(U: InnerLoop, phi: Tensor, support: Batch) -> None:
    """Raise UserError unless the criterion takes the answers to the support set."""
    try:
        with torch.no_grad():
            loss = U.losses(phi[None], support).item()
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"the criterion does not take answers {list(support.y.shape[1:])} of"
            f" {support.y.dtype} ({str(error).splitlines()[0]}); give y as in training"
        ) from error
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of the support set is {loss} before the first step; give"
            " examples of the size of those in training"
        )
