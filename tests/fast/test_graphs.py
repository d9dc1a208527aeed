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
    train,
)
from reptile_lib.train import MetaLearner

METHODS = {"Reptile": Reptile, "FOMAML": FOMAML, "MAML": MAML, "Joint": Joint}


def fitted(method: Any, moments: str, meta_steps: int = 7) -> MetaLearner:
    learner: MetaLearner = method(
        mlp(1, 8, 1), adam(0.01), 3, 4, criterion=F.mse_loss, device="cpu"
    )
    learner.moments = moments  # type: ignore[assignment]
    learner.fit(
        Sine(7, 11), meta_steps=meta_steps, meta_batch=5, epsilon=linear(0.1, 0)
    )
    return learner


@pytest.mark.parametrize("chunk", [256, 3])  # 3: parts of 3 and of 2 tasks
@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_replayed_steps_are_the_plain_ones(
    method: Any, moments: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_step, "CHUNK", chunk)
    plain = fitted(method, moments)
    monkeypatch.setattr(train, "CAPTURED", {"cpu"})
    replayed = fitted(method, moments)
    assert torch.equal(plain.phi, replayed.phi)
    assert plain.history[-1]["loss"] == replayed.history[-1]["loss"]
    for name, value in (plain.inner_state or {}).items():
        assert torch.equal(value, (replayed.inner_state or {})[name])


def test_cuda_devices_are_captured() -> None:
    assert {"cuda"} == train.CAPTURED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_graph_finds_the_phi_of_the_cpu(method: Any) -> None:
    expected = fitted(method, "carry")
    learner: MetaLearner = method(
        mlp(1, 8, 1), adam(0.01), 3, 4, criterion=F.mse_loss, device="cuda"
    )
    learner.fit(Sine(7, 11), meta_steps=7, meta_batch=5, epsilon=linear(0.1, 0))
    torch.testing.assert_close(learner.phi.cpu(), expected.phi, rtol=0, atol=1e-5)
