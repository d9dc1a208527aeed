"""What page 4.2 reads from records and measures of steps."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from reptile_book.memory import (
    KINDS,
    PLACES,
    RESULTS,
    accuracies,
    at_own_rates,
    shown,
    step_lengths,
    table,
    untrained,
)
from reptile_lib import Batch, Reptile, Sine, adam, constant, draw, mlp


def test_accuracies_are_those_of_the_files() -> None:
    file = RESULTS / "omniglot-5way-reset-short" / "seed-1.json"
    record = json.loads(file.read_text("utf-8"))
    keys = "metrics", "metrics_switched_moments"
    for testing, key in zip(KINDS, keys, strict=True):
        for protocol in ("transductive", "non_transductive"):
            expected = record[key]["5-shot"][protocol]["accuracy"]
            found = accuracies("omniglot", 5, "reset", testing, protocol)
            assert found[1] == pytest.approx(100 * expected)
            assert len(found) == 3
    assert accuracies("glyphs", 1, "carry", "carry") != accuracies(
        "glyphs", 1, "carry", "reset"
    )
    assert len(untrained("omniglot", 1)) == 3


def test_the_table_holds_chance_and_every_combination() -> None:
    rows = table()
    assert [row[:2] for row in rows] == [
        ["chance", "–"],
        ["untrained", "fresh"],
        ["fresh", "fresh"],
        ["fresh", "carried"],
        ["carried", "fresh"],
        ["carried", "carried"],
    ]
    assert {len(row) for row in rows} == {2 + len(PLACES)}
    assert rows[-1][2] == shown(accuracies("omniglot", 1, "carry", "carry"))


def test_own_rates_are_those_of_the_files(tmp_path: Path) -> None:
    for name, alpha in (("carry", 0.008), ("carry-zeroed", 0.004), ("reset", 0.002)):
        (tmp_path / f"glyphs-{name}.json").write_text(json.dumps({"alpha": alpha}))
    for name, accuracy in (("carry-0", 0.5), ("carry-1", 0.25), ("carry-zeroed-0", 1)):
        score = {"1-shot": {"transductive": {"accuracy": accuracy}}}
        (tmp_path / f"glyphs-{name}.json").write_text(json.dumps({"metrics": score}))
    found = at_own_rates("glyphs", tmp_path)
    assert found == {"carry": (0.008, [50, 25]), "carry-zeroed": (0.004, [100])}
    assert at_own_rates("omniglot", tmp_path) == {}


def test_a_spread_needs_two_seeds() -> None:
    assert shown([50.04]) == "50.0"
    assert shown([49.0, 51.0]) == "50.0 ± 1.4"


def test_lengths_are_those_of_plain_torch() -> None:
    tasks, steps = Sine(points=6), 4
    net = mlp(1, 5, 1, activation=nn.Tanh, seed=0).double()
    learner = Reptile(net, adam(0.01), steps, 3, criterion=F.mse_loss, device="cpu")
    learner.fit(tasks, meta_steps=3, meta_batch=2, epsilon=constant(0.5))
    waves = draw(tasks, 2, inner_steps=steps, inner_batch=3)
    waves = waves.map(lambda t: t.double() if t.is_floating_point() else t)
    for memory in KINDS:
        squares = torch.zeros(steps).double()
        for number in range(2):
            model = copy.deepcopy(learner.model)
            vector_to_parameters(learner.phi.clone(), model.parameters())
            optimizer = torch.optim.Adam(model.parameters(), 0.01, (0.0, 0.999))
            if memory == "carry":
                assert learner.inner_state is not None
                begin(optimizer, model, learner.inner_state)
            support = Batch(waves.support.x[number], waves.support.y[number])
            for i, rows in enumerate(waves.order[number]):
                before = parameters_to_vector(model.parameters()).detach()
                optimizer.zero_grad()
                F.mse_loss(model(support.x[rows]), support.y[rows]).backward()
                optimizer.step()
                after = parameters_to_vector(model.parameters()).detach()
                squares[i] += ((after - before) / 0.01).square().mean() / 2
        found = step_lengths(learner, waves, memory)
        assert found == pytest.approx(squares.sqrt().tolist(), rel=1e-6)


def begin(
    optimizer: torch.optim.Adam, model: nn.Module, memory: dict[str, torch.Tensor]
) -> None:
    """Give PyTorch's Adam the memory that a training of the library left."""
    at = 0
    for weight in model.parameters():
        size = weight.numel()
        optimizer.state[weight] = {
            "step": memory["step"].float().clone(),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": memory["v"][at : at + size].view_as(weight).clone(),
        }
        at += size
