"""Conv4's gradient written out, against autograd through the module itself.

What every kernel must do is asked in `test_kernels`.
"""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo import utils as dynamo
from torch.nn import functional as F

from reptile_lib import Batch, InnerOptimizer, SwitchEvery, adam, adapt, conv4, sgd
from reptile_lib.fast import conv4_compiled
from reptile_lib.fast.choose import make_kernel
from reptile_lib.fast.conv4 import (
    GROUP,
    conv4_kernel,
    gradient,
    products,
    to_matrices,
    to_vector,
)
from reptile_lib.fast.conv4_buffers import image_patches, workspace
from reptile_lib.kernel import Kernel, of_model
from reptile_lib.models.conv4 import Conv4, pad_same
from reptile_lib.params import Layout, layout, ravel
from tests import textbook

CPU = torch.device("cpu")


def kernel_of(
    model: nn.Module, criterion: textbook.Criterion, compiled: bool = False
) -> Kernel:
    reference = of_model(model, criterion)
    found = conv4_kernel(model, criterion, reference, compiled=compiled)
    assert found is not None
    return found


def pictures(
    n: int, batch: int, ways: int, channels: int, size: int, seed: int
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, batch, channels, size, size, generator=g, dtype=torch.float64)
    return x, torch.randint(ways, (n, batch), generator=g)


def stack(n: int, batch: int, ways: int, channels: int, size: int, seed: int) -> Batch:
    return Batch(*pictures(n, batch, ways, channels, size, seed))


def weights(
    n: int, ways: int, channels: int, size: int
) -> tuple[Tensor, list[nn.Module], Layout]:
    models = [conv4(ways, channels, size, seed=i).double() for i in range(n)]
    return torch.stack([ravel(m) for m in models]), models, layout(models[0])


@pytest.mark.slow
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
    x, y = pictures(n, batch, ways, channels, size, seed=n)
    space = workspace(where, n, batch, x.shape[2:], theta)
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
    kernel, support = kernel_of(models[0], F.cross_entropy), stack(1, 6, 3, 1, 12, 0)
    order = torch.arange(6).view(1, 2, 3)
    adapted = adapt(kernel, theta[0], support, order, adam(0.1)).theta[0]
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
    x, _ = pictures(1, 4, 2, 3, 11, seed=5)
    assert isinstance(models[0], Conv4)
    first = models[0].convolutions[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    matrix = to_matrices(theta, where)[0, : first.weight.numel()].view(-1, 64)
    outputs = image_patches(x)[0] @ matrix + first.bias  # [4, o·o, 64]
    expected = first(pad_same(x[0])).flatten(2).mT
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_products_of_a_stack(n: int) -> None:
    a, b = torch.rand(n, 4, 3).double(), torch.rand(n, 3, 5).double()
    out = torch.empty(n, 4, 5).double()
    products(a, b, out)
    torch.testing.assert_close(out, a @ b)


def test_a_large_stack_is_cut_into_groups_with_the_same_result() -> None:
    n = GROUP + 3
    model = conv4(2, size=9).double()
    kernel = make_kernel(model, F.cross_entropy, device=CPU)
    support = stack(n, 4, 2, 1, 9, seed=1)
    order = torch.arange(4).view(1, 2, 2).expand(n, -1, -1)
    whole = adapt(kernel, ravel(model), support, order, sgd(0.1))
    for i in (0, GROUP - 1, GROUP, n - 1):
        one = support.map(lambda t, i=i: t[i : i + 1])  # type: ignore[misc]
        alone = adapt(kernel, ravel(model), one, order[:1], sgd(0.1))
        torch.testing.assert_close(whole.theta[i], alone.theta[0], rtol=0, atol=1e-12)


@pytest.fixture
def compiler() -> None:
    if not conv4_compiled.works():
        pytest.skip("torch cannot compile here")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_steps_are_the_others() -> None:
    model, inner = conv4(3, size=10).double(), adam(0.01, (0.9, 0.999))
    criterion = partial(F.cross_entropy, reduction="sum")
    support = stack(2, 6, 3, 1, 10, seed=3)
    order = torch.arange(6).view(1, 3, 2).expand(2, -1, -1)
    state = {
        n: torch.rand_like(v) if n != "step" else 3 + v
        for n, v in inner.init(ravel(model)).items()
    }
    counted = dynamo.counters["stats"]["unique_graphs"]
    plain, compiled = (
        adapt(
            kernel_of(model, criterion, way), ravel(model), support, order, inner, state
        )
        for way in (False, True)
    )
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-10)
    # One variant: the first step is not of another layout.
    assert dynamo.counters["stats"]["unique_graphs"] - counted == 1


