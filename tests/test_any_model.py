"""Models and tasks of all kinds go through the door, or are refused in one line."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reptile_lib
from reptile_lib import (
    FOMAML,
    MAML,
    Batch,
    Episodes,
    Examples,
    FewShotTasks,
    GroupTasks,
    Joint,
    MetaLearner,
    Reptile,
    Sine,
    UserError,
    adam,
    adaptation_curve,
    constant,
    evaluate,
    load,
    mlp,
    sgd,
)
from reptile_lib.fast.choose import Engine
from reptile_lib.rng import Draws
from reptile_lib.tasks import Tasks

WORDS, LENGTH = 40, 6
UNSTACKED = "GRU", "LSTM", "transformer", "embedding bag"  # vmap has no rule for them


class Recurrent(nn.Module):
    """Sequences [B, length, 3] to logits [B, 3]."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.cells, self.out = kind(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.cells(x)[0][:, -1])
        return logits


class Attentive(nn.Module):
    """Sequences [B, length, 3] to logits [B, 3] by a transformer layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layer(self.enter(x)).mean(1))
        return logits


class Bag(nn.Module):
    """Token ids [B, length] to logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(WORDS, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.words(x))
        return logits


class Words(nn.Module):
    """Token ids [B, length] to logits [B, 3], by a mean of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.words(x).mean(1))
        return logits


class Both(nn.Module):
    """A picture [B, 1, 4, 4] and token ids [B, length] to logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(1, 4, 3)
        self.words, self.out = nn.Embedding(WORDS, 4), nn.Linear(8, 3)

    def forward(self, picture: Tensor, words: Tensor) -> Tensor:
        seen = self.picture(picture).relu().mean((2, 3))
        logits: Tensor = self.out(torch.cat([seen, self.words(words).mean(1)], 1))
        return logits


class Plain(nn.Module):
    """Features [B, 5] to logits [B, 3], with an activation that no kernel knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


COUNTS = 5, 9, 6, 5  # examples of each class


def classes(kind: str) -> Examples:
    """Return four classes of unequal size that can be told apart."""
    g = torch.Generator().manual_seed(1)

    def values(c: int, n: int) -> Any:
        floats = torch.randn(n, 5, generator=g) + 2 * c
        words = torch.randint(10 * c, 10 * c + 10, (n, LENGTH), generator=g)
        pictures = torch.rand(n, 1, 4, 4, generator=g).mul(255).to(torch.uint8)
        sequences = torch.randn(n, LENGTH, 3, generator=g) + c
        return {
            "floats": floats,
            "words": words,
            "both": (pictures, words),
            "sequences": sequences,
        }[kind]

    return Examples([values(c, n) for c, n in enumerate(COUNTS)], tuple("abcd"))


MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "GRU": ("sequences", partial(Recurrent, nn.GRU)),
    "LSTM": ("sequences", partial(Recurrent, nn.LSTM)),
    "transformer": ("sequences", Attentive),
    "embedding bag": ("words", Bag),
    "embedding": ("words", Words),
    "two inputs": ("both", Both),
    "features": ("floats", Plain),
    "dense": ("floats", lambda: mlp(5, 8, 3)),
}
METHODS = {"Reptile": Reptile, "FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}
ENGINES: tuple[Engine, ...] = ("auto", "stacked", "threads", "serial")


def learner_of(name: str, method: Any = Reptile, **options: Any) -> MetaLearner:
    torch.manual_seed(0)
    model = MODELS[name][1]()
    settings: dict[str, Any] = {
        "inner": sgd(0.1),
        "inner_steps": 2,
        "inner_batch": 4,
    } | options
    made: MetaLearner = method(model, device="cpu", **settings)
    return made


def tasks_of(name: str) -> FewShotTasks:
    return FewShotTasks(classes(MODELS[name][0]), ways=3, shots=3, query_shots=2)


HOW: dict[str, Any] = {"meta_steps": 3, "meta_batch": 3, "epsilon": constant(0.5)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_engine_trains_every_model_to_the_same_phi_or_says_why_not(
    name: str,
) -> None:
    found = {}
    for engine in ENGINES:
        learner = learner_of(name, engine=engine)
        start = learner.phi
        if engine == "stacked" and name in UNSTACKED:
            refused = told(partial(learner.fit, tasks_of(name), **HOW))
            assert 'engine = "stacked" does not go with this model' in refused
            assert refused.endswith('take "threads"')
            continue
        learner.fit(tasks_of(name), **HOW)
        assert not torch.equal(learner.phi, start)
        found[engine] = learner.phi
        scores = evaluate(learner, tasks_of(name), inner_steps=2, count=5)
        assert 0 <= scores.transductive.accuracy <= 1
    assert {"auto", "threads", "serial"} <= set(found)
    for phi in found.values():
        torch.testing.assert_close(phi, found["serial"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GRU", "transformer", "embedding", "two inputs"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_rule_trains_other_models_too(name: str, method: Any) -> None:
    phis = []
    for engine in ("auto", "serial"):
        learner = learner_of(name, method, engine=engine)
        start = learner.phi
        learner.fit(tasks_of(name), **HOW)
        assert not torch.equal(learner.phi, start)
        phis.append(learner.phi)
    torch.testing.assert_close(*phis, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_learning_helps_where_there_is_something_to_learn() -> None:
    learner = learner_of("two inputs", inner=adam(0.03), inner_steps=8)
    learner.fit(tasks_of("two inputs"), meta_steps=30, epsilon=constant(0.5))
    scores = evaluate(learner, tasks_of("two inputs"), inner_steps=20, count=20)
    assert scores.transductive.accuracy > 0.8


@pytest.mark.parametrize("dropping", ["layer", "transformer", "GRU"])
def test_dropout_is_refused_until_it_can_be_repeated(dropping: str) -> None:
    models: dict[str, Callable[[], nn.Module]] = {
        "layer": lambda: nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), Linear()),
        "transformer": lambda: Attentive(dropout=0.5),
        "GRU": lambda: GruWithDropout(),
    }
    kind = "floats" if dropping == "layer" else "sequences"
    tasks = FewShotTasks(classes(kind), ways=3, shots=3)
    model = models[dropping]()
    learner = Reptile(model, sgd(0.1), 2, device="cpu")
    with pytest.raises(UserError, match=r"two answers .*dropout.*; call model.eval()"):
        learner.fit(tasks, **HOW)
    with pytest.raises(UserError, match=r"two answers .*dropout.*; call model.eval()"):
        evaluate(learner, tasks, count=2)
    learner = Reptile(model.eval(), sgd(0.1), 2, device="cpu")
    learner.fit(tasks, **HOW)


def Linear() -> nn.Module:  # noqa: N802
    return nn.Linear(64, 3)


class GruWithDropout(nn.Module):
    """Two layers, and half of what is between them dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(3, 32, 2, batch_first=True, dropout=0.5)
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.cells(x)[0][:, -1])
        return logits


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_groups_of_rows_train_a_regression(method: Any) -> None:
    g = torch.Generator().manual_seed(0)
    group = torch.arange(60) % 6
    x = torch.randn(60, 4, generator=g)
    slopes = torch.randn(6, 4, generator=g)
    y = (x * slopes[group]).sum(1, keepdim=True)
    tasks = GroupTasks(x, y, group, shots=6, query_shots=4)
    learner = method(mlp(4, 1), sgd(0.05), 3, criterion=F.mse_loss, device="cpu")
    learner.fit(tasks, **HOW)
    curve = adaptation_curve(learner, tasks, inner_steps=10, count=20)
    assert curve.shape == (20, 11)
    assert curve[:, -1].mean() < curve[:, 0].mean()


