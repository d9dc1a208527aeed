"""The networks for pictures, by name."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from reptile_lib.models.conv4 import conv4
from reptile_lib.models.conv4_pool import conv4_pool

NETS: Mapping[str, Callable[..., nn.Module]] = {
    "conv4": conv4,
    "conv4_32": partial(conv4, filters=32),
    "conv4_pool": conv4_pool,
}
"""net(ways, channels, size, seed) -> a module."""