def own(rates: Tensor) -> InnerOptimizer:
    return InnerOptimizer(
        "own", 0.1, lambda theta: {}, lambda g, state, theta: (theta - rates * g, state)
    )


def test_what_has_no_steps_stops_or_tells_weights_apart_is_not_compiled() -> None:
    model = conv4(3, size=10).double()
    kernel, plain = (kernel_of(model, F.cross_entropy, way) for way in (True, False))
    support, phi = stack(2, 6, 3, 1, 10, seed=3), ravel(model)
    order = torch.arange(6).view(1, 3, 2).expand(2, -1, -1)
    rates = torch.linspace(0.01, 0.1, len(phi), dtype=phi.dtype)
    counted = dynamo.counters["stats"]["unique_graphs"]
    for inner, steps in (
        (adam(0.01), 0),
        (sgd(0.01).until(SwitchEvery(1)), 3),
        (sgd(rates), 3),
        (own(rates), 3),
    ):
        found, expected = (
            adapt(k, phi, support, order[:, :steps], inner) for k in (kernel, plain)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert dynamo.counters["stats"]["unique_graphs"] == counted


@pytest.mark.parametrize("written", ["buffers", "pure"])
def test_bf16_is_near_and_not_equal(written: str) -> None:
    where = layout(conv4(5))
    phi = ravel(conv4(5))
    x, y = pictures(2, 20, 5, 1, 28, seed=4)
    found = []
    for bf16 in (False, True):
        matrices, patches = to_matrices(phi, where), image_patches(x.float())
        if written == "pure":
            stacked = matrices.expand(2, -1)
            found.append(conv4_compiled.gradient(stacked, patches, y, where, bf16=bf16))
            continue
        space = workspace(where, 2, 20, x.shape[2:], phi, bf16)
        space.theta.copy_(matrices)
        values = gradient(space, patches, y)
        found.append((space.g.clone(), values))
    (exact, loss), (rounded, rounded_loss) = found
    assert 0 < (rounded - exact).norm() < 0.3 * exact.norm()
    torch.testing.assert_close(rounded_loss, loss, rtol=0.05, atol=0)


def test_it_is_for_conv4_with_cross_entropy_alone() -> None:
    def applies(model: nn.Module, criterion: textbook.Criterion) -> bool:
        return conv4_kernel(model, criterion, of_model(model, criterion)) is not None

    assert applies(conv4(5), F.cross_entropy)
    assert applies(conv4(5), partial(F.cross_entropy, reduction="sum"))
    assert not applies(conv4(5), partial(F.cross_entropy, reduction="none"))
    assert not applies(conv4(5), partial(F.cross_entropy, label_smoothing=0.1))
    assert not applies(conv4(5), F.mse_loss)
    assert not applies(torch.nn.Linear(2, 2), F.cross_entropy)


def test_a_head_for_oblong_images_is_left_to_autograd() -> None:
    model = conv4(3, size=16).double()  # its head is for 1x1 pixels
    assert isinstance(model, Conv4)
    model.out = nn.Linear(2 * 64, 3).double()  # ... this one for 2x1
    kernel = make_kernel(model, F.cross_entropy, device=CPU)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 4, 1, 32, 16, generator=g, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0]).expand(2, -1)
    theta = ravel(model).expand(2, -1)
    g_found, losses = kernel.gradient(kernel.pack(theta), Batch(x, y))
    for i in range(2):
        expected, loss = textbook.gradient(model, F.cross_entropy, x[i], y[i])
        torch.testing.assert_close(kernel.unpack(g_found)[i], expected)
        torch.testing.assert_close(losses[i], loss)
