"""Networks whose batch norms keep the statistics of a support set.

With the statistics of the batch at hand, the answer to one query depends on who is
asked with it, and a single image may have none. Kept with the adapted weights, the mean
and variance of the support set make a network that answers each query for itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reptile_lib.device import out_of_memory
from reptile_lib.errors import UserError
from reptile_lib.examples import Inputs, each
from reptile_lib.params import layout, unravel

ROUNDING = 1e-2  # of the largest answer; other answers are off by more


def frozen(model: nn.Module, theta: Tensor, support_x: Inputs) -> nn.Module:
    """Return a copy of `model` for use: weights theta, statistics of a support set.

    One forward pass over the whole support set gives each batch norm its mean and its
    biased variance (Ioffe & Szegedy 2015, algorithm 1), so that on the support set the
    copy answers as the model at theta does. It is a plain module in eval mode without
    gradients. Its statistics are torch's own buffers `running_mean` and `running_var`:
    a state dict has them, and another frozen copy of the model loads it.

    Args:
        model: without running statistics; it is not changed.
        theta: [P], its weights.
        support_x: [S, ...], or a tuple of such where the model takes several.

    Raises:
        UserError: the model does not take the examples, its answers are not finite, a
            batch norm does not run exactly once in a pass, or the copy would not answer
            an example alone as it does among others.

    >>> from reptile_lib import conv4
    >>> from reptile_lib.params import ravel
    >>> model, images = conv4(ways=5), torch.rand(7, 1, 28, 28)
    >>> net = frozen(model, ravel(model), images[:5])
    >>> torch.allclose(net(images[6:]), net(images)[6:], atol=1e-4)
    True
    """
    copy = deepcopy(model).to(theta.device)
    weights = unravel(theta.detach(), layout(copy))
    for name, parameter in copy.named_parameters():
        parameter.data = weights[name].clone()
    copy.requires_grad_(False)
    x = each(
        lambda t: t.to(theta if t.is_floating_point() else theta.device), support_x
    )
    with torch.no_grad():
        found = {norm: list[_Moments]() for norm in batch_norms(copy)}
        with _before_each(copy, lambda norm, z: found[norm].append(_moments(z))):
            expected = _answers(copy, x)
        for name, norm in copy.named_modules():
            if isinstance(norm, _BatchNorm):
                _keep(name, norm, found[norm])
        together, alone = (_answers(copy.eval(), x, n) for n in (None, 1))
    if not together.isfinite().all():
        raise UserError(
            "the model's answers to the support set are not finite at these weights;"
            " lower the inner learning rate"
        )
    if not _equal(together, expected):
        raise UserError(
            "the model answers otherwise in eval mode than in training (dropout?);"
            " build it without, or call model.eval() before it is trained"
        )
    if not _equal(together[:1], alone):
        raise UserError(
            "the model answers an example otherwise alone than among others, and only"
            " torch's own batch norms can keep statistics; build it of these"
        )
    return copy


class OnSupport(nn.Module):
    """A model that answers queries as `frozen` does, also under `vmap`.

    It is called with what the model takes of the support set, then of the queries. A
    batch norm that runs several times in a pass has statistics for each of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the answers to the queries."""
        norms, half = batch_norms(self.model), len(inputs) // 2
        found = {norm: list[_Moments]() for norm in norms}
        modes = [norm.training for norm in norms]

        def recall(norm: _BatchNorm, _: Tensor) -> None:
            if not found[norm]:
                raise UserError(UNEVEN)
            norm.running_mean, norm.running_var = found[norm].pop(0)
            norm.track_running_stats = True

        with _before_each(self.model, lambda norm, z: found[norm].append(_moments(z))):
            self.model(*inputs[:half])
        try:
            for norm in norms:
                norm.eval()
            with _before_each(self.model, recall):
                answers: Tensor = self.model(*inputs[half:])
        finally:
            for norm, mode in zip(norms, modes, strict=True):
                norm.train(mode).running_mean = norm.running_var = None
                norm.track_running_stats = False
        if any(found.values()):
            raise UserError(UNEVEN)
        return answers


UNEVEN = (
    "a batch norm runs more often on the support set than on the queries, or less, so"
    " that its statistics say nothing; give the model one that always runs"
)

_Moments = tuple[Tensor, Tensor]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers of a model that normalise by the statistics of a batch."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def _moments(z: Tensor) -> _Moments:
    """Return mean and biased variance [C] of what a norm is given, [B, C, ...]."""
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    axes = [axis for axis in range(z.dim()) if axis != 1]
    var, mean = torch.var_mean(z, axes, correction=0)
    return mean, var


@contextmanager
def _before_each(
    model: nn.Module, act: Callable[[_BatchNorm, Tensor], None]
) -> Iterator[None]:
    """Call act(norm, its input) whenever a batch norm is about to run."""

    def hook(norm: nn.Module, given: tuple[Tensor], named: dict[str, Tensor]) -> None:
        assert isinstance(norm, _BatchNorm)
        act(norm, next(iter((*given, *named.values()))))

    norms = batch_norms(model)
    hooks = [n.register_forward_pre_hook(hook, with_kwargs=True) for n in norms]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _keep(name: str, norm: _BatchNorm, found: list[_Moments]) -> None:
    """Make the one mean and variance that was found the running ones of a norm."""
    if norm.running_mean is not None:
        raise UserError(
            f"batch norm {name!r} has running statistics already; give the model that"
            " was trained, built with track_running_stats=False"
        )
    if len(found) != 1:
        raise UserError(
            f"batch norm {name!r} ran {len(found)} times in a pass over the support"
            " set, so that there is no one mean and variance to keep; give the model a"
            " batch norm for each place where one runs, and none that does not"
        )
    ((norm.running_mean, norm.running_var),) = found
    norm.track_running_stats = True
    # without this count, a state dict that went through a file would not be loaded
    norm.num_batches_tracked = torch.zeros(
        (), dtype=torch.int64, device=found[0][0].device
    )


def _answers(model: nn.Module, x: Inputs, first: int | None = None) -> Tensor:
    """Return what a model makes of the first examples, all if None."""
    given = tuple(t[:first] for t in (x if isinstance(x, tuple) else (x,)))
    try:
        answers = model(*given)
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise
        shapes = ", ".join(str(list(t.shape)) for t in given)
        raise UserError(
            f"the model does not take the support examples {shapes}; give those that it"
            f" was built for ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(answers, Tensor):
        raise UserError(
            f"the model answers with a {type(answers).__name__}; build one that answers"
            " with a tensor [examples, ...]"
        )
    return answers


def _equal(some: Tensor, others: Tensor) -> bool:
    scale = some.abs().max().item() if some.numel() else 0.0
    return torch.allclose(some, others, rtol=0, atol=ROUNDING * scale)
