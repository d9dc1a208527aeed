"""Conv4's gradient written out, against autograd through the module itself."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo import utils as dynamo
from torch.nn import functional as F

from reptile_lib import conv4, conv4_compiled
from reptile_lib.conv4_gradient import (
    Conv4Loss,
    applies,
    gradient,
    image_patches,
    products,
    to_matrices,
    to_vector,
    workspace,
)
from reptile_lib.engine import adapt, make_loss
from reptile_lib.inner import Batch, adam, sgd
from reptile_lib.models import pad_same
from reptile_lib.params import layout, ravel
from reptile_lib.stopping import SwitchEvery
from tests import textbook


def stack(n: int, batch: int, ways: int, channels: int, size: int, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, batch, channels, size, size, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(ways, (n, batch), generator=g))


def weights(n: int, ways: int, channels: int, size: int) -> tuple[Tensor, ...]:
    models = [conv4(ways, channels, size, seed=i).double() for i in range(n)]
    return torch.stack([ravel(m) for m in models]), models, layout(models[0])


@settings(max_examples=12)
@given(
    n=st.integers(1, 5),
    batch=st.integers(2, 4),
    ways=st.integers(2, 4),
    channels=st.integers(1, 3),
    size=st.integers(9, 20),
    summed=st.booleans(),
)
def test_gradient_is_autograds(
    n: int, batch: int, ways: int, channels: int, size: int, summed: bool
) -> None:
    criterion = partial(F.cross_entropy, reduction="sum" if summed else "mean")
    theta, models, where = weights(n, ways, channels, size)
    x, y = stack(n, batch, ways, channels, size, seed=n)
    space = workspace(where, n, batch, size, theta)
    matrices, patches = to_matrices(theta, where), image_patches(x)
    # The second time on used buffers.
    for written in ("buffers", "buffers", "pure"):
        if written == "pure":
            g, values = conv4_compiled.gradient(
                matrices, patches, y, where, summed=summed
            )
        else:
            space.theta.copy_(matrices)
            values = gradient(space, patches, y, summed=summed)
            g = space.g
        found = to_vector(g, where)
        for i, model in enumerate(models):
            expected, loss = textbook.gradient(model, criterion, x[i], y[i])
            torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(values[i], loss, rtol=0, atol=1e-12)


def test_biases_that_batch_norm_removes_stay_where_they_are() -> None:
    theta, models, where = weights(1, 3, 1, 12)
    loss, _ = make_loss(models[0], F.cross_entropy)
    x, y = stack(1, 6, 3, 1, 12, seed=0)
    order = torch.arange(6).view(1, 2, 3)
    adapted = adapt(loss, theta[0], Batch(x, y), order, adam(0.1)).theta[0]
    moved = dict(
        zip(where.names, (adapted != theta[0]).split(where.sizes), strict=True)
    )
    for name, entries in moved.items():
        is_bias = name.startswith("convolutions") and name.endswith("bias")
        assert entries.any().item() != is_bias, name


@given(st.integers(0, 3), st.integers(2, 4), st.integers(1, 3), st.integers(9, 30))
def test_matrix_order_is_a_permutation(
    lead: int, ways: int, channels: int, size: int
) -> None:
    where = layout(conv4(ways, channels, size))
    total = sum(where.sizes)
    vector = torch.arange(lead * total if lead else total)
    vector = vector.view(lead, total) if lead else vector
    turned = to_matrices(vector, where)
    assert torch.equal(turned.sort(-1).values, vector)
    assert torch.equal(to_vector(turned, where), vector)


def test_a_filter_times_patches_is_the_convolution() -> None:
    theta, models, where = weights(1, 2, 3, 11)
    x = stack(1, 4, 2, 3, 11, seed=5).x
    first = models[0].convolutions[0]
    matrix = to_matrices(theta, where)[0, : first.weight.numel()].view(-1, 64)
    outputs = image_patches(x)[0] @ matrix + first.bias  # [4, o·o, 64]
    expected = first(pad_same(x[0])).flatten(2).mT
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_of_a_stack(
    n: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    a, b = torch.rand(n, 4, 3).double(), torch.rand(n, 3, 5).double()
    out = torch.empty(n, 4, 5).double()
    products(a, b, out)
    torch.testing.assert_close(out, a @ b)


def test_a_large_stack_is_cut_into_groups_with_the_same_result() -> None:
    n = Conv4Loss.group + 3
    model = conv4(2, size=9).double()
    loss, _ = make_loss(model, F.cross_entropy)
    support = stack(n, 4, 2, 1, 9, seed=1)
    order = torch.arange(4).view(1, 2, 2).expand(n, -1, -1)
    whole = adapt(loss, ravel(model), support, order, sgd(0.1))
    for i in (0, Conv4Loss.group - 1, Conv4Loss.group, n - 1):
        one = Batch(support.x[i : i + 1], support.y[i : i + 1])
        alone = adapt(loss, ravel(model), one, order[:1], sgd(0.1))
        torch.testing.assert_close(whole.theta[i], alone.theta[0], rtol=0, atol=1e-12)


def test_many_steps_between_enter_and_leave() -> None:
    model = conv4(3, size=10).double()
    loss, _ = make_loss(model, F.cross_entropy)
    assert isinstance(loss, Conv4Loss)
    support = stack(2, 4, 3, 1, 10, seed=2)
    order = torch.arange(4).view(1, 2, 2).expand(2, -1, -1)
    inner = adam(0.01)
    state = {"v": torch.rand_like(ravel(model)), "step": torch.tensor(3.0).double()}
    outside = adapt(loss, ravel(model), support, order, inner, state)
    inside, phi, (turned,) = loss.enter(ravel(model), [state])
    adapted = adapt(inside, phi, support, order, inner, turned)
    theta, (states,) = inside.leave(adapted.theta, [adapted.state])
    assert torch.equal(theta, outside.theta)
    assert states is not None
    assert torch.equal(states["v"], outside.state["v"])
    one = Batch(support.x[0], support.y[0])
    torch.testing.assert_close(inside(phi, one), loss(ravel(model), one))


def test_compiled_steps_are_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    if not conv4_compiled.works():
        pytest.skip("torch cannot compile here")
    model = conv4(3, size=10).double()
    criterion = partial(F.cross_entropy, reduction="sum")
    support = stack(2, 6, 3, 1, 10, seed=3)
    order = torch.arange(6).view(1, 3, 2).expand(2, -1, -1)
    state = {"v": torch.rand_like(ravel(model)), "step": torch.tensor(3.0).double()}
    asked, counted = [], dynamo.counters["stats"]["unique_graphs"]
    step = conv4_compiled.step
    monkeypatch.setattr(
        conv4_compiled, "step", lambda *args: asked.append(args) or step(*args)
    )
    for inner, start in (
        (adam(0.01), state),
        (adam(0.01, (0.9, 0.999)), state | {"m": torch.rand_like(state["v"])}),
    ):
        plain, compiled = (
            adapt(
                make_loss(model, criterion, compiled=compiled)[0],
                ravel(model),
                support,
                order,
                inner,
                start,
            )
            for compiled in (False, True)
        )
        for found, expected in (
            (compiled.theta, plain.theta),
            (compiled.losses, plain.losses),
            *((compiled.state[name], plain.state[name]) for name in plain.state),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert len(asked) == 2
    # One variant an optimiser: the first step is not of another layout.
    assert dynamo.counters["stats"]["unique_graphs"] - counted == 2


def test_no_steps_need_no_compiler() -> None:
    model = conv4(3, size=10).double()
    loss, _ = make_loss(model, F.cross_entropy, compiled=True)
    support, order = stack(2, 6, 3, 1, 10, seed=3), torch.empty(2, 0, 2).long()
    found = adapt(loss, ravel(model), support, order, adam(0.01))
    assert torch.equal(found.theta, ravel(model).expand(2, -1))
    assert found.losses.shape == (2, 0)


def test_what_stops_is_not_compiled() -> None:
    model = conv4(3, size=10).double()
    loss, _ = make_loss(model, F.cross_entropy, compiled=True)
    support = stack(2, 6, 3, 1, 10, seed=3)
    order = torch.arange(6).view(1, 3, 2).expand(2, -1, -1)
    inner = sgd(0.01).until(SwitchEvery(1))
    assert adapt(loss, ravel(model), support, order, inner).steps.tolist() == [1, 1]


@pytest.mark.parametrize("written", ["buffers", "pure"])
def test_bf16_is_near_and_not_equal(written: str) -> None:
    where = layout(conv4(5))
    phi = ravel(conv4(5))
    x, y = stack(2, 20, 5, 1, 28, seed=4)
    found = []
    for bf16 in (False, True):
        matrices, patches = to_matrices(phi, where), image_patches(x.float())
        if written == "pure":
            stacked = matrices.expand(2, -1)
            found.append(conv4_compiled.gradient(stacked, patches, y, where, bf16=bf16))
            continue
        space = workspace(where, 2, 20, 28, phi, bf16)
        space.theta.copy_(matrices)
        values = gradient(space, patches, y)
        found.append((space.g.clone(), values))
    (exact, loss), (rounded, rounded_loss) = found
    assert 0 < (rounded - exact).norm() < 0.3 * exact.norm()
    torch.testing.assert_close(rounded_loss, loss, rtol=0.05, atol=0)


def test_it_applies_to_conv4_with_cross_entropy_alone() -> None:
    assert applies(conv4(5), F.cross_entropy)
    assert applies(conv4(5), partial(F.cross_entropy, reduction="sum"))
    assert not applies(conv4(5), partial(F.cross_entropy, reduction="none"))
    assert not applies(conv4(5), partial(F.cross_entropy, label_smoothing=0.1))
    assert not applies(conv4(5), F.mse_loss)
    assert not applies(torch.nn.Linear(2, 2), F.cross_entropy)
