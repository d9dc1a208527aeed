"""The paper's network for Omniglot, drawn from a seed of its own."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.errors import UserError


def conv4(
    ways: int, channels: int = 1, size: int = 28, seed: int = 0, *, filters: int = 64
) -> nn.Module:
    """Build the paper's Omniglot network for images [B, channels, size, size].

    It has 64 `filters` per layer. It starts as the authors' TensorFlow layers do:
    Glorot-uniform weights, zero biases.

    >>> conv4(ways=5)(torch.zeros(10, 1, 28, 28)).shape
    torch.Size([10, 5])
    >>> sum(p.numel() for p in conv4(ways=5).parameters())
    113221

    Raises:
        UserError: a number is below 1.
    """
    sizes = {"ways": ways, "channels": channels, "size": size, "filters": filters}
    return drawn("conv4", Conv4, sizes, seed)


def drawn(
    net: str, make: Callable[..., nn.Module], sizes: Mapping[str, int], seed: int
) -> nn.Module:
    """Make a network; weights are Glorot-uniform, biases zero, as TensorFlow's are.

    Raises:
        UserError: one of its sizes is below 1.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{net}: {name} = {value}; give at least 1")
    with torch.random.fork_rng(devices=[]):  # the layers' own start is replaced below
        model = make(**sizes)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:  # not the scale of a batch norm, which stays 1
            nn.init.xavier_uniform_(parameter, generator=generator)
    return model


class Conv4(nn.Module):
    """Four times [3x3 convolution, stride 2; batch norm; ReLU]; linear.

    As in the Reptile authors' code: 113,221 parameters for 5 ways on 28x28, with 64
    filters per layer.
    Batch norm always uses the statistics of the batch at hand, so it has no running
    averages; its eps is TensorFlow's 1e-3.
    """

    def __init__(self, ways: int, channels: int, size: int, filters: int) -> None:
        super().__init__()
        inputs = (channels, filters, filters, filters)
        self.convolutions = nn.ModuleList(nn.Conv2d(c, filters, 3, 2) for c in inputs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(filters, eps=1e-3, track_running_stats=False) for _ in inputs
        )
        for _ in inputs:
            size = -(-size // 2)
        self.out = nn.Linear(filters * size * size, ways)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, ways]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            z = convolution(pad_same(x))
            if not norm.track_running_stats:  # else a support set's, see `frozen`
                check_norm(z.shape[-4] * z.shape[-2] * z.shape[-1])
            x = F.relu(norm(z))
        logits: Tensor = self.out(x.flatten(1))
        return logits


def check_norm(values: int) -> None:
    """Raise UserError where batch norm has one value a channel: it becomes zero."""
    if values == 1:
        raise UserError(
            "batch norm has a single value to normalise, one image of one pixel, and"
            " would make it zero; give larger images or inner_batch of at least 2"
        )


def padding(side: int) -> tuple[int, int]:
    """Return the pixels that TensorFlow's "same" adds before and behind a side.

    An odd one gets a pixel at each end; an even one only behind, where torch's
    `padding=1` would pad before as well and shift the result.
    """
    return (0, 1) if side % 2 == 0 else (1, 1)


def pad_same(x: Tensor) -> Tensor:
    """Pad x [B, C, H, W] for a 3x3 convolution of stride 2 as TensorFlow's "same"."""
    height, width = map(padding, x.shape[-2:])
    return F.pad(x, width + height)
