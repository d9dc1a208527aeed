"""The full training loop: a learner takes meta-steps, has a history, and is saved.

::

    learner = Reptile(conv4(ways=5), inner=adam(lr=1e-3), inner_steps=5, inner_batch=10)
    learner.fit(tasks, meta_steps=1_000, meta_batch=5, epsilon=linear(1.0, 0.0))

`fit` draws the tasks of many meta-steps at once, runs them without waiting for the
device, and looks at the result once per chunk.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean as mean
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from reptile_lib import checkpoint, meta_step
from reptile_lib.capture import captured
from reptile_lib.engine import Engine, Precision, choose_engine, make_loss, precise
from reptile_lib.errors import UserError
from reptile_lib.evaluate import check_ways
from reptile_lib.inner import InnerOptimizer, Moments, State
from reptile_lib.machine import find_device, memory_told, uninterrupted
from reptile_lib.meta import Rule, Schedule, fomaml, joint, maml, reptile
from reptile_lib.params import layout, ravel
from reptile_lib.state import MetaState, Run
from reptile_lib.tasks import FewShotTasks, Tasks
from reptile_lib.workers import World, first_alone, world

HISTORY_ROWS = 200  # about as many rows as a history has


@dataclass
class MetaLearner:
    """A model, an inner loop, and the rule that learns its initialisation φ.

    Attributes:
        model: any module without running statistics. It lends its structure and its
            initial parameters; training leaves it as it is.
        inner: the inner optimiser.
        inner_steps: k, inner steps a task.
        inner_batch: examples an inner step; None takes the whole support set.
        rule: the outer rule, see `meta`.
        criterion: criterion(outputs, y) -> scalar loss.
        moments: whether the inner optimiser's state outlives a task. "carry" hands the
            mean state of a meta-batch on to the next meta-step and to evaluation, as
            the authors' code does one task after the other; "reset" forgets it.
        outer: an optimiser that takes φ − target as the gradient and proposes where to
            go instead of the target; φ moves a fraction ε of the way there. None goes
            to the target, as `sgd(1.0)` would.
        device: "auto" takes a CUDA device where there is one.
        engine: how tasks are spread, see `engine`; "auto" picks.
        precision: how matrices are multiplied, see `engine.Precision`.
        compiled: whether the inner steps of Conv4 are compiled. It takes half a minute
            and a C++ compiler, and then a fifth less time on a CPU.
        graphs: whether the meta-steps of engine "stacked" are recorded once and
            replayed, see `capture`; None: where there are graphs, on CUDA.
    """

    model: nn.Module
    inner: InnerOptimizer
    inner_steps: int
    inner_batch: int | None = None
    rule: Rule = reptile
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    moments: Moments = "carry"
    outer: InnerOptimizer | None = None
    device: str | torch.device = "auto"
    engine: Engine = "auto"
    precision: Precision = "float32"
    compiled: bool = False
    graphs: bool | None = None
    state: MetaState = field(init=False, repr=False)
    history: list[dict[str, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Move the model to the device and read φ off it.

        Raises:
            UserError: a setting is out of range, the device is absent, or the model
                keeps running statistics.
        """
        if self.inner_steps < 1 or (
            self.inner_batch is not None and self.inner_batch < 1
        ):
            raise UserError(
                f"inner_steps = {self.inner_steps}, inner_batch = {self.inner_batch};"
                " give at least 1 of each"
            )
        for name, module in self.model.named_modules():
            if getattr(module, "running_mean", None) is not None:
                raise UserError(
                    f"{name!r} keeps running statistics, which tasks would mix up;"
                    " build it with track_running_stats=False"
                )
        for name, value, kind in (
            ("moments", self.moments, Moments),
            ("engine", self.engine, Engine),
            ("precision", self.precision, Precision),
        ):
            if value not in (choices := get_args(kind)):
                raise UserError(
                    f"{name} = {value!r}; choose one of {', '.join(choices)}"
                )
        self.device = find_device(self.device)
        self.model = self.model.to(self.device)
        if self.precision == "tf32" and self.device.type != "cuda":
            raise UserError(
                f'precision = "tf32" on {self.device}: only CUDA devices have it; take'
                ' "float32" or "bf16"'
            )
        if self.inner.full_batch:
            self.inner_batch = None
        if self.engine == "auto":
            self.engine = choose_engine(self.model, self.criterion, self.device)
        if self.graphs is None:
            self.graphs = self.device.type == "cuda"
        self.state = MetaState(ravel(self.model), None, None, 0)
        self.history = []

    @property
    def phi(self) -> Tensor:
        """The initialisation φ [P]."""
        return self.state.phi

    @property
    def inner_state(self) -> State | None:
        """Mean inner state after the last meta-step, carried or not; None at first."""
        return self.state.inner_state

    def fit(
        self,
        tasks: Tasks,
        *,
        meta_steps: int,
        meta_batch: int = 1,
        epsilon: Schedule,
        seed: int = 0,
        validate: Callable[["MetaLearner"], dict[str, float]] | None = None,
        validate_every: int = 0,
        checkpoint_to: Path | Callable[[], None] | None = None,
        checkpoint_every: int = 0,
        config: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> None:
        """Train φ until `meta_steps` meta-steps are done, from where it stands.

        With `meta_batch` = 1 and `rule` = reptile this is algorithm 1 of the paper
        (serial), with more tasks a meta-step algorithm 2 (batched). The same seed gives
        the same φ, bit for bit on one machine, also across a stop and `restore`.

        Args:
            tasks: where tasks come from.
            meta_steps: meta-steps in all, those already done included.
            meta_batch: n, tasks a meta-step.
            epsilon: ε as a function of the share of meta-steps done, see `meta`.
            seed: draws the tasks.
            validate: measures the learner, for the history; give it validation classes.
            validate_every: meta-steps between two calls; 0 for never.
            checkpoint_to: file for checkpoints, also written at the end and on Ctrl-C;
                or what to call instead, which may raise to end the training there.
            checkpoint_every: meta-steps between two checkpoints; 0 for at the end only.
            config: JSON settings to keep in the checkpoint.
            progress: draw a progress bar on stderr.

        Raises:
            UserError: settings do not fit, the loss became NaN or infinite (φ is then
                as before), or a checkpoint cannot be written or would replace that of
                a run which has got further.
        """
        here = self.agree()
        if meta_batch < 1 or meta_steps <= self.state.meta_step:
            raise UserError(
                f"meta_batch = {meta_batch}, meta_steps = {meta_steps} with"
                f" {self.state.meta_step} done; ask for more, or make a new learner"
            )
        if min(validate_every, checkpoint_every) < 0:
            raise UserError(
                f"validate_every = {validate_every}, checkpoint_every ="
                f" {checkpoint_every}; give meta-steps between two, or 0 for never"
            )
        if meta_batch < here.size:
            raise UserError(
                f"meta_batch = {meta_batch} for {here.size} processes; start at most a"
                " process a task"
            )
        loss, forward = make_loss(
            self.model, self.criterion, self.precision, self.compiled
        )
        if isinstance(tasks, FewShotTasks):
            check_ways(forward, self.phi, tasks)
        recorded = self.graphs and self.engine == "stacked"
        rule = captured(self.rule) if recorded else self.rule
        tasks = tasks.to(self.phi.device)
        run = Run(loss, rule, tasks, meta_steps, meta_batch, epsilon, seed)
        every = [max(1, meta_steps // HISTORY_ROWS), validate_every, checkpoint_every]

        def write_checkpoint() -> None:
            if isinstance(checkpoint_to, Path):
                self.save(checkpoint_to, config)
            elif checkpoint_to:
                checkpoint_to()

        if self.state.meta_step == 0:
            if isinstance(path := checkpoint_to, Path):
                first_alone(lambda: checkpoint.refuse_a_run(path))
            first_alone(
                write_checkpoint
            )  # a folder that cannot be written shows itself now
        bar = tqdm(
            total=meta_steps,
            initial=self.state.meta_step,
            disable=not progress or here.rank > 0,
            unit="meta-step",
            smoothing=0.05,
        )
        began = time.perf_counter() - (
            self.history[-1]["seconds"] if self.history else 0
        )
        watched: list[list[float]] = []
        try:
            with bar, precise(self.precision), memory_told(meta_batch):
                while (start := self.state.meta_step) < meta_steps:
                    ends = [(start // n + 1) * n for n in every if n]
                    stop = min(
                        start + max(1, meta_step.CHUNK // meta_batch), meta_steps, *ends
                    )
                    watched += meta_step.take(self, run, range(start, stop))
                    bar.update(stop - start)
                    if stop not in (meta_steps, *ends):
                        continue
                    row = {
                        "meta_step": stop,
                        "epsilon": epsilon((stop - 1) / meta_steps),
                        "loss": mean(loss for loss, _ in watched),
                        "seconds": time.perf_counter() - began,
                    }
                    if not math.isnan(taken := mean(taken for _, taken in watched)):
                        row["inner_steps"] = taken
                    if validate and validate_every and stop % validate_every == 0:
                        row |= validate(self)
                    self.history.append(row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}")
                    watched = []
                    if stop == meta_steps or (
                        checkpoint_every and stop % checkpoint_every == 0
                    ):
                        first_alone(write_checkpoint)
        except KeyboardInterrupt:
            if here.rank == 0:  # the others may be gone
                with uninterrupted():
                    write_checkpoint()
            raise

    def agree(self) -> World:
        """Put every process (`workers`) where the first stands; fit begins with it."""
        here = world()
        if here.size > 1:
            start: list[Any] = [self.state.to("cpu"), self.history, self.engine]
            dist.broadcast_object_list(start)
            state, self.history, self.engine = start
            self.state = state.to(self.phi.device)
        return here

    def save(self, path: Path, config: dict[str, Any] | None = None) -> None:
        """Write φ, the optimisers' states, the history and `config` to one file.

        Raises:
            UserError: the file cannot be written; an older one then stays as it was.
        """
        metadata = {
            "meta_step": self.state.meta_step,
            "history": self.history,
            "config": config or {},
        }
        phi, inner, outer, _ = self.state
        states = {"inner": inner, "outer": outer}
        checkpoint.save(path, phi, layout(self.model), states, metadata)

    def restore(self, path: Path) -> None:
        """Go on from where the run that wrote `path` stood.

        Raises:
            UserError: the file is missing, damaged, or another model's.
        """
        found = checkpoint.load(path)
        phi = found.vector(layout(self.model)).to(self.phi)
        inner = found.state("inner", self.inner, phi)
        outer = found.state("outer", self.outer, phi)
        self.state = MetaState(phi, inner, outer, found.metadata["meta_step"])
        self.history = found.metadata["history"]


Reptile = partial(MetaLearner, rule=reptile)
"""Make a `MetaLearner` that follows `meta.reptile`."""

FOMAML = partial(MetaLearner, rule=fomaml)
"""Make a `MetaLearner` that follows `meta.fomaml`; ε is its outer learning rate."""

MAML = partial(MetaLearner, rule=maml)
"""Make a `MetaLearner` that follows `meta.maml`; ε is its outer learning rate."""

Joint = partial(MetaLearner, rule=joint)
"""Make a `MetaLearner` that follows `meta.joint`; ε is its learning rate."""
