"""The paper's network for Mini-ImageNet, drawn from a seed of its own."""

from torch import Tensor, nn
from torch.nn import functional as F

from reptile_lib.models.conv4 import check_norm, drawn

WIDTH = 32  # filters a layer


def conv4_pool(
    ways: int, channels: int = 3, size: int = 84, seed: int = 0
) -> nn.Module:
    """Build the paper's network for colour images [B, channels, size, size].

    It starts as the authors' TensorFlow layers do: Glorot-uniform weights, zero biases.

    >>> import torch
    >>> conv4_pool(ways=5, size=32)(torch.zeros(10, 3, 32, 32)).shape
    torch.Size([10, 5])
    >>> [sum(p.numel() for p in conv4_pool(5, size=s).parameters()) for s in (84, 32)]
    [34661, 29541]

    Raises:
        UserError: a number is below 1.
    """
    sizes = {"ways": ways, "channels": channels, "size": size}
    return drawn("conv4_pool", Conv4Pool, sizes, seed)


class Conv4Pool(nn.Module):
    """Four times [3x3 convolution, 32 filters; 2x2 max-pool; batch norm; ReLU]; linear.

    In the order of the Reptile authors' code (openai/supervised-reptile,
    `MiniImageNetModel`). Pooling is TensorFlow's "same": an odd side's last row or
    column is pooled alone. Batch norm always uses the statistics of the batch at hand;
    its eps is TensorFlow's 1e-3.
    """

    def __init__(self, ways: int, channels: int, size: int) -> None:
        super().__init__()
        inputs = (channels, WIDTH, WIDTH, WIDTH)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(c, WIDTH, 3, padding=1) for c in inputs
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(WIDTH, eps=1e-3, track_running_stats=False) for _ in inputs
        )
        for _ in inputs:
            size = -(-size // 2)
        self.out = nn.Linear(WIDTH * size * size, ways)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, channels, size, size] to logits [B, ways]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            z = F.max_pool2d(convolution(x), 2, ceil_mode=True)
            if not norm.track_running_stats:  # else a support set's, see `frozen`
                check_norm(z.shape[-4] * z.shape[-2] * z.shape[-1])
            x = F.relu(norm(z))
        logits: Tensor = self.out(x.flatten(1))
        return logits
