"""Meta-steps on fixed buffers: the same result as without, whatever the shapes."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from reptile_lib import (
    FOMAML,
    MAML,
    Joint,
    Reptile,
    Sine,
    adam,
    linear,
    meta_step,
    mlp,
)
from reptile_lib.train import MetaLearner

METHODS = {"Reptile": Reptile, "FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}


def fitted(method: Any, moments: str, **how: Any) -> MetaLearner:
    settings = {"criterion": F.mse_loss, "device": "cpu", "moments": moments} | how
    learner: MetaLearner = method(mlp(1, 8, 1), adam(0.01), 3, 4, **settings)
    learner.fit(Sine(7, 11), meta_steps=7, meta_batch=5, epsilon=linear(0.1, 0))
    return learner


@pytest.mark.parametrize("chunk", [256, 3])  # 3: parts of 3 and of 2 tasks
@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_replayed_steps_are_the_plain_ones(
    method: Any, moments: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_step, "CHUNK", chunk)
    plain = fitted(method, moments)
    replayed = fitted(method, moments, graphs=True)
    assert torch.equal(plain.phi, replayed.phi)
    assert plain.history[-1]["loss"] == replayed.history[-1]["loss"]
    for name, value in (plain.inner_state or {}).items():
        assert torch.equal(value, (replayed.inner_state or {})[name])


def test_graphs_are_for_cuda_unless_asked_for() -> None:
    assert fitted(Reptile, "carry").graphs is False
    assert fitted(Reptile, "carry", graphs=True).graphs is True
