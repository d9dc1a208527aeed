"""Tasks that are groups of rows."""

from collections import Counter

import pytest
import torch

from reptile_lib import (
    GroupTasks,
    UserError,
    draw,
)
from tests.kit import many, one

GROUP = torch.tensor([7, 7, 3, 3, 3, 9, 7, 9, 9, 3, 7, 9, 9, 9, 3])  # 4, 5 and 6 rows


def group_tasks(shots: int = 2, query_shots: int = 1) -> GroupTasks:
    rows = torch.arange(len(GROUP))
    x = (rows, torch.stack([rows, GROUP], 1).float())
    return GroupTasks(x, rows.float()[:, None], GROUP, shots, query_shots)


def test_a_task_is_rows_of_one_group() -> None:
    support, query, _ = group_tasks(shots=2, query_shots=2).sample(many(3000))
    groups: Counter[int] = Counter()
    used: Counter[int] = Counter()
    assert isinstance(support.x, tuple)
    assert isinstance(query.x, tuple)
    assert support.x[0].shape == (3000, 2)
    assert support.x[1].shape == (3000, 2, 2)
    assert support.y.shape == (3000, 2, 1)
    rows = torch.cat([support.x[0], query.x[0]], 1)
    assert torch.equal(torch.cat([support.y, query.y], 1)[..., 0], rows.float())
    assert torch.equal(support.x[1][..., 0], support.x[0].float())
    for task in rows.tolist():
        assert len(set(task)) == 4  # support and query share no row
        (group,) = {int(GROUP[row]) for row in task}
        groups[group] += 1
        used.update(task)
    assert set(groups) == {3, 7, 9}
    for count in groups.values():
        assert abs(count - 1000) < 120  # all groups alike, whatever their size
    for group in (3, 7, 9):
        counts = torch.tensor([float(used[r]) for r in range(15) if GROUP[r] == group])
        assert ((counts - counts.mean()).abs() / counts.mean()).max() < 0.1


def test_groups_may_have_any_names_and_y_any_shape() -> None:
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    group = torch.tensor([-5, -5, -5, 40, 40, 40], dtype=torch.int32)
    support, query, _ = draw(GroupTasks(x, y, group, shots=2), 4)
    assert one(support.x).shape == (4, 2, 3)
    assert one(query.x).shape == (4, 1, 3)
    assert support.y.dtype == torch.int64


def test_bad_groups_are_told() -> None:
    x = torch.zeros(6, 2)
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    for bad, message in (
        ((x, x[:5], group, 1), r"x, y and group have \[6, 5, 6\] rows"),
        (((x, x[:4]), x, group, 1), r"\[6, 4, 6, 6\] rows; give one of each a row"),
        ((x, x, x, 1), r"group have \[6, 6, 6\] rows"),
        ((x[:0], x[:0], group[:0], 1), r"\[0, 0, 0\] rows"),
        ((x, x, group, 2), r"group 1 has 2 rows; leave out .* query_shots = 3"),
        ((x, x, group, 0), r"shots = 0; give at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            GroupTasks(*bad)
