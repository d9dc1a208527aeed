"""The order in which Conv4's parameters stand as matrices, and back."""

import torch
from torch import Tensor

from reptile_lib.models.conv4 import WIDTH
from reptile_lib.params import Layout


def _as_matrix(name: str, shape: torch.Size) -> tuple[torch.Size, tuple[int, ...]]:
    """Return the shape to view a parameter in and the order to put its axes into."""
    if len(shape) == 4:  # a filter [64, C, 3, 3] becomes [3, 3, C, 64]
        return shape, (2, 3, 1, 0)
    if name == "out.weight":  # [ways, 64·h·h] becomes [ways, h, h, 64]
        side = round((shape[1] / WIDTH) ** 0.5)
        return torch.Size((shape[0], WIDTH, side, side)), (0, 2, 3, 1)
    return shape, tuple(range(len(shape)))


def to_matrices(vector: Tensor, where: Layout) -> Tensor:
    """Reorder vectors [..., P] in Conv4's layout for the products below."""
    return _reorder(vector, where, back=False)


def to_vector(matrices: Tensor, where: Layout) -> Tensor:
    """Undo `to_matrices`."""
    return _reorder(matrices, where, back=True)


def _reorder(vector: Tensor, where: Layout, back: bool) -> Tensor:
    parts, lead = [], vector.shape[:-1]
    named = zip(
        where.names, where.shapes, torch.split(vector, where.sizes, -1), strict=True
    )
    for name, shape, part in named:
        shape, axes = _as_matrix(name, shape)
        if back:
            shape = torch.Size([shape[axis] for axis in axes])
            axes = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        order = (*range(len(lead)), *(len(lead) + axis for axis in axes))
        parts.append(part.reshape(*lead, *shape).permute(order).flatten(len(lead)))
    return torch.cat(parts, -1)
