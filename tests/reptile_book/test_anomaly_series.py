"""The look at series: what is known when, how strangeness is scored, what is kept."""

import math
from pathlib import Path

import pytest
import torch

from reptile_book import anomaly_series
from reptile_book.anomaly_series import METHODS, RANDOM, REPTILE, Study
from reptile_lib import UserError
from reptile_lib.data.nab import Series

TINY = Study(
    past=4,
    hidden=3,
    train_shots=10,
    meta_steps=2,
    meta_batch=2,
    rates=(0.01, 1e9),  # the second diverges
    steps=30,
    batch=5,
    timed=2,
)


def waves(name: str, phase: float) -> Series:
    """Return 200 values of a sine with a burst."""
    values = (torch.arange(200, dtype=torch.float64) / 5 + phase).sin()
    values[120:125] += 6
    return Series(name, torch.arange(200), values, ((115, 130),))


def test_rows_know_the_past_and_the_first_part_alone_sets_the_scale() -> None:
    series = waves("a", 0.0)
    rows = anomaly_series.rows_of(series, TINY)
    assert rows.x.shape == (196, 4)
    assert rows.y.shape == (196, 1)
    assert rows.first == 26  # thirty values, of which four have no past
    values = anomaly_series.scaled(series.values, 30)
    assert torch.equal(rows.x[50], values[50:54])
    assert torch.equal(rows.y[50], values[54:55])
    assert rows.marked.nonzero()[:, 0].tolist() == list(range(111, 126))
    louder = series.values.clone()
    louder[30:] *= 3
    assert torch.equal(anomaly_series.scaled(louder, 30)[:30], values[:30])
    quarters = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 13.0], dtype=torch.float64)
    found = anomaly_series.scaled(quarters, 5)
    assert found.tolist() == pytest.approx(
        [math.asinh((v - 3) / 2) for v in (1, 2, 3, 4, 5, 13)]
    )
    assert anomaly_series.scaled(torch.ones(5).double(), 4).tolist() == [0.0] * 5


def test_the_rule_counts_deviations_of_the_past() -> None:
    x, y = torch.tensor([[1.0, 3.0, 1.0, 3.0]]), torch.tensor([[5.0]])
    assert anomaly_series.rolling(x, y).tolist() == [3.0]


def test_windows_are_hit_by_as_many_rows_as_there_are_windows() -> None:
    series = waves("a", 0.0)._replace(windows=((50, 60), (115, 130), (150, 152)))
    rows = anomaly_series.rows_of(series, TINY)
    assert rows.windows == ((46, 56), (111, 126), (146, 148))
    scores = torch.zeros(196)
    scores[[55, 56, 112, 147]] = torch.tensor([3.0, 5.0, 4.0, 2.0])
    assert anomaly_series.hits(scores[rows.first :], rows) == 2  # 56 lies behind


def test_adaptation_learns_the_first_part() -> None:
    rows = anomaly_series.rows_of(waves("a", 0.0), TINY)
    phi = torch.cat(
        [
            p.detach().flatten()
            for p in anomaly_series.learner_of(TINY, 1.0, 0).model.parameters()
        ]
    )
    theta, rate = anomaly_series.fitted(phi, rows, TINY)
    assert rate == 0.01
    before, after = (
        (anomaly_series.said(t, rows.x[:26], TINY) - rows.y[:26]).square().mean()
        for t in (phi[None], theta)
    )
    assert after < before


@pytest.mark.slow
def test_records_say_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [waves(name, phase) for name, phase in (("a", 0.0), ("b", 1.0), ("c", 2))]
    monkeypatch.setattr(anomaly_series, "loaded", lambda: series)
    (found,) = anomaly_series.record([3], tmp_path, TINY)
    assert found["config"] == TINY.as_dict()
    assert {*found["metrics"]} == {"a", "b", "c"}
    for scores in found["metrics"].values():
        assert {*scores} == {*METHODS}
        assert all(0 <= score["auc"] <= 1 for score in scores.values())
        assert scores[REPTILE]["rate"] == scores[RANDOM]["rate"] == 0.01
    assert min(found["ms_per_point"].values()) > 0
    lines = anomaly_series.table(tmp_path)
    assert [line[:2] for line in lines] == [["a", "1"], ["b", "1"], ["c", "1"]]
    assert all(len(line) == 14 for line in lines)
    assert anomaly_series.table(tmp_path / "nothing") == []
    with pytest.raises(UserError, match="other settings"):
        anomaly_series.record([3], tmp_path)


@pytest.mark.needs_data("nab")
def test_no_window_lies_in_a_first_part() -> None:
    series = anomaly_series.loaded()
    assert len(series) == 8
    for one in series:
        rows = anomaly_series.rows_of(one, Study())
        assert not rows.marked[: rows.first].any()
        assert rows.marked.any()
        assert rows.x.isfinite().all()
