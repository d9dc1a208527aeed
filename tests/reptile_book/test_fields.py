"""What the studies of other fields share: intervals, pairs, joint training, records."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reptile_book import fields, records
from reptile_book.records import Record
from reptile_lib import UserError, mlp, sgd
from reptile_lib.kernel import of_model
from reptile_lib.params import ravel
from reptile_lib.rng import TEST
from reptile_lib.tasks import Batch, Episodes


def test_students_interval_is_the_published_one() -> None:
    # scipy.stats.t.ppf(0.975, 2) = 4.30265; six speakers: 2.57058
    assert fields.t95([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    six = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert fields.t95(six) == pytest.approx(2.571 * 0.3**0.5 / 6**0.5)
    stats = pytest.importorskip("scipy.stats")
    expected = [stats.t.ppf(0.975, df) for df in range(1, len(fields.T95) + 1)]
    assert pytest.approx(expected, abs=6e-4) == fields.T95


def test_pairs_say_who_is_better() -> None:
    found = {"a": torch.tensor([0.5, 0.7]), "b": torch.tensor([0.4, 0.8])}
    high, low = fields.paired(found, "a"), fields.paired(found, "b", lower=True)
    assert high["a"] == pytest.approx(
        {"mean": 0.6, "ci95": 1.96 * 0.1, "ahead": 0, "ahead_ci95": 0}, abs=1e-6
    )
    assert high["b"]["ahead"] == pytest.approx(0, abs=1e-6)
    assert high["b"]["ahead_ci95"] == pytest.approx(1.96 * 0.1)
    one = fields.paired({"a": torch.tensor([1.0]), "b": torch.tensor([3.0])}, "a")
    assert one["b"]["ahead"] == -2
    assert one["b"]["ci95"] == 0
    errors = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, 2.0])}
    assert fields.paired(errors, "a", lower=True)["b"]["ahead"] == 1.5
    assert low["a"]["ahead"] == pytest.approx(0, abs=1e-6)


def test_numbers_over_seeds_are_written_out() -> None:
    assert fields.over_seeds([0.1, 0.2, 0.3], 100) == "20.0 ± 10.0"
    assert fields.over_seeds([0.5], digits=2) == "0.50 ± 0.00"
    assert fields.leads([-0.01, 0.03], 100) == "+1.0 (-1.0 to +3.0)"


def test_joint_training_fits_all_rows_and_says_when_it_diverges() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.part(x) + more
            return found

    given = x, torch.full((200, 1), 2.0)
    how = {"seed": 0, "batch": 20, "steps": 400}
    phi = fields.train_jointly(Sum(), given, y, F.mse_loss, rate=0.05, **how)
    expected = torch.tensor([1.0, -2.0, 0.5, -2.0])
    torch.testing.assert_close(phi, expected, atol=0.02, rtol=0)
    with pytest.raises(UserError, match="diverged at a rate of 1e\\+30"):
        fields.train_jointly(
            mlp(3, 4, 1), x, y * 1e30, F.mse_loss, rate=1e30, seed=0, batch=5, steps=9
        )


def test_adaptation_in_parts_is_adaptation() -> None:
    model = mlp(2, 3, 1)
    kernel, phi = of_model(model, F.mse_loss), ravel(model)
    g = torch.Generator().manual_seed(0)
    own = Batch(torch.randn(5, 4, 2, generator=g), torch.randn(5, 4, 1, generator=g))
    tasks = fields.with_minibatches(Episodes(own, own), 0, TEST, 3, 10)
    assert tasks.order.shape == (5, 3, 4)  # no more than there are
    order = tasks.order
    at_once, in_parts = (
        fields.adapted(kernel, phi, own, order, sgd(0.1), at_once=n) for n in (5, 2)
    )
    torch.testing.assert_close(at_once, in_parts)
    with pytest.raises(UserError, match="adaptation diverged"):
        fields.adapted(kernel, phi, own, order, sgd(1e30))


def test_each_seed_has_a_choice_of_its_own(tmp_path: Path) -> None:
    asked: list[str] = []

    def choose(seed: int) -> Record:
        asked.append(f"choose {seed}")
        return {"rate": 10 * seed}

    def final(choice: Record, seed: int) -> Record:
        asked.append(f"final {seed}")
        return {"metrics": choice["rate"] + 1}

    def run(seeds: list[int], config: Record) -> list[Record]:
        into, what = tmp_path / "study", "python -m study"
        how = {"choose": choose, "final": final, "say": lambda _: None}
        return fields.split_by_seed(into, seeds, config, what, **how)  # type: ignore[arg-type]

    one, two = run([1, 2], {"width": 3})
    assert [one["metrics"], two["metrics"]] == [11, 21]
    assert two["command"] == "python -m study --seeds 2"
    assert two["row"] == "study"
    assert records.read_one(tmp_path / "study" / "choice-2.json")["rate"] == 20
    assert asked == ["choose 1", "final 1", "choose 2", "final 2"]
    (tmp_path / "study" / "seed-2.json").unlink()
    run([1, 2], {"width": 3})
    assert asked[4:] == ["final 2"]
    with pytest.raises(UserError, match="other settings"):
        run([1], {"width": 4})
