"""Meta-steps recorded once and replayed: CUDA graphs.

A meta-step is hundreds of small kernels, which a GPU runs faster than Python can ask
for them. A graph asks once for all, also for several meta-steps in a row. It works at
fixed addresses: inputs are copied into buffers before, and outputs out of them after.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reptile_lib.inner import State
from reptile_lib.meta import MetaState, Training, meta_steps, outer_step
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import Episodes, Tasks

WARM_UP = 3  # calls before recording: libraries set themselves up in the first ones
IN_A_ROW = 10  # meta-steps of a graph: its copies in and out are then a small part

Advance = Callable[[MetaState, range], Iterator[tuple[MetaState, Tensor]]]
"""advance(now, steps) yields where one or several of these meta-steps lead, and what
was watched of each, [some, 2]."""


def one_by_one(run: Training) -> Advance:
    """Return `meta_steps`."""
    return lambda now, steps: (
        (reached, target.watched()[None])
        for reached, target in meta_steps(run, now, steps)
    )


def recordable(tasks: Tasks) -> bool:
    """Say whether a distribution's `sample` goes into a graph.

    An attribute of this name, in the class that defines `sample`, promises that it asks
    the host for nothing, and that what it returns depends on its argument alone: a
    graph repeats the calls of the device, not Python.
    """
    kinds = (kind for kind in type(tasks).__mro__ if "sample" in vars(kind))
    promised = "recordable" in vars(next(kinds, object))
    return promised and getattr(tasks, "recordable", False)


def in_a_row(run: Training, most: int = IN_A_ROW) -> Advance:
    """Return the meta-steps of one process as graphs of `most` of them, and of one.

    Those of one are for the first, which may start without a state, and for the rest
    of `steps`, of which all tasks are held at a time. A graph of its own draws them,
    always as many: 256 tasks take no more calls of the device than one, and another
    number would be another graph.
    """
    replayed, begun = captured(partial(a_row, run)), False
    whole = max(1, run.at_once // run.meta_batch)

    def draw(phi: Tensor, numbers: Tensor) -> Episodes:
        return run.sample(phi, Draws(run.seed, TRAIN, numbers))

    drawn = captured(draw) if recordable(run.tasks) else draw

    def advance(now: MetaState, steps: range) -> Iterator[tuple[MetaState, Tensor]]:
        nonlocal begun
        n, done = run.meta_batch, 0
        epsilons = _stacked([run.epsilon(i / run.meta_steps) for i in steps], now.phi)
        many = len(steps) if drawn is draw else max(whole, len(steps))
        some = range(steps.start, steps.start + many)
        who = draws(run.seed, TRAIN, some, range(n), now.phi.device)
        tasks = drawn(now.phi, who.tasks)
        while done < len(steps):
            count = most if begun and len(steps) - done >= most else 1
            rows = slice(n * done, n * (done + count))
            phi, inner, outer, watched = replayed(
                now.phi,
                now.inner_state if run.moments == "carry" else None,
                now.outer_state,
                tasks.map(lambda t, rows=rows: t[rows]),  # type: ignore[misc]
                epsilons[done : done + count],
            )
            done, begun = done + count, True
            now = MetaState(phi, inner, outer, now.meta_step + count)
            yield now, watched

    return advance


def a_row(
    run: Training,
    phi: Tensor,
    state: State | None,
    outer: State | None,
    tasks: Episodes,
    epsilons: Tensor,
) -> tuple[Tensor, State | None, State | None, Tensor]:
    """Do as `meta_steps`, from tensors to tensors, which is what a graph can hold.

    Args:
        run: what the meta-steps have in common; one process does them.
        phi: [P].
        state: of the inner optimiser, or None.
        outer: state of the outer optimiser, or None.
        tasks: [m n, ...], n a meta-step.
        epsilons: [m] or [m, P].

    Returns:
        φ, both states, and what was watched of each meta-step [m, 2].
    """
    n, watched, found = run.meta_batch, [], state
    for i, epsilon in enumerate(epsilons.unbind()):
        mine = tasks.map(lambda t, i=i: t[n * i : n * (i + 1)])  # type: ignore[misc]
        target = run.rule(run.U, phi, mine, state)
        phi, outer = outer_step(phi, target.phi, epsilon, run.outer, outer)
        found, state = target.state, target.state if run.moments == "carry" else None
        watched.append(target.watched())
    return phi, found, outer, torch.stack(watched)


def _stacked(shares: Sequence[float | Tensor], phi: Tensor) -> Tensor:
    """Stack numbers, and what broadcasts with φ: [m] or [m, P], to φ's device."""
    homes = [share.device for share in shares if isinstance(share, Tensor)]
    home = homes[0] if homes else "cpu"  # numbers go to the device all at once
    given = [torch.as_tensor(share, dtype=phi.dtype, device=home) for share in shares]
    wide = torch.broadcast_tensors(*given)  # type: ignore[no-untyped-call]
    return torch.stack(wide).to(phi)


def captured(act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors as graphs, one for each set of shapes.

    It must not ask the device for a value: a graph holds what the first calls did. A
    CPU has no graphs; there, each call runs the function on the buffers, to the same
    result.

    Args:
        act: of tensors, or of what holds tensors, to the like.
    """
    known: dict[object, tuple[list[Any], Callable[[], Any]]] = {}

    def replayed(*arguments: Any) -> Any:
        given, spec = pytree.tree_flatten(arguments)
        key = (str(spec), *(x.shape if isinstance(x, Tensor) else x for x in given))
        if key not in known:
            buffers = pytree.tree_map_only(Tensor, Tensor.clone, given)
            inside = partial(act, *pytree.tree_unflatten(buffers, spec))
            known[key] = buffers, _recorded(inside, arguments[0].device)
        buffers, run = known[key]
        for buffer, x in zip(buffers, given, strict=True):
            if isinstance(x, Tensor):
                buffer.copy_(x)
        return pytree.tree_map_only(Tensor, Tensor.clone, run())

    return replayed


@contextmanager
def _no_collector() -> Iterator[None]:
    """Collect no garbage: it may free what must not be freed during a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _recorded(act: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Return `act` as a graph, where the device has graphs."""
    if device.type != "cuda":
        return act
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                act()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # On `side`: torch's own stream for graphs is of the device that was used first.
        with (
            _no_collector(),
            torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"),
        ):
            result = act()  # recording itself computes nothing

    def replay() -> Any:
        graph.replay()
        return result

    return replay
