"""Meta-steps recorded once and replayed: CUDA graphs.

A meta-step is hundreds of small kernels, which a GPU runs faster than Python can ask
for them. A graph asks once for all. It works at fixed addresses, so inputs are copied
into buffers before, and outputs out of them after.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reptile_lib.inner import State
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.meta import Rule, Target
from reptile_lib.tasks import Episodes

WARM_UP = 3  # calls before recording: libraries set themselves up in the first ones


@dataclass
class Recording:
    """A function of tensors with the buffers that its graph works on."""

    function: Callable[[list[Tensor]], Target]
    inputs: list[Tensor]
    target: Target | None = None
    graph: "torch.cuda.CUDAGraph | None" = None


def captured(rule: Rule) -> Rule:
    """Return `rule` as graphs, one for each set of shapes it is called with.

    U must be the same in every call, and not ask the device for a value: a graph holds
    what the first calls did. A CPU has no graphs; there, each call runs the rule on the
    buffers, to the same result.
    """
    recordings: dict[object, Recording] = {}

    def replayed(
        U: InnerLoop, phi: Tensor, tasks: Episodes, state: State | None
    ) -> Target:
        known = state or {}  # to pytree, None would be one more input
        inputs, spec = pytree.tree_flatten((phi, tasks, known))

        def function(tensors: list[Tensor]) -> Target:
            phi, tasks, state = pytree.tree_unflatten(tensors, spec)
            return rule(U, phi, tasks, state or None)

        key = (*known, *(x.shape for x in inputs))
        if key not in recordings:
            recordings[key] = Recording(function, [x.clone() for x in inputs])
        return _run(recordings[key], inputs)

    return replayed


def _run(recording: Recording, inputs: list[Tensor]) -> Target:
    for buffer, x in zip(recording.inputs, inputs, strict=True):
        buffer.copy_(x)
    if inputs[0].device.type != "cuda":
        recording.target = recording.function(recording.inputs)
    elif recording.graph is None:
        recording.graph, recording.target = _record(recording)
        recording.graph.replay()  # recording itself computes nothing
    else:
        recording.graph.replay()
    assert recording.target is not None
    phi, state, loss, steps = recording.target
    copies = state and {name: value.clone() for name, value in state.items()}
    return Target(
        phi.clone(), copies, loss.clone(), None if steps is None else steps.clone()
    )


def _record(recording: Recording) -> tuple["torch.cuda.CUDAGraph", Target]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            recording.function(recording.inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        target = recording.function(recording.inputs)
    return graph, target
