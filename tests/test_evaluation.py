"""Few-shot evaluation against the textbook, in every protocol."""

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import (
    Batch,
    Examples,
    FewShotTasks,
    InnerOptimizer,
    MetaLearner,
    Reptile,
    Score,
    Sine,
    UserError,
    adam,
    adapt,
    adaptation_curve,
    constant,
    conv4,
    draw,
    evaluate,
    gd,
    mlp,
    momentum,
    sgd,
)
from reptile_lib.fast.choose import Engine
from reptile_lib.kernel import of_model
from reptile_lib.models.conv4 import Conv4, pad_same
from reptile_lib.rng import VALIDATE
from reptile_lib.tasks import Tasks
from tests import textbook


class Double(nn.Module):
    """Turn pictures into float64 on the way in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def noise_classes(count: int = 8) -> Examples:
    """Return classes that differ, with examples that do, too."""
    g = torch.Generator().manual_seed(0)
    centres = torch.rand(count, 1, 1, 8, 8, generator=g)
    images = 90 * centres + 160 * torch.rand(count, 9, 1, 8, 8, generator=g)
    return Examples(images.to(torch.uint8), tuple(map(str, range(count))))


def conv_learner(inner: InnerOptimizer, **options: Any) -> MetaLearner:
    model = nn.Sequential(Double(), conv4(ways=4, size=8).double())
    settings: dict[str, Any] = {"inner_steps": 3, "inner_batch": 3, "device": "cpu"}
    return Reptile(model, inner, **(settings | options))


TASKS = FewShotTasks(noise_classes(), ways=4, shots=2, query_shots=2)


def textbook_scores(
    learner: MetaLearner, tasks: FewShotTasks, inner_steps: int, b: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the accuracy of each task, in the order of `Evaluation`."""
    support, query, order = draw(tasks, count, inner_steps=inner_steps, inner_batch=b)
    together, alone, kept = [], [], []
    for i in range(count):
        model = textbook.model_at(learner.model, learner.phi)
        optimizer = torch.optim.SGD(model.parameters(), learner.inner.lr)
        textbook.descend(
            model, optimizer, F.cross_entropy, support.x[i], support.y[i], order[i]
        )
        answers = model(query.x[i]).argmax(1)
        together.append((answers == query.y[i]).double().mean())
        hits = []
        for x, y in zip(query.x[i], query.y[i], strict=True):
            logits = model(torch.cat([support.x[i], x[None]]))
            hits.append(float(logits[-1].argmax() == y))
        alone.append(torch.tensor(hits).double().mean())
        logits = with_statistics_of(support.x[i], model, query.x[i])
        kept.append((logits.argmax(1) == query.y[i]).double().mean())
    return torch.stack(together), torch.stack(alone), torch.stack(kept)


def with_statistics_of(support: Tensor, model: nn.Module, query: Tensor) -> Tensor:
    """Return logits of queries, one by one, normalised as the support set is."""
    conv = next(m for m in model.modules() if isinstance(m, Conv4))
    rows = []
    for x in query.double():
        s, q = support.double(), x[None]
        for convolution, norm in zip(conv.convolutions, conv.norms, strict=True):
            s, q = (convolution(pad_same(z)) for z in (s, q))
            pixels = s.transpose(0, 1).flatten(1)
            mean = pixels.sum(1) / pixels.shape[1]
            square = ((pixels - mean[:, None]) ** 2).sum(1) / pixels.shape[1]
            scale, shift = (p[:, None, None] for p in norm.parameters())
            mean, root = (v[:, None, None] for v in (mean, (square + 1e-3).sqrt()))
            s, q = (((z - mean) / root * scale + shift).clamp(min=0) for z in (s, q))
        rows.append(conv.out(q.flatten(1))[0])
    return torch.stack(rows).detach()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "threads", "stacked"])
def test_evaluate_is_the_textbook_in_every_protocol(engine: str) -> None:
    learner = conv_learner(sgd(0.1), engine=engine)
    found = evaluate(learner, TASKS, inner_steps=4, inner_batch=3, count=25)
    together, alone, kept = textbook_scores(learner, TASKS, 4, 3, 25)
    assert torch.equal(found.transductive.values, together)
    assert torch.equal(found.non_transductive.values, alone)
    assert torch.equal(found.support_statistics.values, kept)
    assert not torch.equal(together, alone)
    assert not torch.equal(together, kept)
    assert not torch.equal(alone, kept)
    assert 0.3 < together.mean() < 0.99


