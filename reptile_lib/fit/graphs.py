"""Meta-steps recorded once and replayed: CUDA graphs.

A meta-step is hundreds of small kernels, which a GPU runs faster than Python can ask
for them. A graph asks once for all. It works at fixed addresses, so inputs are copied
into buffers before, and outputs out of them after.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reptile_lib.inner import State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import Rule, Target
from reptile_lib.tasks import Episodes

WARM_UP = 3  # calls before recording: libraries set themselves up in the first ones


def captured(rule: Rule) -> Rule:
    """Return `rule` as graphs, one for each set of shapes it is called with.

    U must be the same in every call, and not ask the device for a value: a graph holds
    what the first calls did. A CPU has no graphs; there, each call runs the rule on the
    buffers, to the same result.
    """
    known: dict[object, tuple[list[Tensor], Callable[[], Target]]] = {}

    def replayed(
        U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None
    ) -> Target:
        # to pytree, None would be one more input
        given, spec = pytree.tree_flatten((phi, tasks, state or {}))
        key = (*(state or {}), *(x.shape for x in given))
        if key not in known:
            buffers = [x.clone() for x in given]
            phi, tasks, state = pytree.tree_unflatten(buffers, spec)
            act = partial(rule, U, phi, tasks, state or None)
            known[key] = buffers, _recorded(act, phi)
        buffers, run = known[key]
        for buffer, x in zip(buffers, given, strict=True):
            buffer.copy_(x)
        target: Target = pytree.tree_map_only(Tensor, Tensor.clone, run())
        return target

    return replayed


def _recorded(act: Callable[[], Target], like: Tensor) -> Callable[[], Target]:
    """Return `act` as a graph, where the device of `like` has graphs."""
    if like.device.type != "cuda":
        return act
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            act()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        target = act()  # recording itself computes nothing

    def replay() -> Target:
        graph.replay()
        return target

    return replay
