"""What several tests need."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

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