def test_without_batch_norm_the_protocols_agree() -> None:
    model = nn.Sequential(nn.Flatten(), mlp(64, 16, 4))
    found = evaluate(Reptile(model, sgd(0.1), 2), TASKS, inner_steps=4, count=30)
    assert torch.equal(found.transductive.values, found.non_transductive.values)
    assert torch.equal(found.transductive.values, found.support_statistics.values)


def coloured_classes(same: bool) -> Examples:
    """Return classes told apart by the one white pixel, or not at all."""
    images = torch.zeros(6, 4, 1, 3, 3, dtype=torch.uint8)
    if not same:
        images.flatten(2)[range(6), :, range(6)] = 255
    return Examples(images, tuple("abcdef"))


@pytest.mark.parametrize(("same", "accuracy"), [(False, 1.0), (True, 0.2)])
def test_accuracy_of_what_is_trivial_and_of_what_is_impossible(
    same: bool, accuracy: float
) -> None:
    tasks = FewShotTasks(coloured_classes(same), ways=5, shots=1, query_shots=2)
    learner = Reptile(nn.Sequential(nn.Flatten(), nn.Linear(9, 5)), gd(2.0), 1)
    for score in evaluate(learner, tasks, inner_steps=20, count=130):
        assert score.values.tolist() == pytest.approx([accuracy] * 130)
        assert score.ci95 == pytest.approx(0)


def test_without_inner_steps_phi_itself_is_scored() -> None:
    learner = conv_learner(sgd(0.1))
    found = evaluate(learner, TASKS, inner_steps=0, count=10)
    expected = textbook_scores(learner, TASKS, 0, 3, 10)
    for score, values in zip(found, expected, strict=True):
        assert torch.equal(score.values, values)


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_accuracies_are_the_recorded_ones(engine: Engine) -> None:
    # of the code before it had a third protocol, which may not touch the other two
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False))
    linear = nn.Linear(64, 4)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    learner = Reptile(model.append(linear), gd(0.1), 3, device="cpu", engine=engine)
    found = evaluate(learner, TASKS, inner_steps=1, count=12)
    together = [8, 7, 8, 6, 8, 8, 5, 6, 8, 7, 8, 8]  # of 8 queries a task
    alone = [8, 4, 8, 5, 8, 7, 6, 6, 8, 8, 8, 7]
    assert (8 * found.transductive.values).tolist() == together
    assert (8 * found.non_transductive.values).tolist() == alone


