"""The study of page 2.1: what a new last layer makes of features, beside inner steps.

::

    python -m reptile_book.glyph_heads --seeds 0,1,2

The features are those of the recorded φ of `glyphs-5way`, of a network trained jointly
on the same letters, of an untrained one, and the pixels. Penalties and rates are chosen
on tasks of the validation scripts: `results/glyph-heads/choice.json`. Each seed is then
scored on the same tasks of the test scripts, each query alone beside the support set:
`seed-<n>.json`, accuracies in [0, 1]. Nothing is overwritten.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from reptile_book import records, studies
from reptile_book.records import Record
from reptile_book.transform import TransformModel, ridge_head
from reptile_lib.data.sets import load
from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.examples import Examples, Splits
from reptile_lib.inner_loop import adapt
from reptile_lib.learner import MetaLearner
from reptile_lib.models.conv4 import conv4
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.params import ravel
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs.run import reopen
from reptile_lib.tasks import Episodes, draw_tasks

ROW = "glyph-heads"
TRAINED = "glyphs-5way"
"""The row whose φ is taken."""

Body = Callable[[Tensor], Tensor]
"""body(x [B, ...]) -> features [B, d]."""


@dataclass(frozen=True)
class Settings:
    """How the study is done."""

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    validation_tasks: int = 100
    test_tasks: int = 200
    ridges: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    steps: tuple[int, ...] = (1, 10)
    """Inner steps of SGD on the whole support set, all layers."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Of SGD on the mean loss; the grid grows where an edge wins, so does the next."""
    joint_rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3)
    joint_steps: int = 1_500
    joint_choice_steps: int = 500
    """The joint rate is chosen on shorter trainings."""
    joint_batch: int = 64
    widen: int = 4
    choice_seed: int = 100

    def as_dict(self) -> Record:
        """Return the settings by name, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


SETTINGS = Settings()


def cross_entropy_head(
    features: Tensor, y: Tensor, ways: int, ridge: float = 1.0
) -> TransformModel:
    """Fit last layers by logistic regression: Σ cross-entropy + ridge ‖θ‖².

    The problem is convex and has no closed form; L-BFGS solves it, the tasks of a stack
    together, in float64. The intercept is not penalised.

    Args:
        features: [..., S, d]; leading axes are a stack of tasks.
        y: integer labels [..., S] in [0, ways).
        ways: number of classes.
        ridge: ρ > 0.
    """
    x = features.double()
    x = x - (mean := x.mean(-2, keepdim=True))
    theta = x.new_zeros(*x.shape[:-2], x.shape[-1], ways, requires_grad=True)
    b = x.new_zeros(*x.shape[:-2], 1, ways, requires_grad=True)
    fit = torch.optim.LBFGS(
        [theta, b], max_iter=300, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        fit.zero_grad()
        scores = (x @ theta + b).flatten(0, -2)
        misfit = F.cross_entropy(scores, y.flatten(), reduction="sum")
        value = misfit + ridge * theta.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        fit.step(loss)  # type: ignore[no-untyped-call]
    found = theta.detach()
    intercept = (b.detach() - mean @ found).squeeze(-2)
    return TransformModel(found.to(features), intercept.to(features))


def nearest_mean(features: Tensor, y: Tensor, ways: int) -> TransformModel:
    """Return the linear map that is largest where the mean of the class is nearest.

    ‖x − μ‖² = ‖x‖² − 2 (μᵀx − ‖μ‖²/2), and the first term is the same for all classes.
    """
    member = F.one_hot(y, ways).to(features)
    means = member.mT @ features / member.sum(-2).unsqueeze(-1)  # [..., ways, d]
    return TransformModel(means.mT, -means.square().sum(-1) / 2)


HEADS: dict[str, Callable[..., TransformModel]] = {
    "closed form": ridge_head,
    "cross-entropy": cross_entropy_head,
}


def body_of(model: nn.Module, theta: Tensor) -> Body:
    """Return a Conv4 at weights θ without its last layer, as a function."""
    body = deepcopy(model).requires_grad_(False)
    vector_to_parameters(theta.clone(), body.parameters())
    body.out = nn.Identity()
    return body


@torch.no_grad()
def features(bodies: Sequence[Body], tasks: Episodes) -> tuple[Tensor, Tensor]:
    """Return [n, S, d] of the supports and [n, Q, d] of the queries, each beside them.

    Args:
        bodies: one a task, or one for all.
        tasks: n of them.
    """
    supports, queries = [], []
    each = list(bodies) * (len(tasks.order) if len(bodies) == 1 else 1)
    for body, sx, qx in zip(each, tasks.support.x, tasks.query.x, strict=True):
        assert isinstance(sx, Tensor)
        assert isinstance(qx, Tensor)
        supports.append(body(sx))
        queries.append(torch.stack([body(torch.cat([sx, q[None]]))[-1] for q in qx]))
    return torch.stack(supports), torch.stack(queries)


def right(head: TransformModel, queries: Tensor, tasks: Episodes) -> Tensor:
    """Return the share of queries [n] that the heads of n tasks answer rightly."""
    return (head(queries).argmax(-1) == tasks.query.y).double().mean(-1)


def adapted(
    learner: MetaLearner, tasks: Episodes, rate: float, steps: int
) -> tuple[list[Body], Tensor]:
    """Take SGD steps from φ on whole support sets; return bodies and accuracies [n]."""
    bodies: list[Body] = []
    hits = []
    for i in range(len(tasks.order)):
        support, query, order = tasks.map(lambda t, i=i: t[i : i + 1])  # type: ignore[misc]
        order = order[:, :steps]
        (theta,) = adapt(learner.kernel, learner.phi, support, order, sgd(rate)).theta
        model = deepcopy(learner.model).requires_grad_(False)
        vector_to_parameters(theta.clone(), model.parameters())
        sx, qx, y = support.x[0], query.x[0], query.y[0]
        scores = torch.stack([model(torch.cat([sx, q[None]]))[-1] for q in qx])
        hits.append((scores.argmax(-1) == y).double().mean())
        bodies.append(body_of(learner.model, theta))
    return bodies, torch.stack(hits)


def train_jointly(
    classes: Examples,
    model: nn.Module,
    rate: float,
    seed: int,
    *,
    batch: int,
    steps: int,
) -> nn.Module:
    """Train a network to tell all of some classes apart, by Adam; return it.

    Args:
        classes: of as many examples each.
        model: with an output per class.
        rate: of the first step; it falls to zero.
        seed: of the minibatches.
        batch: examples a step.
        steps: how many.
    """
    inner = torch.optim.Adam(model.parameters(), lr=rate)
    draws = torch.Generator().manual_seed(seed)
    images = torch.stack([x for x in classes.by_class() if isinstance(x, Tensor)])
    for step in range(steps):
        y = torch.randint(images.shape[0], [batch], generator=draws)
        which = torch.randint(images.shape[1], [batch], generator=draws)
        for group in inner.param_groups:
            group["lr"] = rate * (1 - step / steps)
        inner.zero_grad()
        F.cross_entropy(model(classes.to_input(images[y, which])), y).backward()  # type: ignore[no-untyped-call]
        inner.step()
    return model


def _joint_body(rate: float, seed: int, *, batch: int, steps: int) -> Body:
    """Train Conv4 on all training letters, upright; return it without its head."""
    letters = load("glyphs").train
    model = conv4(len(letters), seed=seed)
    train_jointly(letters, model, rate, seed, batch=batch, steps=steps)
    return body_of(model, ravel(model))


def _tasks(data: Splits, shots: int, settings: Settings, *, test: bool) -> Episodes:
    classes = data.test if test else data.val
    found = draw_tasks(
        FewShotTasks(classes, settings.ways, shots),
        settings.test_tasks if test else settings.validation_tasks,
        stream=TEST if test else VALIDATE,
        inner_steps=max(settings.steps),
    )
    return found.for_model(torch.zeros(1))


def _phi(folder: Path, seed: int) -> MetaLearner:
    learner, _ = reopen(folder / TRAINED / f"seed-{seed}.safetensors", device="cpu")
    learner.criterion = F.cross_entropy  # the mean, so that a rate fits all sizes
    return learner


def _starts(learner: MetaLearner, joint: Body, seed: int, ways: int) -> dict[str, Body]:
    untrained = conv4(ways, seed=seed)
    return {
        "phi": body_of(learner.model, learner.phi),
        "joint": joint,
        "untrained": body_of(untrained, ravel(untrained)),
        "pixels": partial(torch.flatten, start_dim=1),
    }


def _best(accuracy: dict[float, float]) -> Record:
    best = max(accuracy, key=accuracy.__getitem__)
    return {
        "value": best,
        "validation": accuracy[best],
        "inside": min(accuracy) < best < max(accuracy),
        "tried": {f"{value:g}": accuracy[value] for value in sorted(accuracy)},
    }


def search(
    first: Sequence[float], measure: Callable[[float], float], widen: int
) -> Record:
    """Try a grid that grows where an edge wins; return the best and what was tried."""
    grid, accuracy = list(first), dict[float, float]()
    for _ in range(widen + 1):
        accuracy |= {value: measure(value) for value in grid if value not in accuracy}
        if not studies.grown(grid, max(accuracy, key=accuracy.__getitem__)):
            break
    return _best(accuracy)


def choose(
    settings: Settings, folder: Path, say: Callable[[str], None] = print
) -> Record:
    """Choose penalties and rates on tasks of validation scripts, with φ of seed 0."""
    began = time.perf_counter()
    data, learner = load("glyphs"), _phi(folder, 0)
    tasks = {
        shots: _tasks(data, shots, settings, test=False) for shots in settings.shots
    }

    bodies: dict[float, Body] = {}

    def joint_accuracy(rate: float) -> float:
        size, steps = settings.joint_batch, settings.joint_choice_steps
        seed = settings.choice_seed
        bodies[rate] = _joint_body(rate, seed, batch=size, steps=steps)
        found = []
        for some in tasks.values():
            support, queries = features([bodies[rate]], some)
            head = ridge_head(support, some.support.y, settings.ways)
            found.append(right(head, queries, some).mean().item())
        say(f"{ROW}: joint at {rate:g}: {found}")
        return sum(found) / len(found)

    joint = search(settings.joint_rates, joint_accuracy, settings.widen)
    body = bodies[joint["value"]]
    starts = _starts(learner, body, settings.choice_seed, settings.ways)
    chosen: Record = {"joint": joint}
    for shots, some in tasks.items():
        own = chosen[f"{shots}-shot"] = {}
        for start, body in starts.items():
            support, queries = features([body], some)
            for name, fit in HEADS.items():
                accuracy = {}
                for ridge in settings.ridges:
                    head = fit(support, some.support.y, settings.ways, ridge)
                    accuracy[ridge] = right(head, queries, some).mean().item()
                own[f"{start}, {name}"] = _best(accuracy)
        for steps in settings.steps:
            own[f"phi, SGD {steps}"] = search(
                settings.rates,
                lambda rate, t=some, k=steps: (  # type: ignore[misc]
                    adapted(learner, t, rate, k)[1].mean().item()
                ),
                settings.widen,
            )
        say(f"{ROW}: {shots}-shot: { {n: c['value'] for n, c in own.items()} }")
    return {
        "row": ROW,
        "config": settings.as_dict(),
        "chosen": chosen,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": "python -m reptile_book.glyph_heads",
    }


def final(
    seed: int,
    choice: Record,
    settings: Settings,
    folder: Path,
    say: Callable[[str], None] = print,
) -> Record:
    """Score the φ of a seed, and the other features, on tasks of the test scripts."""
    began = time.perf_counter()
    data, learner, chosen = load("glyphs"), _phi(folder, seed), choice["chosen"]
    size, steps = settings.joint_batch, settings.joint_steps
    joint = _joint_body(chosen["joint"]["value"], seed, batch=size, steps=steps)
    trained = time.perf_counter() - began
    starts = _starts(learner, joint, seed, settings.ways)
    metrics = {}
    for shots in settings.shots:
        tasks, own = _tasks(data, shots, settings, test=True), chosen[f"{shots}-shot"]
        y, found = tasks.support.y, {}
        for start, body in starts.items():
            support, queries = features([body], tasks)
            for name, fit in HEADS.items():
                full = f"{start}, {name}"
                head = fit(support, y, settings.ways, own[full]["value"])
                found[full] = right(head, queries, tasks)
            mean = nearest_mean(support, y, settings.ways)
            found[f"{start}, nearest mean"] = right(mean, queries, tasks)
        for steps in settings.steps:
            name = f"phi, SGD {steps}"
            bodies, found[name] = adapted(learner, tasks, own[name]["value"], steps)
            support, queries = features(bodies, tasks)
            head = ridge_head(
                support, y, settings.ways, own["phi, closed form"]["value"]
            )
            found[f"{name}, closed form"] = right(head, queries, tasks)
        metrics[f"{shots}-shot"] = _paired(found)
        say(f"{ROW}: seed {seed}, {shots}-shot")
        for name, score in metrics[f"{shots}-shot"].items():
            say(f"  {name}: {score['accuracy']:.3f}")
    return {
        "row": ROW,
        "seed": seed,
        "config": settings.as_dict(),
        "chosen": chosen,
        "metrics": metrics,
        "joint_seconds": trained,
        "seconds": time.perf_counter() - began,
        **records.circumstances(find_device("cpu")),
        "command": f"python -m reptile_book.glyph_heads --seeds {seed}",
    }


def _paired(found: dict[str, Tensor]) -> Record:
    """Return accuracies, and how far each is above φ's closed form, task by task."""
    reference = found["phi, closed form"]

    def ci95(values: Tensor) -> float:
        return 1.96 * values.std().item() / math.sqrt(len(values))

    return {
        name: {
            "accuracy": values.mean().item(),
            "ci95": ci95(values),
            "above": (values - reference).mean().item(),
            "above_ci95": ci95(values - reference),
        }
        for name, values in found.items()
    }


def run(
    seeds: Sequence[int],
    folder: Path = Path("results"),
    settings: Settings = SETTINGS,
    say: Callable[[str], None] = print,
    phis: Path = Path("results"),
) -> list[Record]:
    """Choose, unless that is recorded, and record the seeds that are not yet.

    Args:
        seeds: of the φ, and of the networks beside it.
        folder: where records go.
        settings: how the study is done.
        say: told how far it is.
        phis: where the recorded φ lie.

    Raises:
        UserError: all seeds are recorded, or a record is of other settings.
    """
    return studies.run(
        folder / ROW,
        seeds,
        settings.as_dict(),
        lambda: choose(settings, phis, say),
        lambda left, choice: (
            final(seed, choice, settings, phis, say) for seed in left
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study; return 0, or 2 for a user's mistake."""
    return studies.command("glyph_heads", __doc__, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
