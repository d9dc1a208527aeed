"""What several tests need."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from reptile_lib.examples import Inputs


def one(x: Inputs) -> Tensor:
    """Return inputs that are a single tensor."""
    assert isinstance(x, Tensor)
    return x


def tensors(tree: Any) -> list[Tensor]:
    """Return all tensors of a batch, of episodes, or of a state, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