def test_a_norm_of_one_of_two_inputs_keeps_the_support_sets_statistics() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3, track_running_stats=False)
            self.words, self.out = nn.Embedding(9, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor, word: Tensor) -> Tensor:
            answers: Tensor = self.out(self.norm(x) + self.words(word))
            return answers

    g = torch.Generator().manual_seed(0)
    values = [
        (torch.randn(6, 3, generator=g).double(), torch.randint(9, (6,), generator=g))
        for _ in range(4)
    ]
    tasks = FewShotTasks(Examples(values, tuple("abcd")), 3, 2, query_shots=2)
    learner = Reptile(Both().double(), sgd(0.3), 3, device="cpu")
    found = evaluate(learner, tasks, inner_steps=5, count=20)
    support, query, order = draw(tasks, 20, inner_steps=5)
    hits = []
    for i in range(20):
        model = textbook.model_at(learner.model, learner.phi)
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        x, word = textbook.rows(support.x, i)
        textbook.descend(
            model, optimizer, F.cross_entropy, (x, word), support.y[i], order[i]
        )
        assert isinstance(model, Both)
        new, about = textbook.rows(query.x, i)
        root = (((x - x.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
        z = (new - x.mean(0)) / root * model.norm.weight + model.norm.bias
        logits = model.out(z + model.words(about))
        hits.append((logits.argmax(1) == query.y[i]).double().mean())
    assert torch.equal(found.support_statistics.values, torch.stack(hits))
    assert not torch.equal(found.support_statistics.values, found.transductive.values)


def test_confidence_interval() -> None:
    values = [0.2, 0.6, 1.0, 0.8, 0.4, 0.4]
    score = Score(torch.tensor(values).double())
    assert score.accuracy == pytest.approx(statistics.mean(values))
    expected = 1.96 * statistics.stdev(values) / math.sqrt(6)
    assert score.ci95 == pytest.approx(expected)
    assert score.as_dict() == {
        "accuracy": score.accuracy,
        "ci95": score.ci95,
        "tasks": 6,
    }
    assert str(score) == "56.7 ± 23.6 % (6 tasks)"
    assert math.isnan(Score(torch.ones(1)).ci95)


@pytest.mark.slow
def test_a_seed_names_the_same_tasks_whoever_asks() -> None:
    learner = conv_learner(sgd(0.1))

    def scores(count: int, **options: Any) -> Tensor:
        found = evaluate(learner, TASKS, inner_steps=2, count=count, **options)
        return torch.stack([s.values for s in found])

    expected = scores(13)
    assert torch.equal(scores(13), expected)
    assert torch.equal(scores(6), expected[:, :6])
    assert not torch.equal(scores(13, seed=1), expected)
    assert not torch.equal(scores(13, stream=VALIDATE), expected)
    assert torch.equal(scores(13, at_once=5), expected)


def test_evaluation_leaves_the_learner_alone() -> None:
    learner = conv_learner(adam(1e-2))
    learner.fit(TASKS, meta_steps=3, meta_batch=2, epsilon=constant(1.0))
    before = [p.clone() for p in learner.model.parameters()]
    phi, (_, state, _, step) = learner.phi.clone(), learner.state
    assert state is not None
    copies = {name: value.clone() for name, value in state.items()}
    history = [dict(row) for row in learner.history]
    evaluate(learner, TASKS, inner_steps=3, count=5)
    adaptation_curve(learner, TASKS, inner_steps=3, count=5)
    assert torch.equal(learner.phi, phi)
    assert learner.state.meta_step == step
    assert learner.history == history
    now = learner.inner_state
    assert now is not None
    assert all(torch.equal(now[name], value) for name, value in copies.items())
    for p, q in zip(learner.model.parameters(), before, strict=True):
        assert torch.equal(p, q)


BETAS = (0.9, 0.99)


def sine_learner(**options: Any) -> MetaLearner:
    model = mlp(1, 8, 1, activation=nn.Tanh)
    learner = Reptile(
        model, adam(0.01, BETAS), 3, 4, criterion=F.mse_loss, device="cpu", **options
    )
    learner.fit(Sine(), meta_steps=6, meta_batch=3, epsilon=constant(0.5))
    return learner


def textbook_curve(
    learner: MetaLearner, tasks: Tasks, steps: int, count: int, carry: bool
) -> Tensor:
    support, query, order = draw(tasks, count, inner_steps=steps, inner_batch=4)
    rows = []
    for i in range(count):
        model = textbook.model_at(learner.model, learner.phi)
        optimizer = torch.optim.Adam(model.parameters(), 0.01, BETAS)
        if carry:
            assert learner.inner_state is not None
            optimizer = textbook.adam_from(model, learner.inner_state, 0.01, BETAS)
        row = [F.mse_loss(model(query.x[i]), query.y[i])]
        for batch in order[i]:
            textbook.descend(
                model, optimizer, F.mse_loss, support.x[i], support.y[i], batch[None]
            )
            row.append(F.mse_loss(model(query.x[i]), query.y[i]))
        rows.append(torch.stack(row).detach())
    return torch.stack(rows)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("trained", ["carry", "reset"])
def test_adaptation_curve_with_carried_and_with_reset_moments(trained: Any) -> None:
    learner = sine_learner(moments=trained)
    curves = {}
    for moments in ("carry", "reset"):
        curves[moments] = adaptation_curve(
            learner, Sine(), inner_steps=5, inner_batch=4, count=7, moments=moments
        )
        expected = textbook_curve(learner, Sine(), 5, 7, carry=moments == "carry")
        torch.testing.assert_close(curves[moments], expected, rtol=0, atol=1e-10)
    difference = (curves["carry"] - curves["reset"]).abs()
    assert difference[:, 0].max() == 0
    assert difference[:, 1:].min() > 0
    default = adaptation_curve(learner, Sine(), inner_steps=5, inner_batch=4, count=7)
    assert torch.equal(default, curves[trained])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "inner", [sgd(0.05), momentum(0.02), adam(0.01), gd(0.05)], ids=lambda i: i.name
)
def test_adaptation_curve_is_adapt_cut_short(inner: InnerOptimizer) -> None:
    learner = Reptile(mlp(1, 8, 1), inner, 3, criterion=F.mse_loss, device="cpu")
    curves = adaptation_curve(learner, Sine(), inner_steps=4, count=3)
    kernel = of_model(learner.model, F.mse_loss)
    support, query, order = draw(Sine(), 3, inner_steps=4)
    assert order.shape == (3, 4, 10)
    assert curves.shape == (3, 5)
    assert curves.dtype == torch.float64
    for j in range(5):
        theta = adapt(kernel, learner.phi, support, order[:, :j], inner).theta
        for i in range(3):
            value = kernel.loss(theta[i], Batch(query.x[i], query.y[i]))
            assert curves[i, j].item() == pytest.approx(value.item(), rel=1e-10)


@pytest.mark.slow
def test_moments_of_evaluate_are_those_of_training_unless_told() -> None:
    def accuracies(learner: MetaLearner, **options: Any) -> Tensor:
        found = evaluate(learner, TASKS, inner_steps=3, count=12, **options)
        return torch.stack([s.values for s in found])

    for trained, other in (("carry", "reset"), ("reset", "carry")):
        learner = conv_learner(adam(0.02), moments=trained)
        learner.fit(TASKS, meta_steps=4, meta_batch=3, epsilon=constant(1.0))
        assert torch.equal(accuracies(learner), accuracies(learner, moments=trained))
        assert not torch.equal(accuracies(learner), accuracies(learner, moments=other))


@pytest.mark.parametrize(
    ("inner", "inner_batch", "given", "expected"),
    [
        (sgd(0.1), 3, None, 3),
        (sgd(0.1), 10, None, 8),  # not more than the support set has
        (sgd(0.1), 10, 10, 10),  # unless told: the passes then run on
        (sgd(0.1), None, None, 8),
        (gd(0.1), 3, None, 8),
    ],
)
def test_examples_a_step(
    inner: InnerOptimizer, inner_batch: int | None, given: int | None, expected: int
) -> None:
    sizes: list[int] = []

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return F.cross_entropy(outputs, y)

    how = {"criterion": criterion, "inner_batch": inner_batch, "engine": "serial"}
    evaluate(
        conv_learner(inner, **how), TASKS, inner_steps=2, inner_batch=given, count=3
    )
    assert sizes == 3 * 2 * [expected]


def test_bad_settings_name_the_value_and_the_remedy() -> None:
    learner = conv_learner(sgd(0.1))
    other = FewShotTasks(noise_classes(), ways=3, shots=1)
    with pytest.raises(UserError, match=r"4 classes apart, the tasks have 3 ways"):
        evaluate(learner, other, count=2)
    with pytest.raises(UserError, match=r"moments = 'carried'; choose"):
        evaluate(learner, TASKS, count=2, moments="carried")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"count = 0, .*; give at least 1 task"):
        evaluate(learner, TASKS, count=0)
    with pytest.raises(UserError, match=r"inner_steps = -1; give at least 1 task"):
        evaluate(learner, TASKS, inner_steps=-1, count=2)
    with pytest.raises(UserError, match=r"seed = -1; give one from 0"):
        evaluate(learner, TASKS, count=2, seed=-1)
    with pytest.raises(UserError, match=r"inner_batch = 0; give at least 1"):
        evaluate(learner, TASKS, inner_batch=0, count=2)
    for bad in (0, -2):
        with pytest.raises(UserError, match=f"inner_batch = {bad}; give at least 1"):
            adaptation_curve(learner, TASKS, inner_steps=1, inner_batch=bad, count=2)
    with pytest.raises(UserError, match=r"at_once = 0; give at least 1"):
        evaluate(learner, TASKS, count=2, at_once=0)


def test_a_diverged_task_is_not_scored_as_a_guess() -> None:
    learner = conv_learner(sgd(1e30), engine="threads")
    with pytest.raises(
        UserError, match=r"\d of 5 tasks diverged in 4 .* \(now 1e\+30\)"
    ):
        evaluate(learner, TASKS, inner_steps=4, count=5)


def test_images_that_the_model_cannot_take_are_named() -> None:
    model = nn.Sequential(Double(), conv4(ways=4, channels=3, size=8).double())
    learner = Reptile(model, sgd(0.1), 2, device="cpu")
    with pytest.raises(
        UserError, match=r"does not take .* examples \[1, 8, 8\]; build"
    ):
        evaluate(learner, TASKS, inner_steps=1, count=5)
