"""Settings of torch and of the C library that inner loops run under."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""How matrices are multiplied; parameters and optimisers keep their own precision.

"tf32" rounds the factors to 10 bits of mantissa (CUDA only); "bf16" rounds factors and
products to 7. Where no gradient is written out, bf16 is torch's autocast, which keeps
the activations between products in it as well.
"""


@contextmanager
def precise(precision: Precision) -> Iterator[None]:
    """Multiply float32 matrices in this precision, as long as it is open."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what it frees, instead of asking for it anew each time.

    glibc gives blocks larger than the largest it has seen freed (up to 32 MB) back to
    the system, and meets a page fault for each 4 kB when it asks again. The vectors
    that an optimiser makes in every step then cost more than their arithmetic. Freeing
    one large block once is enough; other C libraries do not mind.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
