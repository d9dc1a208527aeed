"""The arithmetic that Conv4 needs, and how fast the machine multiplies matrices."""

import time

import torch

from benchmarks.timing import synchronize


def conv4_flops(
    batch: int, ways: int, channels: int = 1, size: int = 28, width: int = 64
) -> int:
    """Count the floating-point operations of one inner step of one task.

    Only products of matrices are counted, an addition and a multiplication as two:
    forward, gradient by the weights, and gradient by the inputs, which the first layer
    does not need. Batch norm, ReLU and the optimiser come on top.

    Args:
        batch: images an inner step.
        ways: classes.
        channels: of the images.
        size: pixels a side.
        width: filters a layer.
    """
    total, inputs = 0, channels
    for layer in range(4):
        size = -(-size // 2)
        forward = 2 * batch * size**2 * 9 * inputs * width
        total += forward * (2 if layer == 0 else 3)
        inputs = width
    return total + 3 * 2 * batch * width * size**2 * ways


def product_flops(size: int) -> int:
    """Count the operations of one product of two square matrices of `size` rows."""
    return 2 * size**3


class Product:
    """Products of two matrices [size, size], on all cores."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.a, self.b, self.out = (
            torch.rand(size, size, device=device) for _ in range(3)
        )

    def __call__(self, count: int) -> float:
        """Multiply `count` times; return the seconds."""
        synchronize(self.a.device)
        began = time.perf_counter()
        for _ in range(count):
            torch.mm(self.a, self.b, out=self.out)
        synchronize(self.a.device)
        return time.perf_counter() - began
