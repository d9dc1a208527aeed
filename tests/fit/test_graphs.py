"""Meta-steps on fixed buffers: the same result as without, whatever the shapes.

Whether graphs find the same φ on a GPU is among the checks of `benchmarks.gpu`.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from reptile_lib import (
    FOMAML,
    MAML,
    Joint,
    MetaLearner,
    Reptile,
    Sine,
    adam,
    linear,
    mlp,
)
from reptile_lib.fit.graphs import captured
from reptile_lib.fit.side_by_side import fit_side_by_side
from reptile_lib.inner import Moments
from reptile_lib.meta import reptile

METHODS: dict[str, Callable[..., MetaLearner]] = {
    "Reptile": Reptile,
    "FOMAML": FOMAML,
    "MAML": MAML,
    "Joint": Joint,
}


def fitted(
    method: str, moments: Moments, replayed: bool = False, **settings: Any
) -> MetaLearner:
    given = {"criterion": F.mse_loss, "device": "cpu", "moments": moments} | settings
    learner = METHODS[method](mlp(1, 8, 1), adam(0.01), 3, 4, **given)
    if replayed:  # on a CPU without a graph, but on the graph's buffers
        learner.rule = captured(learner.rule)
    learner.fit(Sine(7, 11), meta_steps=7, meta_batch=5, epsilon=linear(0.1, 0))
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [256, 3])  # 3: parts of 3 and of 2 tasks
@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("method", METHODS)
def test_replayed_steps_are_the_plain_ones(
    method: str, moments: Moments, at_once: int
) -> None:
    plain, replayed = (
        fitted(method, moments, way, at_once=at_once) for way in (False, True)
    )
    assert torch.equal(plain.phi, replayed.phi)
    assert plain.history[-1]["loss"] == replayed.history[-1]["loss"]
    for name, value in (plain.inner_state or {}).items():
        assert torch.equal(value, (replayed.inner_state or {})[name])


def test_replayed_runs_side_by_side_are_the_plain_ones() -> None:
    plain, replayed = (
        [
            MetaLearner(
                mlp(1, 8, 1), adam(lr), 3, 4, rule, criterion=F.mse_loss, device="cpu"
            )
            for lr in (0.01, 0.02)
        ]
        for rule in (reptile, captured(reptile))
    )
    for runs in (plain, replayed):
        fit_side_by_side(
            runs, [Sine(7, 11)] * 2, (0, 1), meta_steps=7, epsilon=linear(0.1, 0)
        )
    for one, other in zip(plain, replayed, strict=True):
        assert torch.equal(one.phi, other.phi)
