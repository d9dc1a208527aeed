"""Which kernel computes a model's gradients, and how it spreads the tasks."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from reptile_lib.device import out_of_memory
from reptile_lib.errors import UserError
from reptile_lib.fast import conv4, mlp
from reptile_lib.fast.spread import Spread
from reptile_lib.fast.torch_settings import Precision
from reptile_lib.inner import InnerOptimizer
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.kernel import Criterion, Kernel, of_model
from reptile_lib.tasks import Episodes

Engine = Literal["auto", "serial", "threads", "stacked"]
"""How tasks are spread:

- "serial": one after the other, by plain autograd. Slow, plain, the reference.
- "threads": a task for each CPU core.
- "stacked": all as one batch of operations, weights stacked on a leading axis.
- "auto": what is fastest. Where a gradient is written out (Conv4, dense networks) that
  is known; any other model is tried both ways when `fit` begins.
"""

SLOW = "There is a performance drop"  # `vmap` warns that it takes tasks in turn


def make_kernel(
    model: nn.Module,
    criterion: Criterion,
    *,
    device: torch.device,
    engine: Engine = "auto",
    precision: Precision = "float32",
    compiled: bool = False,
) -> Kernel:
    """Return the kernel of a model and a criterion.

    Args:
        model: lends its structure; its parameters stay as they are.
        criterion: criterion(outputs, y) -> scalar loss.
        device: where the vectors will be.
        engine: how tasks are spread.
        precision: how matrices are multiplied.
        compiled: whether the inner steps of Conv4 are compiled.
    """
    bf16 = precision == "bf16"
    reference = of_model(model, criterion, bf16)
    alone = replace(reference, stacks=False)
    on_cpu = device.type == "cpu"
    images = conv4.conv4_kernel(
        model, criterion, reference, bf16=bf16, compiled=compiled
    )
    dense = None if bf16 else mlp.mlp_kernel(model, criterion, reference)
    written = images or dense
    group = conv4.GROUP if images else mlp.GROUP
    if engine == "serial":
        return Spread(alone, 1)
    if engine == "threads":
        return Spread(written or alone, 1, threads=True)
    if written is not None:
        # Of the answers to queries, a stack of convolutions is slower than one a task.
        return Spread(written, group) if on_cpu else written
    return reference if engine == "stacked" else Spread(alone, 1, threads=on_cpu)


def written_engine(
    model: nn.Module, criterion: Criterion, device: torch.device
) -> Engine:
    """Resolve "auto" where a gradient is written out; else leave it, to be tried.

    A GPU and small layers gain from being stacked. On a CPU with one core to share,
    Conv4 runs faster a task at a time, which fits its cache.
    """
    reference = of_model(model, criterion)
    if mlp.mlp_kernel(model, criterion, reference):
        return "stacked"
    if conv4.conv4_kernel(model, criterion, reference):
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        return "threads" if alone else "stacked"
    return "auto"


@contextmanager
def stacking_told(engine: Engine) -> Iterator[None]:
    """Turn an error because a model cannot be stacked into a line that says so."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", SLOW)
            yield
    except (RuntimeError, UserWarning) as error:
        text = str(error).partition(". ")[0].partition("\n")[0]
        if engine != "stacked" or not ("vmap" in text or "atching rule" in text):
            raise
        raise UserError(
            f'engine = "stacked" does not go with this model ({text}); take "threads"'
        ) from error


def fastest(
    kernels: dict[Engine, Kernel], inner: InnerOptimizer, phi: Tensor, tasks: Episodes
) -> Engine:
    """Try some inner steps on each kernel and return the name of the fastest.

    Not every model can be stacked; a kernel that fails is out, but for the last one.
    The last one also wins where it is close: digits should not depend on a moment.

    Args:
        kernels: by name.
        inner: the inner optimiser.
        phi: [P].
        tasks: a meta-batch, with few inner steps.
    """
    *others, safe = kernels
    seconds: dict[Engine, float] = {}
    for _ in range(3):
        for name, kernel in kernels.items():
            began = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", SLOW)
                    done = InnerLoop(kernel, inner)(phi, tasks.support, tasks.order)
                done.theta.sum().item()
            except (RuntimeError, ValueError, UserWarning) as error:  # `vmap`'s
                if name == safe or out_of_memory(error):
                    raise
                seconds[name] = inf
                continue
            seconds[name] = min(seconds.get(name, inf), time.perf_counter() - began)
    best = min(others, key=lambda name: seconds[name])
    return best if seconds[best] * 1.15 < seconds[safe] else safe
