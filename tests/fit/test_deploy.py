"""Networks adapted to one's own examples, against the textbook's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import (
    Batch,
    FewShotTasks,
    MetaLearner,
    Reptile,
    Sine,
    UserError,
    adam,
    adapt,
    constant,
    conv4,
    draw,
    evaluate,
    load,
    mlp,
    sgd,
)
from reptile_lib.fast.choose import Engine
from reptile_lib.inner import Moments, State
from reptile_lib.params import ravel
from tests import textbook
from tests.kit import one

TASKS = FewShotTasks(load("glyphs").test, ways=3, shots=2)
STEPS = 6


def learner(inner: Any = None, **options: Any) -> MetaLearner:
    settings: dict[str, Any] = {"inner_steps": 3, "inner_batch": 4, "device": "cpu"}
    return Reptile(conv4(ways=3).double(), inner or sgd(0.05), **(settings | options))


def own(seed: int = 0) -> tuple[Batch, Batch, Tensor]:
    """Return a support set and queries as a user has them, and the minibatches."""
    support, query, order = draw(TASKS, 1, seed, inner_steps=STEPS, inner_batch=4)
    first = (b.map(lambda t: t[0]) for b in (support, query))
    support, query = first
    return support, query, order[0]


@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
def test_it_is_the_textbooks_network_with_the_support_sets_statistics(
    engine: Engine,
) -> None:
    made = learner(engine=engine)
    before = made.phi.clone()
    support, query, order = own(seed=7)
    net = made.predictor(support, inner_steps=STEPS, seed=7)
    model = textbook.model_at(made.model, made.phi)
    x = one(support.x).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    textbook.descend(model, optimizer, F.cross_entropy, x, support.y, order)
    torch.testing.assert_close(net(x), model(x))
    torch.testing.assert_close(ravel(net), ravel(model))
    for q in one(query.x).double():
        # torch's own way to the same statistics: running ones, all from one batch
        copy = textbook.model_at(model, ravel(model))
        for norm in copy.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.register_forward_hook(biased)
        copy(x)
        torch.testing.assert_close(net(q[None]), copy.eval()(q[None]))
    assert torch.equal(made.phi, before)


def biased(norm: nn.Module, given: tuple[Tensor], _: Tensor) -> None:
    """Keep the statistics of what a norm was given first."""
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.running_mean is None:
        count = given[0].numel() / given[0].shape[1]
        kept = nn.BatchNorm2d(norm.num_features, momentum=1.0).double()
        kept(given[0])
        assert kept.running_mean is not None
        assert kept.running_var is not None
        norm.running_mean = kept.running_mean
        norm.running_var = kept.running_var * (count - 1) / count
        norm.track_running_stats = True


def test_it_answers_as_evaluate_counts() -> None:
    made = learner()
    support, query, _ = own(seed=3)
    net = made.predictor(support, inner_steps=STEPS, seed=3)
    hits = net(one(query.x).double()).argmax(1) == query.y
    found = evaluate(made, TASKS, inner_steps=STEPS, count=1, seed=3)
    assert found.support_statistics.accuracy == hits.double().mean().item()
    other = made.predictor(support, inner_steps=STEPS, seed=4)
    assert not torch.equal(ravel(other), ravel(net))
    again = made.predictor(support, inner_steps=STEPS, seed=3)
    assert torch.equal(ravel(again), ravel(net))
    whole = made.predictor(support, inner_steps=STEPS, inner_batch=6)
    assert not torch.equal(ravel(whole), ravel(net))


def test_moments_are_those_of_training_unless_told() -> None:
    made = learner(adam(0.01))
    made.fit(TASKS, meta_steps=2, meta_batch=2, epsilon=constant(1.0))
    support, _, order = own()
    stacked = Batch(one(support.x).double(), support.y).map(lambda t: t[None])
    kept = made.inner_state
    choices: list[tuple[Moments | None, State | None]]
    choices = [("carry", kept), ("reset", None), (None, kept)]
    for moments, start in choices:
        found = adapt(
            made.kernel, made.phi, stacked, order[None], made.inner, start
        ).theta[0]
        net = made.predictor(support, inner_steps=STEPS, moments=moments)
        assert torch.equal(ravel(net), found)


def test_without_batch_norm_it_is_the_adapted_network() -> None:
    model = mlp(1, 8, 1, activation=nn.Tanh)
    made = Reptile(model, sgd(0.02), 3, 4, criterion=F.mse_loss, device="cpu")
    support, query, order = draw(Sine(), 1, inner_steps=5, inner_batch=4)
    net = made.predictor(support.map(lambda t: t[0]), inner_steps=5)
    expected = textbook.model_at(model, made.phi)
    optimizer = torch.optim.SGD(expected.parameters(), 0.02)
    textbook.descend(
        expected, optimizer, F.mse_loss, one(support.x)[0], support.y[0], order[0]
    )
    x = one(query.x)[0]
    torch.testing.assert_close(net(x), expected(x))
    assert made.predictor(support.map(lambda t: t[0]), inner_steps=0)(x).equal(model(x))


def test_a_single_example_and_numbers_of_other_types() -> None:
    made = learner()
    support, _, _ = own()
    net = made.predictor(support.map(lambda t: t[:1]), inner_steps=2)
    small = Batch(one(support.x).float(), support.y.to(torch.uint8))
    assert net(one(support.x).double()).shape == (6, 3)
    torch.testing.assert_close(
        ravel(made.predictor(small, inner_steps=2)),
        ravel(made.predictor(support, inner_steps=2)),
    )


X, Y = torch.rand(6, 1, 28, 28), torch.arange(6) % 3
BAD: dict[str, tuple[Any, str]] = {
    "labels": (Batch(X, Y + 1), "have a label 3, but the model tells 3 classes apart"),
    "below": (Batch(X, Y - 1), "have a label -1, but the model"),
    "size": (Batch(X[..., :12], Y), r"not take .* examples \[1, 28, 12\]; build"),
    "bytes": (Batch((X * 255).byte(), Y), r"not take .* examples \[1, 28, 28\]; build"),
    "axis": (Batch(X[None], Y[None]), r"does not take .* examples \[6, 1, 28, 28\]"),
    "fewer": (Batch(X, Y[:4]), "has 6 examples and 4 answers; give one example"),
    "none": (Batch(X[:0], Y[:0]), "has 0 examples and 0 answers; give one example"),
    "array": (Batch(X.numpy(), Y), "support has a ndarray where a tensor should be"),  # type: ignore[arg-type]
    "number": (Batch(X, Y[0]), "support has a Tensor where a tensor .* y .examples."),
    "floats": (
        Batch(X, Y.float()),
        "criterion does not take answers .* of torch.float",
    ),
    "nan": (Batch(X.index_fill(0, torch.tensor(4), torch.nan), Y), r"x\[4\] .* finite"),
    "infinite": (Batch(X, Y / 0), r"y\[\d\] of the support set is not finite; give"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_examples_are_named(name: str) -> None:
    support, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        learner().predictor(support)
    assert "\n" not in str(caught.value)


def test_bad_settings_are_named() -> None:
    good = Batch(X, Y)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"inner_steps": -1}, "inner_steps = -1; give"),
        ({"inner_batch": 0}, "inner_batch = 0; give at least 1"),
        ({"seed": -1}, "seed = -1; give"),
        ({"moments": "kept"}, "moments = 'kept'; choose"),
    ]
    for options, message in bad:
        with pytest.raises(UserError, match=message):
            learner().predictor(good, **options)
    wave = Reptile(mlp(1, 8, 1), sgd(1e9), 1, criterion=F.mse_loss, device="cpu")
    with pytest.raises(UserError, match=r"diverged in 9 .* \(now 1000000000\.0\)"):
        wave.predictor(Batch(X[:, 0, 0, :1], X[:, 0, 0, 1:2]), inner_steps=9)
    shared = nn.BatchNorm2d(1, track_running_stats=False)
    layers = shared, shared, nn.Flatten(), nn.Linear(784, 3)
    with pytest.raises(UserError, match="'0' ran 2 times in a pass"):
        Reptile(nn.Sequential(*layers), sgd(0.1), 1, device="cpu").predictor(good)
