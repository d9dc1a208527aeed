"""Whether a model, an inner optimiser and tasks go together: asked before any step."""

from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from reptile_lib import evaluation
from reptile_lib.errors import UserError
from reptile_lib.examples import each
from reptile_lib.fast.choose import Engine
from reptile_lib.fast.torch_settings import Precision
from reptile_lib.inner import InnerOptimizer, Moments
from reptile_lib.kernel import Criterion, Kernel
from reptile_lib.meta import Rule
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import Tasks


def _short(given: object) -> str:
    return " ".join(repr(given).split())[:60]


def check_model(model: object) -> None:
    """Raise UserError for a model that an inner loop would not leave as it should."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model = {_short(model)} is no module; give an instance of nn.Module, such"
            " as mlp(1, 64, 1)"
        )
    if torch.is_inference_mode_enabled():
        raise UserError("torch.inference_mode allows no gradients; leave it first")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise UserError(
                f"parameter {name!r} is frozen (requires_grad=False), but all of φ is"
                " trained; make it a buffer, or unfreeze it"
            )
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise UserError(
                f"{name!r} keeps running statistics, which tasks would mix up;"
                " build it with track_running_stats=False"
            )
        for trait in ("sparse", "max_norm"):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and getattr(
                module, trait
            ):
                raise UserError(
                    f"embedding {name!r} has {trait}={getattr(module, trait)}, which"
                    " does not go with vectors of all parameters; build it without"
                )


class Learner(evaluation.Learner, Protocol):
    """What is asked of a `MetaLearner`."""

    model: nn.Module
    inner_steps: int
    outer: InnerOptimizer | None
    engine: Engine
    precision: Precision
    recorded: bool
    at_once: int
    history: list[dict[str, float]]

    @property
    def rule(self) -> Rule: ...  # noqa: D102
    @property
    def criterion(self) -> Criterion: ...  # noqa: D102
    def make_kernel(self, engine: Engine) -> Kernel: ...  # noqa: D102
    def save(self, path: Path, config: dict[str, Any] | None = None) -> None: ...  # noqa: D102


def check_settings(chosen: Learner, device: torch.device) -> None:
    """Raise UserError for a setting of a learner that is out of range on a device."""
    for name, given in {"inner": chosen.inner, "outer": chosen.outer}.items():
        absent = given is None and name == "outer"
        if not (absent or isinstance(given, InnerOptimizer)):
            raise UserError(
                f"{name} = {_short(given)} is no inner optimiser; give one of sgd(lr),"
                " momentum(lr), adam(lr), gd(lr)"
            )
    for amount in ("inner_steps", "inner_batch", "at_once"):
        given = getattr(chosen, amount)
        if given is None and amount == "inner_batch":
            continue
        if not isinstance(given, int):
            raise UserError(f"{amount} = {given!r} is no whole number; give an int")
        if given < 1:
            raise UserError(f"{amount} = {given}; give at least 1")
    for name, kind in (
        ("moments", Moments),
        ("engine", Engine),
        ("precision", Precision),
    ):
        value, choices = getattr(chosen, name), get_args(kind)
        if value not in choices:
            raise UserError(f"{name} = {value!r}; choose one of {', '.join(choices)}")
    if chosen.precision == "tf32" and device.type != "cuda":
        raise UserError(
            f'precision = "tf32" on {device}: only CUDA devices have it; take'
            ' "float32" or "bf16"'
        )


def check_run(
    learner: Learner, meta_steps: int, meta_batch: int, epsilon: object
) -> None:
    """Raise UserError unless meta-steps are left to do, with a schedule of ε."""
    done, processes = learner.state.meta_step, learner.team.size
    for name, value in {"meta_steps": meta_steps, "meta_batch": meta_batch}.items():
        if not isinstance(value, int):
            raise UserError(f"{name} = {value!r} is no whole number; give an int")
    if meta_batch < 1 or meta_steps <= done:
        raise UserError(
            f"meta_batch = {meta_batch}, meta_steps = {meta_steps} with {done} done;"
            " ask for more, or make a new learner"
        )
    if meta_batch < processes:
        raise UserError(
            f"meta_batch = {meta_batch} for {processes} processes; start at most a"
            " process a task"
        )
    if not callable(epsilon):
        raise UserError(
            f"epsilon = {epsilon} is no schedule; give constant({epsilon}), or"
            " linear(1.0, 0.0)"
        )


def check_periods(validate_every: int, checkpoint_every: int) -> None:
    """Raise UserError for a negative number of meta-steps between two of a kind."""
    if min(validate_every, checkpoint_every) < 0:
        raise UserError(
            f"validate_every = {validate_every}, checkpoint_every ="
            f" {checkpoint_every}; give meta-steps between two, or 0 for never"
        )


def check_tasks(kernel: Kernel, phi: Tensor, tasks: Tasks) -> None:
    """Raise UserError unless the model takes two tasks and answers as they ask.

    Args:
        kernel: of the model.
        phi: [P], in the kernel's order.
        tasks: the distribution.
    """
    if not hasattr(tasks, "sample"):
        raise UserError(
            f"tasks are a {type(tasks).__name__}; give a task distribution, such as"
            ' FewShotTasks(load("glyphs").train, ways=5, shots=1)'
        )
    who = draws(0, TRAIN, range(1), range(2), phi.device)
    x, y = tasks.to(phi.device).sample(who).support
    # two examples of one task, as floats of the parameters' type
    few = each(lambda t: t[:1, :2].to(phi) if t.is_floating_point() else t[:1, :2], x)
    try:
        with torch.no_grad():
            once, again = (kernel.outputs(phi[None], few)[0] for _ in range(2))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        parts = few if isinstance(few, tuple) else (few,)
        shapes = ", ".join(str(list(t.shape[2:])) for t in parts)
        raise UserError(
            f"the model does not take the tasks' examples {shapes};"
            " build it for them, with a tensor [examples, ...] for its answer"
            f" ({str(error).splitlines()[0]})"
        ) from error
    if not torch.allclose(once, again, rtol=1e-2, atol=1e-3, equal_nan=True):
        raise UserError(
            "the model gives two answers to one question (dropout?), which would not be"
            " repeatable; call model.eval(), or build it without"
        )
    if not y.is_floating_point() and y.dim() == 2 and once.dim() == 2:
        answers, ways = once.shape[-1], getattr(tasks, "ways", None)
        if ways not in (None, answers):
            raise UserError(
                f"the model tells {answers} classes apart, the tasks have {ways}"
                " ways; build the model and the tasks with the same number"
            )
        for label in (int(y.min()), int(y.max())):
            if not 0 <= label < answers:
                raise UserError(
                    f"the tasks have a label {label}, but the model tells {answers}"
                    f" classes apart; labels are 0 to {answers - 1}"
                )
    if y.is_floating_point() and once.dim() == y.dim() and once.shape[-1] == 1:
        raise UserError(
            f"the model answers {list(once.shape[1:])} for an example, the tasks ask"
            " for a number; give y[..., None], or the two are spread over each other"
        )
