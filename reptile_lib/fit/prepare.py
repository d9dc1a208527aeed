"""What a `fit` hands to the meta-steps, in the kernel's order."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from reptile_lib.fast.choose import Engine, fastest
from reptile_lib.fit.checks import Learner
from reptile_lib.fit.graphs import Advance, captured, in_a_row, one_by_one
from reptile_lib.inner_loop import InnerLoop
from reptile_lib.kernel import in_kernel_order
from reptile_lib.meta import Alone, Schedule, Training
from reptile_lib.optimizers.formulas import with_rates
from reptile_lib.tasks import Tasks


def training(
    learner: Learner,
    tasks: Tasks,
    meta_steps: int,
    meta_batch: int,
    epsilon: Schedule,
    seed: int,
) -> Training:
    """Say for the meta-steps what a run is."""
    kernel, phi = learner.kernel, learner.state.phi

    def in_order(done: float) -> float | Tensor:
        now = epsilon(done)
        if isinstance(now, Tensor) and now.shape[-1:] == phi.shape[-1:]:
            return kernel.pack(now)
        return now

    inner, lr = learner.inner, learner.inner.lr
    if isinstance(lr, Tensor) and lr.device != phi.device:
        # A graph cannot fetch rates from the CPU's memory.
        inner = with_rates(inner, lr.to(phi))
    return Training(
        InnerLoop(kernel, inner),
        learner.rule,
        tasks,
        learner.team,
        inner_steps=learner.inner_steps,
        inner_batch=learner.inner_batch,
        meta_steps=meta_steps,
        meta_batch=meta_batch,
        epsilon=in_order,
        seed=seed,
        outer=learner.outer and in_kernel_order(learner.outer, kernel),
        moments=learner.moments,
        one_a_core=learner.engine == "threads",
        at_once=learner.at_once,
    )


def advance_of(learner: Learner, run: Training) -> Advance:
    """Return how the meta-steps of a run are done: recorded where that is possible."""
    on_gpu = learner.state.phi.device.type != "cpu"
    if not (on_gpu and learner.recorded and learner.engine == "stacked"):
        return one_by_one(run)
    if run.team.size == 1 and run.meta_batch <= run.at_once:
        return in_a_row(run)
    replayed = captured(partial(run.rule, run.U))  # what several processes do alone
    return one_by_one(replace(run, rule=lambda _, *given: replayed(*given)))


def fastest_engine(learner: Learner, run: Training) -> Engine:
    """Try the first tasks of a run, a few inner steps, on each engine."""
    first = replace(run, inner_steps=min(2, run.inner_steps), team=Alone())
    (parts,) = first.drawn(range(1), learner.state.phi)
    on_cpu = learner.state.phi.device.type == "cpu"
    engines: tuple[Engine, ...] = ("stacked", "threads" if on_cpu else "serial")
    kernels = {engine: learner.make_kernel(engine) for engine in engines}
    return fastest(kernels, learner.inner, learner.state.phi, next(parts))
