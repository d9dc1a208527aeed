"""Leads are read dot by dot, and drawn with the interval over the splits."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from reptile_book import leads, records

DOTS = [(1.0, 0.5), (2.0, 0.25), (3.0, 0.5)]


def test_leads_are_those_of_each_split(tmp_path: Path) -> None:
    for seed, ahead in enumerate((0.01, 0.03)):
        scores = {"a": {"ahead": ahead, "ahead_ci95": 0.02}}
        records.write(tmp_path / f"seed-{seed}.json", {"metrics": {"error": scores}})
    found = leads.of_splits(tmp_path, ["a"], lambda m, name: m["error"][name], 100)
    assert found == {"a": [(1.0, 2.0), (3.0, 2.0)]}


def test_leads_of_a_group_are_the_mean_over_its_seeds(tmp_path: Path) -> None:
    for name, ahead in (("ann-0", 0.01), ("ann-1", 0.03), ("bob-0", -0.05)):
        records.write(tmp_path / f"{name}.json", {"metrics": {"a": {"ahead": ahead}}})
    records.write(tmp_path / "ann.json", {"rates": {}})  # how they were chosen
    found = leads.of_groups(tmp_path, ["a"], lambda m, name: m[name], 100)
    assert [lead for lead, _ in found["a"]] == pytest.approx([2.0, -5.0])
    assert [half for _, half in found["a"]] == [0, 0]


def test_interval_is_students() -> None:
    # the standard deviation is 1, t of two degrees of freedom 4.303
    half = 4.303 / 3**0.5
    assert leads.interval(DOTS) == pytest.approx((2 - half, 2 + half))
    assert leads.mean(DOTS) == 2


def test_interval_of_splits_that_share_data_is_wider() -> None:
    """Simulated: test sets drawn from one pool, of which a quarter is tested."""
    low, high = leads.interval(DOTS)
    wide = leads.interval(DOTS, overlap=1 / 3)
    assert wide[1] - wide[0] == pytest.approx(2**0.5 * (high - low))
    source = np.random.default_rng(0)
    hits = {0.0: 0, 1 / 3: 0}
    for _ in range(400):
        pool = source.normal(size=100)
        tests = [source.permutation(pool)[:25].mean() for _ in range(10)]
        dots = [(float(test), 0.0) for test in tests]
        for overlap in hits:
            low, high = leads.interval(dots, overlap)
            hits[overlap] += low < 0 < high
    assert hits[0.0] < 0.8 * 400 < 0.93 * 400 < hits[1 / 3]


def test_figure_has_a_row_a_method() -> None:
    axis = Figure().subplots()
    leads.draw(axis, {"one + two": DOTS, "three": DOTS}, "points")
    assert [t.get_text() for t in axis.get_yticklabels()] == ["one\n+ two", "three"]
    lines = {tuple(np.asarray(line.get_xdata()).tolist()) for line in axis.lines}
    assert {(0.5, 1.5), (1.75, 2.25), (2.5, 3.5), (2.0,)} <= lines
    bar = axis.collections[0].get_paths()[0].get_extents()
    assert (bar.x0, bar.x1) == pytest.approx(leads.interval(DOTS))
    assert (bar.y0, bar.y1) == pytest.approx((-0.28, 0.28))