# --- a distribution of one's own, with nothing but what the top level exports


@dataclass(frozen=True)
class Topics:
    """Sentences of two topics: each task draws ten words for either."""

    shots: int = 4

    def to(self, device: torch.device) -> "Topics":
        return self

    def sample(self, draws: Draws) -> Episodes:
        words = draws.permutations(0, 1, WORDS)[:, 0, :20].view(-1, 2, 10)
        labels = torch.arange(2).repeat_interleave(self.shots)

        def sentences(slot: int) -> Batch:
            which = (draws.uniform(slot, 2 * self.shots, LENGTH) * 10).long()
            y = labels.expand(len(words), -1)
            rows = torch.arange(len(words))[:, None, None]
            return Batch(words[rows, y[..., None], which], y)

        return Episodes(sentences(1), sentences(3))


@pytest.mark.slow
def test_a_distribution_of_ones_own_needs_two_methods() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(WORDS, 16), nn.Linear(16, 2))
    learner = reptile_lib.Reptile(
        model, reptile_lib.adam(0.02), inner_steps=5, inner_batch=4, device="cpu"
    )
    tasks = Topics()
    learner.fit(tasks, meta_steps=20, meta_batch=2, epsilon=reptile_lib.linear(1, 0))
    assert reptile_lib.draw(tasks, 3).query.y.shape == (3, 8)
    scores = reptile_lib.evaluate(learner, tasks, inner_steps=20, count=30)
    assert scores.transductive.accuracy > 0.8  # chance is a half
    assert torch.equal(scores.transductive.values, scores.non_transductive.values)
    curve = reptile_lib.adaptation_curve(learner, tasks, inner_steps=20, count=30)
    assert curve[:, -1].mean() < 0.7 * curve[:, 0].mean()


class Same:
    """A task that was drawn to look at, handed out again and again."""

    def __init__(self) -> None:
        self.drawn = Sine(points=10).draw()  # its order names no minibatches

    def to(self, device: torch.device) -> "Same":
        return self

    def sample(self, draws: Draws) -> Episodes:
        return self.drawn


