"""What an inner step is on paper: products of matrices, and calls that do not grow."""

import torch

from benchmarks import step


def test_calls_and_bytes_of_known_operations() -> None:
    a, b = torch.rand(3, 4), torch.rand(4, 5)

    def act() -> None:
        torch.mm(a, b.mT.mT)  # views are free; 12 + 20 numbers read, 15 written
        a.add_(1.0)  # 12 read and written in place

    cost = step.counted(act)
    assert dict(cost.calls) == {"mm": 1, "add_": 1}
    assert cost.bytes == 4 * (12 + 20 + 15 + 12)


def test_a_step_has_its_products_whatever_the_tasks() -> None:
    few, many = step.inner_step(2), step.inner_step(4)
    assert few.calls == many.calls
    # four blocks: forward, by weights, by inputs but for the first; the last layer's
    assert few.calls["bmm"] + few.calls["baddbmm"] == 4 + 4 + 3 + 3
    assert few.calls["addcdiv_"] == 1  # Adam's step
    assert 1.9 < many.bytes / few.bytes <= 2.0
