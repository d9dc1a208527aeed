"""The engine of the figures, `_static/reptile.js`, against the library and PyTorch."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib import Batch, InnerOptimizer, Reptile, Sine, adam, adapt, linear, mlp
from reptile_lib.inner import mean_state
from reptile_lib.kernel import of_model
from reptile_lib.models.conv4 import conv4
from reptile_lib.models.frozen import frozen
from reptile_lib.optimizers.formulas import sgd
from reptile_lib.params import interpolate, layout, ravel
from reptile_lib.rng import TRAIN, draws
from reptile_lib.tasks import minibatches
from tests import textbook
from tests.javascript.node import STATIC, needs_node, run, tensor

pytestmark = [needs_node, pytest.mark.slow]

TYPES = {torch.float32: "Float32Array", torch.float64: "Float64Array"}

# `given` as the engine wants it.
READ = """
const vector = (numbers) => new globalThis[given.type](numbers.flat(Infinity));
const network = Reptile[given.model[0]](...given.model.slice(1));
const loss = Reptile[given.loss];
const task = ({ x, y }) =>
  ({ x: vector(x), y: loss === Reptile.crossEntropy ? y : vector(y), count: y.length });
"""


@dataclass(frozen=True, eq=False)
class Problem:
    """A network here and there, and examples for it."""

    model: nn.Module
    js: list[Any]
    x: Tensor
    """[n, S, ...]: n tasks."""
    y: Tensor
    """[n, S, ...]"""

    @property
    def criterion(self) -> textbook.Criterion:
        return F.mse_loss if self.y.is_floating_point() else F.cross_entropy

    @property
    def given(self) -> dict[str, Any]:
        loss = "squaredError" if self.y.is_floating_point() else "crossEntropy"
        kind = TYPES[self.phi.dtype]
        tasks = [{"x": x, "y": y} for x, y in zip(self.x, self.y, strict=True)]
        return {
            "model": self.js,
            "loss": loss,
            "type": kind,
            "phi": self.phi,
            "tasks": tasks,
        }

    @property
    def phi(self) -> Tensor:
        return ravel(self.model)

    def apart(self, numbers: list[float], theta: Tensor) -> float:
        """Return the largest difference, but for the biases that `told` leaves out."""
        return (tensor(numbers, theta) - theta)[self.told].abs().max().item()

    @property
    def told(self) -> Tensor:
        """Mask the biases that batch norm takes out again, as `test_kernels` does."""
        where = layout(self.model)
        out = [n.startswith("convolutions") and "bias" in n for n in where.names]
        return ~torch.tensor(out).repeat_interleave(torch.tensor(where.sizes))


def dense(
    *sizes: int, activation: str = "relu", labels: bool = False, dtype: torch.dtype
) -> Problem:
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    model = mlp(*sizes, activation=kind, seed=len(sizes)).to(dtype)
    g = torch.Generator().manual_seed(sizes[0])
    x = torch.randn(2, 7, sizes[0], generator=g, dtype=torch.float64).to(dtype)
    if labels:
        y = torch.randint(sizes[-1], (2, 7), generator=g)
    else:
        y = torch.randn(2, 7, sizes[-1], generator=g, dtype=torch.float64).to(dtype)
    return Problem(model, ["mlp", list(sizes), activation], x, y)


def images(
    ways: int, channels: int, size: int, filters: int, *, dtype: torch.dtype
) -> Problem:
    model = conv4(ways, channels, size, seed=ways, filters=filters).to(dtype)
    g = torch.Generator().manual_seed(size)
    for name, p in model.named_parameters():
        if not name.startswith("convolutions"):  # scales and shifts of all kinds
            p.data += 0.1 * torch.randn(p.shape, generator=g, dtype=dtype)
    x = torch.rand(2, 2 * ways, channels, size, size, generator=g, dtype=dtype)
    y = torch.randint(ways, (2, 2 * ways), generator=g)
    options = {"channels": channels, "size": size, "filters": filters}
    return Problem(model, ["conv4", ways, options], x, y)


DENSE: dict[str, dict[str, Any]] = {
    "a line": {"sizes": (1, 1)},
    "the sine network": {"sizes": (1, 64, 64, 1), "activation": "tanh"},
    "odd sizes": {"sizes": (3, 5, 7, 2)},
    "labels": {"sizes": (6, 9, 4), "labels": True},
    "deep, labels": {"sizes": (2, 8, 3, 8, 5), "activation": "tanh", "labels": True},
}
IMAGES = {
    "one channel, 28": (5, 1, 28, 8),
    "odd side": (3, 1, 13, 6),
    "three channels": (4, 3, 20, 5),
    "one pixel is left": (2, 2, 9, 7),
}
BOTH = pytest.mark.parametrize("dtype", TYPES, ids=str)


def made(name: str, dtype: torch.dtype) -> Problem:
    if name in DENSE:
        how = dict(DENSE[name])
        return dense(*how.pop("sizes"), **how, dtype=dtype)
    return images(*IMAGES[name], dtype=dtype)


@BOTH
@pytest.mark.parametrize("name", [*DENSE, *IMAGES])
def test_outputs_loss_and_gradient_are_pytorchs(name: str, dtype: torch.dtype) -> None:
    problem = made(name, dtype)
    found = run(
        READ
        + """
        const phi = vector(given.phi), batch = task(given.tasks[0]);
        const { loss: value, g } = Reptile.gradient(network, phi, batch, loss);
        return { size: network.size, value, g: g.slice(0, network.size),
                 same: Reptile.lossOf(network, phi, batch, loss),
                 outputs: Reptile.outputs(network, phi, batch.x, batch.count) };
        """,
        **problem.given,
    )
    x, y, model = problem.x[0], problem.y[0], problem.model
    g, loss = textbook.gradient(model, problem.criterion, x, y)
    assert found["size"] == len(problem.phi)
    near = 1e-5 if dtype == torch.float32 else 1e-11
    outputs = model(x).detach()
    torch.testing.assert_close(
        tensor(found["outputs"], outputs), outputs.flatten(), rtol=near, atol=near
    )
    torch.testing.assert_close(tensor(found["value"], loss), loss, rtol=near, atol=near)
    assert found["same"] == found["value"]
    torch.testing.assert_close(tensor(found["g"], g), g, rtol=near, atol=near)


# The library's optimisers, and the engine's
OPTIMIZERS: dict[str, tuple[InnerOptimizer, list[Any]]] = {
    "sgd": (sgd(0.05), ["sgd", 0.05]),
    "adam, beta1 = 0": (adam(1e-3), ["adam", 1e-3]),
    "adam": (
        adam(2e-3, (0.9, 0.99), 1e-6),
        ["adam", 2e-3, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-6}],
    ),
}

# The tasks one after the other: each begins at phi, and with the moments that the one
# before left if they are carried.
SERIAL = (
    READ
    + """
    const phi = vector(given.phi);
    const runs = given.ways.map(([[name, ...settings], carry]) => {
      const optimizer = Reptile[name](...settings);
      let state;
      const each = given.tasks.map((one, i) => {
        const order = given.order[i], how = { optimizer, loss, order, state };
        const found = Reptile.innerLoop(network, phi, task(one), how);
        if (carry) state = found.state;
        return found;
      });
      const thetas = each.map((found) => found.theta);
      return { each, moved: Reptile.outerStep(phi, thetas, 0.3) };
    });
    return { runs, phi };
    """
)


@BOTH
@pytest.mark.parametrize("name", [*DENSE, *IMAGES])
def test_inner_and_outer_steps_are_the_librarys(name: str, dtype: torch.dtype) -> None:
    problem, steps = made(name, dtype), 5
    g = torch.Generator().manual_seed(steps)
    scores = torch.rand(len(problem.y), steps, problem.y.shape[1], generator=g)
    order = scores.argsort(-1)[..., :4]
    ways = [(each, carry) for each in OPTIMIZERS.values() for carry in (False, True)]
    sent = [(how, carry) for (_, how), carry in ways]
    found = run(SERIAL, **problem.given, order=order, ways=sent)
    assert tensor(found["phi"], problem.phi).equal(problem.phi), (
        "phi itself has changed"
    )

    near = 1e-10 if dtype == torch.float64 else 1e-4 if name in IMAGES else 1e-5
    kernel = of_model(problem.model, problem.criterion)
    for ((inner, _), carry), got in zip(ways, found["runs"], strict=True):
        state, thetas = None, []
        tasks = zip(problem.x, problem.y, order, got["each"], strict=True)
        for x, y, own_order, one in tasks:
            support = Batch(x[None], y[None])
            told = adapt(kernel, problem.phi, support, own_order[None], inner, state)
            state = mean_state(told.state) if carry else None
            thetas.append(told.theta[0])
            assert problem.apart(one["theta"], told.theta[0]) < near
            losses = tensor(one["losses"], told.losses)
            torch.testing.assert_close(losses, told.losses[0], rtol=near, atol=near)
        moved = interpolate(problem.phi, torch.stack(thetas).mean(0), 0.3)
        assert problem.apart(got["moved"], moved) < near
        assert problem.apart(got["moved"], problem.phi) > 10 * near, "nothing moved"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_papers_conv4_adapts_as_in_the_library(name: str) -> None:
    inner, how = OPTIMIZERS[name]
    problem = images(5, 1, 28, 64, dtype=torch.float32)
    learner = Reptile(problem.model, inner, 5, device="cpu")
    order = torch.arange(10).expand(1, 5, -1)
    support = Batch(problem.x[:1], problem.y[:1])
    told = adapt(learner.kernel, problem.phi, support, order, inner)
    found = run(
        READ
        + """
        const [name, ...settings] = given.how;
        const how = { optimizer: Reptile[name](...settings), loss, steps: 5 };
        return Reptile.innerLoop(network, vector(given.phi), task(given.tasks[0]), how);
        """,
        **problem.given,
        how=how,
    )
    losses = tensor(found["losses"], told.losses)
    torch.testing.assert_close(losses, told.losses[0], rtol=1e-4, atol=1e-4)
    assert losses[4] < losses[0] - 0.1
    off = (tensor(found["theta"], problem.phi) - told.theta[0]).abs()
    # The first step of Adam with beta1 = 0 has the length of the rate, whatever the
    # gradient; where that is nothing but rounding, its sign may differ.
    assert (off > 1e-4).sum() <= (0 if name == "sgd" else 20)
    biases = ~problem.told  # batch norm takes them out: they stay where they are
    assert tensor(found["theta"], problem.phi)[biases].equal(problem.phi[biases])


@BOTH
def test_queries_are_answered_in_three_ways(dtype: torch.dtype) -> None:
    problem = made("odd side", dtype)
    found = run(
        READ
        + """
        const [support, query] = given.tasks.map(task), phi = vector(given.phi);
        return ["together", "beside", "kept", "together"].map((way) =>
          Reptile.answers(network, phi, support, query, way));
        """,
        **problem.given,
    )
    (support, query), model = problem.x, problem.model
    together = model(query)
    alone = torch.cat([model(torch.cat([support, q[None]]))[-1:] for q in query])
    kept = frozen(model, problem.phi, support)(query)
    near = 1e-5 if dtype == torch.float32 else 1e-10
    told = [together, alone, kept, together]
    for got, wanted in zip(found, told, strict=True):
        wanted = wanted.detach().flatten()
        torch.testing.assert_close(tensor(got, wanted), wanted, rtol=near, atol=near)
    for one, other in ((together, alone), (together, kept), (alone, kept)):
        assert (one - other).abs().max() > 0.01


def test_kept_statistics_make_the_librarys_predictor() -> None:
    problem = images(3, 1, 28, 32, dtype=torch.float64)
    learner = Reptile(problem.model, adam(4e-3), 5, moments="reset", device="cpu")
    support, query = Batch(problem.x[0, :3], torch.arange(3)), problem.x[1]
    told = learner.predictor(support, inner_steps=50, inner_batch=3)(query)
    found = run(
        READ
        + """
        const phi = vector(given.phi), [{ x, y }, { x: query }] = given.tasks;
        const support = task({ x: x.slice(0, 3), y: [0, 1, 2] });
        const how = { optimizer: Reptile.adam(4e-3), loss, steps: 50 };
        const { theta } = Reptile.innerLoop(network, phi, support, how);
        const ask = (queries) => {
          const asked = { x: vector(queries), count: queries.length };
          return Array.from(Reptile.answers(network, theta, support, asked, "kept"));
        };
        return [ask(query), query.flatMap((one) => ask([one]))];
        """,
        **problem.given,
    )
    for got in found:  # each alone is answered as it is among others
        together = tensor(got, told).reshape(told.shape)
        torch.testing.assert_close(together, told, rtol=1e-6, atol=1e-6)


def test_training_ends_where_the_librarys_does() -> None:
    model = mlp(1, 16, 16, 1, activation=nn.Tanh)
    learner = Reptile(
        model, adam(0.01), 4, inner_batch=5, criterion=F.mse_loss, device="cpu"
    )
    before, meta_steps = learner.phi.clone(), 6
    tasks = Sine(points=20)
    learner.fit(tasks, meta_steps=meta_steps, epsilon=linear(1.0, 0.0), seed=3)
    who = draws(3, TRAIN, range(meta_steps), range(1), torch.device("cpu"))
    support, _, order = minibatches(tasks.sample(who), who, 4, 5)
    found = run(
        """
        const network = Reptile.mlp([1, 16, 16, 1], "tanh");
        const optimizer = Reptile.adam(0.01), loss = Reptile.squaredError;
        let phi = new Float32Array(given.phi), state;
        given.x.forEach((x, i) => {
          const task = { x: x.flat(), y: given.y[i].flat(), count: x.length };
          const how = { optimizer, loss, order: given.order[i], state };
          const adapted = Reptile.innerLoop(network, phi, task, how);
          phi = Reptile.outerStep(phi, [adapted.theta], 1 - i / given.x.length);
          state = adapted.state;
        });
        return phi;
        """,
        phi=before,
        x=support.x,
        y=support.y,
        order=order,
    )
    torch.testing.assert_close(tensor(found, before), learner.phi, rtol=0, atol=1e-5)
    assert (learner.phi - before).abs().max() > 0.01


def test_watch_sees_every_step() -> None:
    problem = made("the sine network", torch.float64)
    found = run(
        READ
        + """
        const seen = [], one = task(given.tasks[0]), phi = vector(given.phi);
        const optimizer = Reptile.sgd(0.02);
        const watch = (step, theta) =>
          seen.push([step, Reptile.lossOf(network, theta, one, loss)]);
        const { losses } = Reptile.innerLoop(
          network, phi, one, { optimizer, loss, steps: 3, watch });
        return { seen, losses };
        """,
        **problem.given,
    )
    steps, losses = zip(*found["seen"], strict=True)
    assert steps == (0, 1, 2, 3)
    assert list(losses[:3]) == found["losses"]
    assert losses[3] < losses[0]


def test_the_source_makes_an_engine_where_there_is_nothing_else() -> None:
    found = run(
        """
        const self = {};
        const context = require("vm").createContext({ self, Float32Array });
        require("vm").runInContext(Reptile.source, context);
        const { mlp, outputs } = self.Reptile, network = mlp([1, 1]);
        const theta = new Float32Array([2, 1]);
        return [Object.keys(self.Reptile), Array.from(outputs(network, theta, [3], 1)),
                Object.keys(Reptile)];
        """
    )
    names, answer, ours = found
    assert names == ours
    assert answer == [7.0]


def test_the_engine_is_short_and_asks_for_nothing() -> None:
    text = (STATIC / "reptile.js").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for name in ("document", "window", "fetch", "import ", "require("):
        assert name not in text
