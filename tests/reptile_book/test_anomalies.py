"""The study of one-class letters: what a task shows, how strangeness is scored."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reptile_book import anomalies
from reptile_book.anomalies import DISTANCES, METHODS, REPTILE, RULES, OneClass, Study
from reptile_lib import UserError, load
from reptile_lib.rng import TEST, VALIDATE, draws
from reptile_lib.tasks import draw_tasks

RESULTS = Path(__file__).parents[2] / "results"
TINY = Study(
    shots=4,
    asked=2,
    sizes=(196, 6, 2),
    inner_steps=2,
    meta_steps=3,
    meta_batch=2,
    alphas=(0.01, 0.02),
    factors=(1.0, 2.0),
    validation_tasks=3,
    test_tasks=4,
)


def test_support_sets_are_of_one_letter_and_half_of_the_queries_of_others() -> None:
    letters = load("glyphs").val
    tasks = draw_tasks(OneClass(letters, 6, 3, half=False), 5)
    assert tasks.support.y.tolist() == [[0] * 6] * 5
    assert tasks.query.y.tolist() == [[0, 0, 0, 1, 1, 1]] * 5
    where: dict[bytes, str] = {}
    for name, own in zip(letters.names, letters.by_class(), strict=True):
        shown = letters.to_input(own)
        assert isinstance(shown, Tensor)
        where |= {one.numpy().tobytes(): name for one in shown}
    assert isinstance(tasks.support.x, Tensor)
    assert isinstance(tasks.query.x, Tensor)
    for support, query in zip(tasks.support.x, tasks.query.x, strict=True):
        shown_to = [x.numpy().tobytes() for x in (*support, *query[:3])]
        assert len({*shown_to}) == 9
        (letter,) = {where[x] for x in shown_to}
        others = {where[x.numpy().tobytes()] for x in query[3:]}
        assert len(others) == 3
        assert letter not in others


def test_reptile_trains_on_the_letter_and_then_on_both() -> None:
    letters = load("glyphs").val
    plain = draw_tasks(OneClass(letters, 4, 2), 3)
    who = draws(0, TEST, range(1), range(3), torch.device("cpu"))
    tasks = OneClass(letters, 4, 2, inner_steps=2).sample(who)
    assert tasks.order.tolist() == [[[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]] * 3
    assert tasks.support.y.tolist() == [[0] * 4 + [0, 0, 1, 1]] * 3
    assert isinstance(tasks.support.x, Tensor)
    assert isinstance(plain.support.x, Tensor)
    assert isinstance(plain.query.x, Tensor)
    assert torch.equal(tasks.support.x[:, :4], plain.support.x)
    assert torch.equal(tasks.support.x[:, 4:], plain.query.x)
    assert plain.support.x.shape == (3, 4, 196)


def test_both_sizes_are_of_the_same_drawings() -> None:
    letters = load("glyphs").val
    small, large = (
        anomalies.tasks_of(letters, 1, VALIDATE, TINY, half=half)
        for half in (True, False)
    )
    assert isinstance(large.query.x, Tensor)
    shown = large.query.x.reshape(3, 4, 14, 2, 14, 2).mean((3, 5)).flatten(2)
    torch.testing.assert_close(small.query.x, shown)


def test_auc_and_accuracy_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    y = torch.tensor([[0, 0, 1, 1]] * 2)
    assert anomalies.auc(scores, y).tolist() == [0.75, 0.5]
    assert anomalies.accuracy(scores, y, 1.5).tolist() == [0.75, 0.5]
    assert anomalies.accuracy(scores, y).tolist() == [0.5, 0.5]


def test_distances_are_in_units_of_the_supports_own() -> None:
    letters = load("glyphs").val
    tasks = anomalies.tasks_of(letters, 0, VALIDATE, TINY, half=False)
    found = anomalies.distances(lambda x: x.flatten(1), tasks)
    assert isinstance(tasks.support.x, Tensor)
    assert isinstance(tasks.query.x, Tensor)
    support, query = tasks.support.x[1].flatten(1), tasks.query.x[1].flatten(1)
    own = []
    for i in range(4):
        others = torch.cat([support[:i], support[i + 1 :]]).mean(0)
        own.append((support[i] - others).norm())
    expected = (query - support.mean(0)).norm(dim=1) / torch.stack(own).mean()
    torch.testing.assert_close(found[1], expected)


@pytest.mark.slow
def test_records_say_what_was_done(tmp_path: Path) -> None:
    choice, scored = anomalies.record([0], tmp_path, TINY, phis=RESULTS)
    assert choice["config"] == scored["config"] == TINY.as_dict()
    assert {*choice["chosen"]} == {*METHODS} == {*RULES, *DISTANCES}
    for method, own in choice["chosen"].items():
        best = own["tried"][f"{own['value']:g}"]
        assert best == max(own["tried"].values()), method
    for score in scored["metrics"].values():
        for metric in ("accuracy", "auc"):
            gap = scored["metrics"][REPTILE][metric]["mean"] - score[metric]["mean"]
            assert score[metric]["ahead"] == pytest.approx(gap)
    assert [line[0] for line in anomalies.table(tmp_path)] == [*METHODS]
    assert anomalies.table(tmp_path / "nothing") == []
    with pytest.raises(UserError, match="other settings"):
        anomalies.record([0], tmp_path, phis=RESULTS)
