"""The full training loop: a learner takes meta-steps, has a history, and is saved.

::

    learner = Reptile(conv4(ways=5), inner=adam(lr=1e-3), inner_steps=5, inner_batch=10)
    learner.fit(tasks, meta_steps=1_000, meta_batch=5, epsilon=linear(1.0, 0.0))
    net = learner.predictor(Batch(images, labels))  # for use, see `fit.deploy`

`fit` draws the tasks of many meta-steps at once, runs them without waiting for the
device, and looks at the result once per chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.device import find_device
from reptile_lib.fast.choose import Engine, make_kernel, stacking_told, written_engine
from reptile_lib.fast.torch_settings import Precision, precise
from reptile_lib.fit import checks, deploy
from reptile_lib.fit.loop import Loop, memory_told
from reptile_lib.fit.prepare import fastest_engine, training
from reptile_lib.inner import InnerOptimizer, Moments, State
from reptile_lib.kernel import Criterion, Kernel
from reptile_lib.meta import (
    MetaState,
    Rule,
    Schedule,
    Team,
    fomaml,
    joint,
    maml,
    reptile,
)
from reptile_lib.parallel.team import here
from reptile_lib.params import layout, ravel
from reptile_lib.storage import checkpoint
from reptile_lib.tasks import Tasks


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
        engine: how tasks are spread, see `fast.choose.Engine`; "auto" picks.
        precision: how matrices are multiplied, see `fast.torch_settings.Precision`.
        at_once: tasks that are drawn, and held, at a time.
        compiled: whether the inner steps of Conv4 are compiled. It takes half a minute
            and a C++ compiler, and then a fifth less time on a CPU.
        recorded: whether a GPU records meta-steps and replays them (CUDA graphs).

    >>> from reptile_lib import Reptile, Sine, linear, mlp, sgd
    >>> model = mlp(1, 64, 64, 1)
    >>> learner = Reptile(model, sgd(lr=0.02), inner_steps=3, criterion=F.mse_loss)
    >>> learner.fit(Sine(), meta_steps=4, epsilon=linear(1.0, 0.0))
    >>> learner.phi.shape, [row["epsilon"] for row in learner.history]
    (torch.Size([4353]), [1.0, 0.75, 0.5, 0.25])
    """

    model: nn.Module
    inner: InnerOptimizer
    inner_steps: int
    inner_batch: int | None = None
    rule: Rule = reptile
    criterion: Criterion = F.cross_entropy
    moments: Moments = "carry"
    outer: InnerOptimizer | None = None
    device: str | torch.device = "auto"
    engine: Engine = "auto"
    precision: Precision = "float32"
    compiled: bool = False
    recorded: bool = True
    at_once: int = 256
    state: MetaState = field(init=False, repr=False)
    history: list[dict[str, float]] = field(init=False, repr=False)
    _kernel: tuple[object, Kernel] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Move the model to the device and read φ off it.

        Raises:
            UserError: a setting is out of range, the device is absent, or the model
                keeps running statistics.
        """
        self.device = find_device(self.device)
        checks.check_settings(self, self.device)
        checks.check_model(self.model)
        self.model = self.model.to(self.device)
        if self.inner.full_batch:
            self.inner_batch = None
        if self.engine == "auto":
            self.engine = written_engine(self.model, self.criterion, self.device)
        self.state = MetaState(ravel(self.model), None, None, 0)
        self.history = []

    @property
    def kernel(self) -> Kernel:
        """How the model's gradients are computed."""
        now = self.engine, self.precision, self.compiled, self.model, self.criterion
        if self._kernel is None or self._kernel[0] != now:
            self._kernel = now, self.make_kernel(self.engine)
        return self._kernel[1]

    def make_kernel(self, engine: Engine) -> Kernel:
        """Return the kernel of the model and the criterion with an engine."""
        return make_kernel(
            self.model,
            self.criterion,
            device=self.phi.device,
            engine=engine,
            precision=self.precision,
            compiled=self.compiled,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kernel out of copies and pickles: it holds a thread's buffers."""
        return self.__dict__ | {"_kernel": None}

    @property
    def team(self) -> Team:
        """Who shares the tasks: this process, or those it was started with."""
        return here()

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
        checkpoint_to: Path | str | None = None,
        checkpoint_every: int = 0,
        config: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> None:
        """Train φ until `meta_steps` meta-steps are done, from where it stands.

        With `meta_batch` = 1 and `rule` = reptile this is algorithm 1 of the paper
        (serial); more tasks per meta-step, equation 5 (batched). The same seed gives
        the same φ, bit for bit on one machine, also across a stop and `restore`.

        Args:
            tasks: where tasks come from.
            meta_steps: meta-steps in all, those already done included.
            meta_batch: n, tasks a meta-step.
            epsilon: ε as a function of the share of meta-steps done, see `meta`.
            seed: draws the tasks.
            validate: measures the learner, for the history; give it validation classes.
            validate_every: meta-steps between two calls; 0 for never.
            checkpoint_to: file for checkpoints; also written at the end and on Ctrl-C.
            checkpoint_every: meta-steps between two checkpoints; 0 for at the end only.
            config: JSON settings to keep in the checkpoint.
            progress: draw a progress bar on stderr.

        Raises:
            UserError: settings do not fit, the loss became NaN or infinite (φ is then
                as before), or a checkpoint cannot be written or would replace that of
                a run which has got further.
        """
        team = self.agree()
        checks.check_run(self, meta_steps, meta_batch, epsilon)
        checks.check_periods(validate_every, checkpoint_every)
        self.check(tasks)
        settings = tasks.to(self.phi.device), meta_steps, meta_batch, epsilon, seed
        run = training(self, *settings)
        if self.engine == "auto":
            self.engine = team.first_alone(lambda: fastest_engine(self, run))
            run = training(self, *settings)
        loop = Loop(
            self,
            run,
            validate and partial(validate, self),
            validate_every,
            None if checkpoint_to is None else Path(checkpoint_to),
            checkpoint_every,
            config,
        )
        with self.computing(), memory_told(meta_batch):
            loop.go(progress)

    predictor, on_support = deploy.predictor, deploy.outputs_on_support

    def check(self, tasks: Tasks) -> None:
        """Raise UserError unless the model takes the tasks and answers as they ask."""
        checks.check_model(self.model)
        if self.phi.dim() == 1:  # several runs are checked one by one
            checks.check_tasks(self.kernel, self.kernel.pack(self.phi), tasks)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Give the context in which a learner computes."""
        with precise(self.precision), stacking_told(self.engine):
            yield

    def agree(self) -> Team:
        """Put every process (`parallel`) where the first stands; fit begins with it."""
        team, device = self.team, self.phi.device
        if team.size > 1:
            start = self.state.map(Tensor.cpu), self.history, self.engine
            state, self.history, self.engine = team.first_alone(lambda: start)
            self.state = state.map(lambda t: t.to(device))
        return team

    def save(self, path: Path | str, config: dict[str, Any] | None = None) -> None:
        """Write φ, the optimisers' states, the history and `config` to one file.

        Raises:
            UserError: the file cannot be written; an older one then stays as it was.
        """
        metadata = {
            "meta_step": self.state.meta_step,
            "history": self.history,
            "config": config or {},
            "engine": self.engine,
        }
        phi, inner, outer, _ = self.state
        states = {"inner": inner, "outer": outer}
        checkpoint.save(Path(path), phi, layout(self.model), states, metadata)

    def restore(self, path: Path | str) -> None:
        """Go on from where the run that wrote `path` stood.

        Raises:
            UserError: the file is missing, damaged, or another model's.
        """
        found = checkpoint.load(Path(path))
        phi = found.vector(layout(self.model)).to(self.phi)
        inner = found.state("inner", self.inner, phi)
        outer = found.state("outer", self.outer, phi)
        self.state = MetaState(phi, inner, outer, found.metadata["meta_step"])
        self.history = found.metadata["history"]
        if self.engine == "auto":  # the digits go on as they began
            self.engine = found.metadata.get("engine", "auto")


Reptile = partial(MetaLearner, rule=reptile)
"""Make a `MetaLearner` that follows `meta.reptile`."""

FOMAML = partial(MetaLearner, rule=fomaml)
"""Make a `MetaLearner` that follows `meta.fomaml`; ε is its outer learning rate."""

MAML = partial(MetaLearner, rule=maml)
"""Make a `MetaLearner` that follows `meta.maml`; ε is its outer learning rate."""

Joint = partial(MetaLearner, rule=joint)
"""Make a `MetaLearner` that follows `meta.joint`; ε is its learning rate."""
