"""The network, tasks and φ of chapter 8: a loop of its own finds the library's φ."""

import pytest
from torch.nn import functional as F

from reptile_book import trial
from reptile_lib.frameworks import torch_loop


def test_the_network_has_the_weights_that_the_pages_count() -> None:
    weights = trial.start()
    assert sum(value.size for value in weights.values()) == 225_034
    assert trial.apart(weights, trial.start()) == 0  # whatever was drawn before
    assert trial.apart(weights, trial.start(seed=1)) > 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_its_tasks_are_those_of_fit(seed: int) -> None:
    net = trial.net(seed)
    task = torch_loop.adapt(net, F.cross_entropy, torch_loop.sgd(trial.RATE))
    phi = {name: p.detach() for name, p in net.named_parameters()}
    for (x, y), _, order in trial.tasks(seed):
        some = (x, y, order)
        phi, _, _ = torch_loop.meta_step(task, phi, {}, some, trial.EPSILON)
    found = {name: value.numpy() for name, value in phi.items()}
    expected = trial.by_library(seed)
    assert trial.apart(found, expected) < 1e-6
    assert trial.apart(trial.start(seed), expected) > 1e-3


def test_weights_of_other_names_are_not_compared() -> None:
    weights = trial.start()
    with pytest.raises(ValueError, match="are not"):
        trial.apart(weights, {"weight": weights["0.weight"]})
