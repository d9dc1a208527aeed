"""What the pages of chapter 8 give to every framework: a network, weights, tasks.

And what the library makes of them, three meta-steps later, to be compared with.
"""

import torch
from torch import nn

from reptile_lib import FewShotTasks, Reptile, constant, load, rng, sgd
from reptile_lib.frameworks.weights import Weights
from reptile_lib.params import layout, unravel
from reptile_lib.tasks import Episodes, minibatches

META_STEPS, TASKS, EPSILON = 3, 2, 0.5
INNER_STEPS, INNER_BATCH, RATE = 5, 10, 0.1


def net(seed: int = 0) -> nn.Sequential:
    """Return the network of the chapter in PyTorch, 225,034 random weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10)),
        )


def letters() -> FewShotTasks:
    """Return tasks of ten letters, two drawings of each to learn from."""
    return FewShotTasks(load("glyphs").train, ways=10, shots=2)


def tasks(seed: int = 0) -> list[Episodes]:
    """Return the tasks of each meta-step: those that `fit` draws, cut as it does."""
    cpu, found = torch.device("cpu"), []
    for step in range(META_STEPS):
        who = rng.draws(seed, rng.TRAIN, range(step, step + 1), range(TASKS), cpu)
        drawn = minibatches(letters().sample(who), who, INNER_STEPS, INNER_BATCH)
        found.append(drawn.for_model(torch.zeros(())))
    return found


def start(seed: int = 0) -> Weights:
    """Return the weights of `net` as arrays by name."""
    return {name: p.detach().numpy() for name, p in net(seed).named_parameters()}


def by_library(seed: int = 0) -> Weights:
    """Return φ after the meta-steps, found by the library."""
    model = net(seed)
    learner = Reptile(
        model, sgd(RATE), INNER_STEPS, inner_batch=INNER_BATCH, device="cpu"
    )
    learner.fit(
        letters(),
        meta_steps=META_STEPS,
        meta_batch=TASKS,
        epsilon=constant(EPSILON),
        seed=seed,
    )
    phi = unravel(learner.phi, layout(model))
    return {name: value.numpy() for name, value in phi.items()}


def apart(one: Weights, other: Weights) -> float:
    """Return the largest difference of a weight."""
    if one.keys() != other.keys():
        raise ValueError(f"{sorted(one)} are not {sorted(other)}")
    return max(float(abs(one[name] - other[name]).max()) for name in one)
