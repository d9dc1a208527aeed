"""A network with a support set's statistics, against the batch's own."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import UserError, conv4, mlp
from reptile_lib.kernel import of_model
from reptile_lib.models.frozen import OnSupport, frozen
from reptile_lib.params import ravel
from tests import textbook

GENERATOR = torch.Generator().manual_seed(0)


def moved(model: nn.Module) -> Tensor:
    """Return weights that are not the model's own: no scale 1, no shift 0."""
    phi = ravel(model)
    return phi + 0.2 * torch.randn(len(phi), generator=GENERATOR, dtype=phi.dtype)


def pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)


def wide() -> nn.Module:
    """Return Conv4 for pictures of 28 by 12, whose last layer sees 2 by 1."""
    model = conv4(ways=5)
    assert isinstance(model.out, nn.Linear)
    model.out = nn.Linear(2 * 64, 5)
    return model


def norm1d(**options: bool) -> nn.Module:
    norm = nn.BatchNorm1d(6, track_running_stats=False, **options)
    return nn.Sequential(nn.Linear(3, 6), norm, nn.Tanh(), nn.Linear(6, 2))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv4": (lambda: conv4(ways=5), (1, 28, 28)),
    "one pixel": (lambda: conv4(ways=5, channels=2, size=3), (2, 3, 3)),
    "not square": (wide, (1, 28, 12)),
    "1d": (norm1d, (3,)),
    "without scale": (lambda: norm1d(affine=False), (3,)),
    "sequences": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (4, 7)),
    "no norm": (lambda: mlp(3, 8, 2), (3,)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_the_support_set_did_and_each_query_for_itself(name: str) -> None:
    make, shape = CASES[name]
    model = make().double()
    theta, support, queries = moved(model), pictures(5, *shape), pictures(4, *shape)
    before = ravel(model)
    net = frozen(model, theta, support)
    torch.testing.assert_close(net(support), textbook.model_at(model, theta)(support))
    alone = torch.cat([net(x[None]) for x in queries])
    torch.testing.assert_close(alone, net(queries))
    torch.testing.assert_close(net(torch.cat([queries, support]))[:4], alone)
    assert torch.equal(ravel(net), theta)
    assert torch.equal(ravel(model), before)
    assert not net.training
    assert not [p for p in net.parameters() if p.requires_grad]
    assert not [m for m in net.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert not [m for m in model.modules() if m._forward_pre_hooks]
    if name != "no norm":
        assert not torch.allclose(
            net(queries), textbook.model_at(model, theta)(queries)
        )


def test_statistics_are_mean_and_biased_variance_of_each_layers_inputs() -> None:
    model = norm1d().double()
    theta, x = moved(model), pictures(3, 3)
    state = frozen(model, theta, x).state_dict()
    z = F.linear(x, state["0.weight"], state["0.bias"])
    torch.testing.assert_close(state["1.running_mean"], z.sum(0) / 3)
    torch.testing.assert_close(
        state["1.running_var"], ((z - z.sum(0) / 3) ** 2).sum(0) / 3
    )


def test_a_single_picture_of_one_pixel_is_refused_by_the_model_alone() -> None:
    model = conv4(ways=5, size=16)
    x = torch.rand(6, 1, 16, 16)
    with pytest.raises(UserError, match="single value to normalise"):
        model(x[:1])
    assert frozen(model, ravel(model), x)(x[:1]).shape == (1, 5)
    with pytest.raises(UserError, match="single value to normalise"):
        frozen(model, ravel(model), x[:1])


def test_it_goes_through_files(tmp_path: Path) -> None:
    model = conv4(ways=3, size=8)
    x, path, stream = torch.rand(6, 1, 8, 8), tmp_path / "net.safetensors", io.BytesIO()
    net = frozen(model, moved(model), x)
    expected = net(x[:1])
    save_file(net.state_dict(), path)
    other = frozen(model, ravel(model), torch.rand(2, 1, 8, 8))
    assert not torch.equal(other(x[:1]), expected)
    other.load_state_dict(load_file(path))
    assert torch.equal(other(x[:1]), expected)
    torch.save(net, stream)
    stream.seek(0)
    for copy in (
        torch.load(stream, weights_only=False),
        pickle.loads(pickle.dumps(net)),
    ):
        assert torch.equal(copy(x[:1]), expected)


@pytest.mark.slow
def test_it_is_exported_for_any_number_of_queries() -> None:
    model = conv4(ways=5, size=16)
    x = torch.rand(6, 1, 16, 16)
    net = frozen(model, moved(model), x)
    count = {0: torch.export.Dim("count", min=1)}
    exported = torch.export.export(net, (x,), dynamic_shapes=(count,)).module()
    for n in (6, 1, 3):
        torch.testing.assert_close(exported(x[:n]), net(x[:n]))


def test_stacked_tasks_answer_as_each_of_their_networks() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    )
    model = model.extend([nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]).double()
    thetas = torch.stack([moved(model) for _ in range(3)])
    support, queries = pictures(3, 5, 1, 4, 4), pictures(3, 2, 1, 4, 4)
    kernel = of_model(OnSupport(model), F.cross_entropy)
    expected = [
        frozen(model, theta, s)(q)
        for theta, s, q in zip(thetas, support, queries, strict=True)
    ]
    for stacks in (True, False):
        found = replace(kernel, stacks=stacks).outputs(thetas, (support, queries))
        torch.testing.assert_close(found, torch.stack(expected))


class Normed(nn.Module):
    """A linear layer after something with norms."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)
        self.out, self.act = nn.Linear(3, 2), act

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.out(self.act(self.norm, x))
        return answers


def test_a_norm_that_runs_twice_has_statistics_for_each_time_in_evaluation() -> None:
    model = Normed(lambda norm, x: norm(norm(x).exp())).double()
    theta, support, queries = moved(model), pictures(5, 3), pictures(4, 3)
    found = of_model(OnSupport(model), F.mse_loss).outputs(
        theta[None], (support[None], queries[None])
    )
    weight, bias, last, shift = theta.split([3, 3, 6, 2])
    s, q = support, queries
    for act in (torch.exp, lambda x: x):
        mean, root = s.mean(0), (s.var(0, correction=0) + 1e-5).sqrt()
        s, q = (act((x - mean) / root * weight + bias) for x in (s, q))
    torch.testing.assert_close(found[0], q @ last.view(2, 3).T + shift)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "twice": (lambda: Normed(lambda norm, x: norm(norm(x))), "'norm' ran 2 times"),
    "never": (lambda: Normed(lambda norm, x: x), "'norm' ran 0 times"),
    "sometimes": (
        lambda: Normed(lambda norm, x: norm(x) if len(x) < 5 else x),
        "'norm' ran 0 times",
    ),
    "of several": (
        lambda: Normed(lambda norm, x: norm(x) if len(x) > 1 else x),
        "otherwise alone than among others",
    ),
    "by itself": (
        lambda: nn.Sequential(nn.Linear(3, 3), Apart()),
        "otherwise alone than among others",
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(3, 30), nn.Dropout(0.5)),
        r"otherwise in eval mode than in training .* call model.eval\(\)",
    ),
    "running": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        "'1' has running statistics already; give .* track_running_stats=False",
    ),
    "a pair": (lambda: nn.GRU(3, 3), "answers with a tuple; build one"),
    "shape": (lambda: mlp(4, 2), r"does not take the support examples \[6, 3\]; give"),
}


class Apart(nn.Module):
    """The mean of the batch is taken away by hand, for ever."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_keep_statistics_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    model = make().double()
    with pytest.raises(UserError, match=message) as caught:
        frozen(model, ravel(model), pictures(6, 3))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_the_models_or_diverged() -> None:
    model = norm1d().double()
    with pytest.raises(UserError, match=r"shape \[3\], the model needs \[\d+\]"):
        frozen(model, pictures(3), pictures(6, 3))
    with pytest.raises(UserError, match="are not finite at these weights; lower"):
        frozen(model, ravel(model) * torch.nan, pictures(6, 3))
