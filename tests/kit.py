"""What several tests need."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from reptile_book import weights
from reptile_lib import MetaLearner, Reptile, mlp, sgd
from reptile_lib.examples import Inputs
from reptile_lib.rng import TRAIN, Draws, draws

CPU = torch.device("cpu")


def one(x: Inputs) -> Tensor:
    """Return inputs that are a single tensor."""
    assert isinstance(x, Tensor)
    return x


def tensors(tree: Any) -> list[Tensor]:
    """Return all tensors of a batch, of episodes, or of a state, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def many(count: int, seed: int = 0) -> Draws:
    """Return the draws of a training task in each of `count` meta-steps."""
    return draws(seed, TRAIN, range(count), range(1), CPU)


def start_of_the_figure(name: str) -> MetaLearner:
    """Return a learner at a start of the figure of 1.2, in float64 as it computes."""
    stored = weights.read("sine")
    network = mlp(*stored["sizes"], activation=nn.Tanh).double()
    learner = Reptile(network, sgd(0.1), 1, criterion=F.mse_loss, device="cpu")
    phi = weights.decoded(stored["starts"][name]).double()
    learner.state = learner.state._replace(phi=phi)
    return learner
