"""What an inner step is on paper: products of matrices, and calls that do not grow."""

from pathlib import Path

import torch

from benchmarks import step
from benchmarks.limit import conv4_flops


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


def test_the_plan_has_the_numbers_of_the_command() -> None:
    plan = (Path(step.__file__).parent / "gpu-plan.md").read_text("utf-8")
    flops = 5 * conv4_flops(step.BATCH, step.WAYS)
    cost = step.inner_step(5)
    calls, moved = sum(cost.calls.values()), cost.bytes
    least = flops / step.FLOPS * 1e6, moved / step.BYTES * 1e6
    row = f"| 5 | {flops / 1e9:.2f} | {least[0]:.1f} | {moved / 1e6:.0f}"
    assert f"{row} | {least[1]:.0f} | {calls} |" in plan
    drawing = {sum(step.drawing(tasks).calls.values()) for tasks in (5, 255)}
    (each_time,) = drawing  # as many calls, whatever the tasks
    assert f"Drawing is {each_time} calls, for 5 tasks as for 255" in plan
    parts = [
        line.split("|")[2]
        for line in plan.split("| part |")[1].split("\n")[2:]
        if line.startswith("|")
    ]
    *each, whole = (int(part) for part in parts)
    assert sum(each) == whole == calls
