"""What `correctness` compares; each method returns a difference."""

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils._pytree import tree_leaves

from benchmarks import textbook
from benchmarks.gpu.library import (
    Settings,
    build,
    fit_side_by_side,
    parameters,
    sample,
    settings,
)
from benchmarks.gpu.seeds import DRY, SEEDS, Run
from benchmarks.memory import peak_bytes
from benchmarks.problems import EPSILON, START, Cell, episodes, learner, problem
from reptile_lib import (
    FOMAML,
    MAML,
    FewShotTasks,
    Joint,
    MetaLearner,
    Reptile,
    Sine,
    UserError,
    constant,
    evaluate,
    linear,
    load,
    mlp,
    sgd,
)
from reptile_lib.fit.graphs import IN_A_ROW, captured
from reptile_lib.rng import TRAIN, Draws, draws
from reptile_lib.tasks import minibatches

RULES = {"FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y)


def _mse_loss(outputs: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(outputs, y)


ENGINES = ("serial", "threads", "stacked", "stacked autograd")
"""The last one takes no gradient that is written out: it does not know the loss."""

SLOW_SGD = sgd(torch.tensor(0.01))

UNKNOWN_LOSS = {"sine": _mse_loss, "conv4": _cross_entropy}


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Make networks and tasks of this type, as long as it is open."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def comparable(model: torch.nn.Module, phi: Tensor) -> Tensor:
    """Leave the convolutions' biases out of φ.

    Batch norm takes them away, so their gradient is rounding noise, which Adam turns
    into steps of full size.
    """
    biases = re.compile(r"convolutions\.\d\.bias")
    parts = parameters(model, phi).items()
    return torch.cat([part for name, part in parts if not biases.fullmatch(name)])


def apart(found: MetaLearner, expected: Tensor, start: Tensor) -> float:
    """Return ‖φ − expected‖ / ‖expected − start‖; infinite where nothing moved."""
    one, other, origin = (
        comparable(found.model, phi) for phi in (found.phi, expected, start)
    )
    moved = (other - origin).norm().item()
    return (one - other).norm().item() / moved if moved > 0 else math.inf


class Checks:
    """The comparisons, on one device."""

    def __init__(self, device: torch.device, dry: bool) -> None:
        self.device = device
        tasks, steps = (2, 2) if dry else (5, 5)
        self.cells = {name: Cell(name, tasks, steps) for name in ("sine", "conv4")}
        self.meta_steps = 2  # after more of them, rounding is far apart
        self.many_steps = 4 if dry else 20
        self.scored = 2 if dry else 20
        self.changed = DRY.changed if dry else {}

    def row(self, **changed: Any) -> Settings:
        """Return the settings of a row of the book's tables."""
        return settings("glyphs-5way", **self.changed | changed)

    def trained(self, name: str, meta_steps: int = 0, **how: Any) -> MetaLearner:
        """Return a learner after some meta-steps in the middle of a run."""
        cell = self.cells[name]
        made, tasks = learner(cell, self.device, **how)
        made.fit(
            tasks,
            meta_steps=START + (meta_steps or self.meta_steps),
            meta_batch=cell.meta_batch,
            epsilon=constant(EPSILON),
        )
        return made

    def start(self, name: str) -> Tensor:
        """Return φ [P] before the first meta-step."""
        return learner(self.cells[name], self.device)[0].phi

    def tasks(self) -> float:
        """Draw tasks here and on the CPU; return the largest difference."""
        largest = 0.0
        for tasks in (FewShotTasks(load("glyphs").train, 5, 10), Sine(10)):
            here = sample(tasks, 20, self.device)
            there = sample(tasks, 20, torch.device("cpu"))
            for one, other in zip(tree_leaves(here), tree_leaves(there), strict=True):
                off = (one.cpu().double() - other.double()).abs().max()
                largest = max(largest, off.item())
        return largest

    def textbook(self, name: str, dtype: str, engine: str) -> float:
        """Train with the library and with deepcopy, backward() and torch.optim."""
        how: dict[str, Any] = {"engine": engine.split()[0]}
        if engine == "stacked autograd":
            how["criterion"] = UNKNOWN_LOSS[name]
        with default_dtype(dtype):
            cell, start = self.cells[name], self.start(name)
            it = problem(name, cell.ways, self.device)
            for step in range(self.meta_steps):
                drawn = episodes(cell, it.tasks, step, self.device)
                textbook.meta_step(it.model, it.criterion, it.optimizer, drawn, EPSILON)
            expected = parameters_to_vector(it.model.parameters()).detach()
            return apart(self.trained(name, **how), expected, start)

    def recorded(self, name: str, dtype: str, meta_steps: int = 0, **how: Any) -> float:
        """Train with meta-steps recorded as graphs and without; moments are carried."""
        # so many that some are recorded in a row; in float32 rounding grows until then
        few = IN_A_ROW + 2 if dtype == "float64" else self.meta_steps
        return self.with_and_without("recorded", name, dtype, meta_steps or few, **how)

    def compiled(self, name: str) -> float:
        """Train in float64 with compiled steps, some of them recorded in a row."""
        return self.with_and_without("compiled", name, "float64", IN_A_ROW + 2)

    def with_and_without(
        self, option: str, name: str, dtype: str, meta_steps: int, **how: Any
    ) -> float:
        """Train with an option of the learner and without; moments are carried."""
        how = {"engine": "stacked", "moments": "carry"} | how
        with default_dtype(dtype):
            plain, found = (
                self.trained(name, meta_steps, **how | {option: way})
                for way in (False, True)
            )
            return apart(found, plain.phi, self.start(name))

    def drawn_again(self) -> float:
        """Record the drawing of tasks; compare others, drawn by the same graph."""
        phi, tasks = torch.zeros(1, device=self.device), self.glyphs()

        def draw(phi: Tensor, numbers: Tensor) -> Any:
            who = Draws(0, TRAIN, numbers)
            return minibatches(tasks.sample(who).for_model(phi), who, 5, 10)

        some, others = (
            draws(0, TRAIN, range(i, i + 4), range(5), self.device).tasks
            for i in (0, 2**20)
        )
        graph = captured(draw)
        graph(phi, some)
        pairs = zip(
            tree_leaves(graph(phi, others)), tree_leaves(draw(phi, others)), strict=True
        )
        far = [(a.double() - b.double()).abs().max().item() for a, b in pairs]
        return float(max(far))

    def drawn_often(self, name: str) -> float:
        """Train as recorded, with tasks that are drawn more than twice."""
        meta_steps, of_a_draw = 30, 12
        return self.recorded(
            name, "float64", meta_steps, at_once=of_a_draw * self.cells[name].meta_batch
        )

    def rule_recorded(self, rule: str) -> float:
        """Compare graphs of another outer rule than Reptile's."""
        return self.recorded("sine", "float64", rule=RULES[rule].keywords["rule"])

    def repeated(self) -> float:
        """Train twice; return the largest difference."""
        one, other = (
            self.trained("conv4", self.many_steps, moments="carry").phi for _ in "12"
        )
        return (one - other).abs().max().item()

    def resumed(self) -> float:
        """Train with a stop, through a checkpoint; return the largest difference."""
        half, whole = self.many_steps // 2, self.many_steps
        expected = self.trained("conv4", whole, moments="carry").phi
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "checkpoint.safetensors")
            self.trained("conv4", half, moments="carry").save(path)
            again, tasks = learner(self.cells["conv4"], self.device, moments="carry")
            again.restore(path)
        again.fit(
            tasks,
            meta_steps=START + whole,
            meta_batch=self.cells["conv4"].meta_batch,
            epsilon=constant(EPSILON),
        )
        return (again.phi - expected).abs().max().item()

    def memory(self) -> float:
        """Return by which share the peak of a meta-step grows from few k to many."""
        few, many = (
            peak_bytes("Reptile", Cell("conv4", 2, k), self.device)
            for k in (2, self.many_steps)
        )
        return many / few - 1

    def nan_noticed(self) -> float:
        """Let training diverge; return 0 if it is told and nothing was changed."""
        made = Reptile(
            mlp(1, 64, 64, 1),
            sgd(1e30),
            5,
            10,
            criterion=F.mse_loss,
            device=self.device,
        )
        before = made.phi.clone()
        try:
            made.fit(Sine(10), meta_steps=8, meta_batch=5, epsilon=constant(1.0))
        except UserError as error:
            told = "diverged" in str(error)
            return 0.0 if told and torch.equal(made.phi, before) else 1.0
        return 1.0

    def glyphs(self) -> FewShotTasks:
        """Return the tasks of the row, not turned."""
        classes, row = load("glyphs").train, self.row()
        return FewShotTasks(classes, row.ways, row.train_shots).to(self.device)

    def three(self) -> list[MetaLearner]:
        """Return the untrained learners of the row's first seeds."""
        return [build(self.row(seed=seed), self.device) for seed in SEEDS]

    def sliced(self) -> float:
        """Train three seeds with a stop and without; return the largest difference."""
        meta_steps = 2 * self.meta_steps
        tasks = [self.glyphs() for _ in SEEDS]
        row = self.row(meta_steps=meta_steps)
        once, twice = (Run("", row, self.three(), [], tasks) for _ in range(2))
        once.train(meta_steps)
        for half in (self.meta_steps, meta_steps):
            twice.train(half)
        return max(
            (one.phi - other.phi).abs().max().item()
            for one, other in zip(once.learners, twice.learners, strict=True)
        )

    def together(self) -> float:
        """Train three seeds as one stack and one by one, under a row's settings."""
        how: dict[str, Any] = {
            "meta_steps": self.meta_steps,
            "meta_batch": self.cells["conv4"].meta_batch,
            "epsilon": linear(1.0, 0.0),
        }
        tasks = self.glyphs()
        with default_dtype("float64"):
            stack, alone = self.three(), self.three()
            start = [one.phi.clone() for one in alone]
            fit_side_by_side(stack, [tasks] * len(SEEDS), SEEDS, **how)
            for seed, one in enumerate(alone):
                one.fit(tasks, seed=seed, **how)
            return max(
                apart(one, other.phi, phi)
                for one, other, phi in zip(stack, alone, start, strict=True)
            )

    def evaluation(self) -> float:
        """Train a little and score, here and on the CPU; compare the accuracies."""
        row, scores = self.row(), []
        tasks, new = self.glyphs(), FewShotTasks(load("glyphs").test, row.ways, 1)
        with default_dtype("float64"):
            for device in (self.device, torch.device("cpu")):
                made = build(row, device)
                made.fit(tasks, meta_steps=2, meta_batch=2, epsilon=constant(1.0))
                scores.append(evaluate(made, new, inner_steps=5, count=self.scored))
        here, there = scores
        return max(
            abs(one.accuracy - other.accuracy)
            for one, other in zip(here, there, strict=True)
        )

    def precision(self, name: str) -> float:
        """Train with rounded products and in float32."""
        if name == "tf32" and self.device.type != "cuda":
            name = "float32"
        plain, rounded = self.trained("conv4"), self.trained("conv4", precision=name)
        return apart(rounded, plain.phi, self.start("conv4"))