def test_a_drawn_task_can_be_trained_on() -> None:
    learner = dense(model=mlp(1, 8, 1), criterion=F.mse_loss)
    learner.fit(Same(), meta_steps=1, epsilon=constant(1.0))
    x, y = Same().drawn.support
    model = mlp(1, 8, 1)
    F.mse_loss(model(x[0]), y[0]).backward()
    steps = [p - 0.1 * p.grad for p in model.parameters() if p.grad is not None]
    expected = torch.cat([p.detach().flatten() for p in steps])
    torch.testing.assert_close(learner.phi, expected)


# --- what is refused, in one line that says what to give


def told(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dense(**options: Any) -> MetaLearner:
    settings: dict[str, Any] = {
        "inner": sgd(0.1),
        "inner_steps": 1,
        "device": "cpu",
    } | options
    return Reptile(settings.pop("model", mlp(5, 8, 3)), **settings)


FLOATS = FewShotTasks(classes("floats"), ways=3, shots=2)


def test_what_stands_in_the_place_of_a_schedule() -> None:
    found = told(lambda: dense().fit(FLOATS, meta_steps=1, epsilon=0.5))  # type: ignore[arg-type]
    assert "epsilon = 0.5 is no schedule; give constant(0.5), or linear" in found


def test_what_stands_in_the_place_of_tasks() -> None:
    given: Any
    for given, kind in (
        (classes("floats"), "Examples"),
        (load("glyphs"), "Splits"),
        (torch.zeros(3), "Tensor"),
        (None, "NoneType"),
    ):
        for act in (
            partial(dense().fit, given, **HOW),
            partial(evaluate, dense(), given, count=2),
            partial(adaptation_curve, dense(), given, inner_steps=1, count=2),
        ):
            found = told(act)
            assert f"tasks are a {kind}; give a task distribution, such as Few" in found


def test_what_stands_in_the_place_of_an_optimiser() -> None:
    model = mlp(5, 8, 3)
    for given in (torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD, 0.1, sgd):
        for name in ("inner", "outer"):
            found = told(partial(dense, **{name: given}))
            assert "is no inner optimiser; give one of sgd(lr)" in found
            assert found.startswith(f"{name} = ")


def test_what_stands_in_the_place_of_a_model() -> None:
    for given in (lambda x: x, nn.Linear, None, "conv4"):
        found = told(partial(dense, model=given))
        assert found.startswith("model = ")
        assert "is no module; give an instance of nn.Module" in found


def test_a_model_of_other_inputs_or_answers() -> None:
    wide = told(lambda: dense(model=mlp(7, 3)).fit(FLOATS, **HOW))
    assert "does not take the tasks' examples [5]; build it for them" in wide
    words = FewShotTasks(classes("words"), ways=3, shots=2)
    assert "does not take" in told(lambda: dense(model=mlp(6, 3)).fit(words, **HOW))
    pair = FewShotTasks(classes("both"), ways=3, shots=2)
    assert "does not take" in told(lambda: dense().fit(pair, **HOW))
    fewer = told(lambda: dense(model=mlp(5, 2)).fit(FLOATS, **HOW))
    assert "tells 2 classes apart, the tasks have 3 ways" in fewer
    lstm = nn.LSTM(3, 3, batch_first=True)  # answers a tuple
    sequences = FewShotTasks(classes("sequences"), ways=3, shots=2)
    assert "does not take" in told(lambda: dense(model=lstm).fit(sequences, **HOW))


def test_a_column_of_numbers_or_numbers() -> None:
    x, group = torch.randn(12, 5), torch.arange(12) % 3
    tasks = GroupTasks(x, torch.randn(12), group, shots=2)
    regression = partial(dense, model=mlp(5, 1), criterion=F.mse_loss)
    found = told(lambda: regression().fit(tasks, **HOW))
    assert "give y[..., None], or the two are spread over each other" in found
    regression().fit(replace(tasks, y=tasks.y[:, None]), **HOW)


def test_numbers_of_steps_and_tasks() -> None:
    several: list[dict[str, Any]] = [
        {"meta_steps": 1.5},
        {"meta_batch": 2.0},
        {"meta_steps": "3"},
    ]
    for bad in several:
        found = told(partial(dense().fit, FLOATS, **(HOW | bad)))
        assert "is no whole number; give an int" in found
    for name, value in (("inner_steps", 1.5), ("inner_batch", "4"), ("at_once", 2.5)):
        found = told(partial(dense, **{name: value}))
        assert found == f"{name} = {value!r} is no whole number; give an int"


def test_tasks_that_are_fine() -> None:
    for tasks in (FLOATS, FewShotTasks(classes("floats"), 3, 1)):
        dense().fit(tasks, **HOW)
    fit: Tasks = Sine()
    dense(model=mlp(1, 1), criterion=F.mse_loss).fit(fit, **HOW)
