"""A model's parameters as one vector, the paper's φ.

Reptile is arithmetic on whole parameter sets: φ + ε(φ̃ − φ). Kept as one flat tensor
[P], that line, the mean over tasks [n, P] → [P] and the inner optimisers are each a few
tensor operations, however many layers the model has. A `Layout` turns the vector back
into the model's named tensors.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from reptile_lib.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where each named parameter lies in the vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes]


def layout(model: nn.Module) -> Layout:
    """Return the layout of `model`'s parameters, in the model's own order."""
    named = dict(model.named_parameters())
    return Layout(tuple(named), tuple(p.shape for p in named.values()))


def ravel(model: nn.Module) -> Tensor:
    """Copy `model`'s parameters into one vector [P].

    Raises:
        UserError: the model has no parameters, or they differ in dtype or device.
    """
    parameters = [p.detach() for p in model.parameters()]
    if not parameters:
        raise UserError("the model has no parameters; there is nothing to learn")
    for p, q in pairwise(parameters):
        if (p.dtype, p.device) != (q.dtype, q.device):
            raise UserError(
                f"the model mixes {p.dtype} on {p.device} with {q.dtype} on {q.device};"
                " give all parameters one dtype and one device"
            )
    return torch.cat([p.flatten() for p in parameters])


def unravel(phi: Tensor, layout: Layout) -> dict[str, Tensor]:
    """View the vector `phi` [P] as the named tensors of `layout`; differentiable.

    Raises:
        UserError: `phi` does not hold as many entries as the layout.
    """
    if phi.shape != (total := sum(layout.sizes),):
        raise UserError(
            f"the parameter vector has shape {list(phi.shape)}, the model needs"
            f" [{total}]; use the model that the vector was made from"
        )
    parts = torch.split(phi, layout.sizes)
    return {
        name: part.view(shape)
        for name, part, shape in zip(layout.names, parts, layout.shapes, strict=True)
    }


def interpolate(phi: Tensor, target: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return φ + ε(target − φ), the outer step of Reptile (Nichol et al., algorithm 1).

    ε = 0 gives `phi` and ε = 1 gives `target`, both exactly. A tensor ε must broadcast
    with φ: [P] for one a weight, [runs, 1] for one a run.
    """
    weight = epsilon.to(phi) if isinstance(epsilon, Tensor) else epsilon
    return torch.lerp(phi, target, weight)
