"""Multi-layer perceptrons, each drawn from a seed of its own."""

from itertools import pairwise

import torch
from torch import nn

from reptile_lib.errors import UserError


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Module:
    """Build a multi-layer perceptron; mlp(1, 64, 64, 1) is the paper's sine network.

    >>> mlp(1, 64, 64, 1)(torch.zeros(10, 1)).shape
    torch.Size([10, 1])
    >>> sum(p.numel() for p in mlp(1, 64, 64, 1).parameters())
    4353

    Raises:
        UserError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise UserError(f"mlp{sizes}: give at least an input and an output size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])
