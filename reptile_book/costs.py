"""What a meta-step costs, counted: operations and bytes are the same on every machine.

Seconds are not. `seconds` measures several contenders in turns, so that whatever else
the machine does meets all of them; only their ratio says something.
"""

import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from reptile_lib.inner_loop import InnerLoop
from reptile_lib.learner import MetaLearner
from reptile_lib.tasks import Tasks, draw_tasks


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of all tensors made inside: `peak` is the most at a time.

    Args:
        touched: whether to count tensors made before as well, from their first use on.

    >>> with PeakBytes() as memory:
    ...     for _ in range(3):
    ...         x = torch.zeros(10)
    >>> memory.now, memory.peak
    (40, 80)
    """

    def __init__(self, touched: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.touched = touched
        self.now: int = 0
        self.peak: int = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let the operation happen, and note what it made."""
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and given.untyped_storage() not in self._known:
                if self.touched:
                    self._note(given.untyped_storage())
                else:
                    self._known[given.untyped_storage()] = None
        results = func(*args, **(kwargs or {}))
        for made in tree_leaves(results):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return results

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = held = [0]
            weakref.finalize(storage, self._free, held).atexit = False
        if (held := self._known[storage]) is not None:
            # a storage can grow after it was made, where it is an operation's `out`
            self.now += storage.nbytes() - held[0]
            held[0] = storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _free(self, held: list[int]) -> None:
        self.now -= held[0]


def operations(act: Callable[[], object]) -> int:
    """Count the additions and multiplications of matrix products and convolutions.

    >>> a = torch.ones(4, 5)
    >>> operations(lambda: a @ a.T)  # 16 sums of 5 products
    160
    """
    with FlopCounterMode(display=False) as counter:
        act()
    total: int = counter.get_total_flops()
    return total


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by `act`, on this thread, hold at a time.

    >>> a = torch.ones(4, 5)
    >>> peak_bytes(lambda: a @ a.T)
    64
    """
    memory = PeakBytes()
    with memory:
        act()
    return memory.peak


def meta_step(
    learner: MetaLearner, tasks: Tasks, meta_batch: int = 1
) -> Callable[[], object]:
    """Return a function that asks the learner's rule where φ should go, once.

    It always asks about the same tasks, and leaves the learner as it is. To compare
    methods, give all learners the same engine.

    Args:
        learner: brings the rule, the inner loop and φ.
        tasks: where the tasks come from.
        meta_batch: how many of them.
    """
    learner.check(tasks)
    phi = learner.kernel.pack(learner.phi)
    drawn = draw_tasks(
        tasks,
        meta_batch,
        inner_steps=learner.inner_steps,
        inner_batch=learner.inner_batch,
    ).map(lambda values: values.to(phi.device))
    U = InnerLoop(learner.kernel, learner.inner)
    return lambda: learner.rule(U, phi, drawn.for_model(phi), None)


def seconds(
    contenders: Mapping[str, Callable[[], object]], rounds: int = 20
) -> dict[str, float]:
    """Time the contenders in turns; return the seconds of each one's fastest round.

    Args:
        contenders: what to run, under the names of the answer.
        rounds: how often.
    """
    best = dict.fromkeys(contenders, math.inf)
    for _ in range(rounds):
        for name, act in contenders.items():
            began = time.perf_counter()
            act()
            best[name] = min(best[name], time.perf_counter() - began)
    return best
