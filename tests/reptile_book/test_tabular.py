"""The study of a table: questions tell nothing of themselves, diagnoses stay apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reptile_book import records, tabular
from reptile_book.tabular import METHODS, REPTILE, ROW, Questions, Split, Study
from reptile_lib import UserError
from reptile_lib.params import ravel
from reptile_lib.tasks import Batch, Episodes, draw_tasks

TINY = Study(
    shots=(2,),
    hidden=4,
    gradients=200,
    joint_rates=(1e-3,),
    joint_batch=20,
    train_shots=3,
    inner_steps=2,
    inner_batch=3,
    meta_batch=2,
    alphas=(0.1,),
    rates=(0.1, 0.2),
    steps=(2, 4),
    ridges=(0.1, 1.0),
    validation_tasks=4,
    asked=3,
    test_sets=5,
    widen=0,
)


@pytest.fixture(scope="module")
def samples() -> Split:
    """Return samples whose diagnosis shows in all columns."""
    g = torch.Generator().manual_seed(0)
    kinds = [torch.arange(n) < n // 3 for n in (60, 30, 24)]
    train, val, test = (
        torch.randn(len(kind), 30, generator=g) + 2 * kind[:, None] for kind in kinds
    )
    return Split(train, val, test, kinds[0], kinds[2], (0, 4, 7))


def test_a_question_blanks_its_own_measurement_and_has_two_sides() -> None:
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(50, 30, generator=g)
    tasks = draw_tasks(Questions(rows, (2, 5), shots=4, asked=3), 40)
    assert tasks.support.y.tolist() == [[0] * 4 + [1] * 4] * 40
    assert tasks.query.y.tolist() == [[0] * 3 + [1] * 3] * 40
    turned = []
    for sx, qx in zip(tasks.support.x, tasks.query.x, strict=True):
        assert isinstance(sx, Tensor)
        assert isinstance(qx, Tensor)
        blank = (sx == 0).all(0).nonzero()[:, 0].tolist()
        assert blank in ([2, 12, 22], [5, 15, 25])
        left = [c for c in range(30) if c not in blank]
        where = [int((rows[:, left] == x[left]).all(1).nonzero()) for x in (*sx, *qx)]
        assert len({*where}) == 14  # no query is in the support set
        zeros = [where[i] for i in (0, 1, 2, 3, 8, 9, 10)]
        ones = [where[i] for i in (4, 5, 6, 7, 11, 12, 13)]
        cut = [
            column
            for column in blank
            if rows[zeros, column].max() <= rows[ones, column].min()
            or rows[ones, column].max() <= rows[zeros, column].min()
        ]
        assert cut  # one of the three columns tells the sides apart
        turned.append(bool(rows[zeros, cut[0]].min() > rows[ones, cut[0]].max() - 1e-9))
    assert 5 < sum(turned) < 35


def test_validation_questions_take_their_queries_from_other_samples(
    samples: Split,
) -> None:
    questions = Questions(samples.train, samples.aside, 2, 3, samples.val)
    tasks = draw_tasks(questions, 6)
    for x, table in ((tasks.support.x, samples.train), (tasks.query.x, samples.val)):
        assert isinstance(x, Tensor)
        for row in x.flatten(0, 1):
            seen = row != 0
            assert ((table[:, seen] == row[seen]).all(1)).any()
            assert (~seen).nonzero()[0, 0].item() in samples.aside
    assert samples.seen == (1, 2, 3, 5, 6, 8, 9)


def test_diagnoses_are_told_of_training_samples_alone(samples: Split) -> None:
    tasks = tabular.diagnoses(samples, 3, 4, 0)
    assert tasks.support.y.tolist() == [[0] * 3 + [1] * 3] * 4
    assert tasks.query.y.tolist() == [samples.answer.long().tolist()] * 4
    for x in tasks.support.x:
        for row, sick in zip(x, [False] * 3 + [True] * 3, strict=True):
            (at,) = (samples.train == row).all(1).nonzero()[:, 0].tolist()
            assert samples.malignant[at] == sick


def test_joint_training_keeps_all_but_the_last_layer(samples: Split) -> None:
    phi = tabular.train_joint(samples, 1e-3, 0, TINY)
    assert phi.shape == ravel(tabular.network(TINY, 2, 0)).shape
    assert phi[-10:].abs().max() == 0  # 4 · 2 weights, 2 biases
    body = ravel(tabular.network(TINY, 21, 0))[: len(phi) - 10]
    assert 0 < (phi[:-10] - body).abs().max() < 0.1
    zeroed = tabular.train_reptile(samples, 0.1, 0, TINY, zeroed=True)
    assert zeroed[-10:].abs().max() == 0
    assert tabular.train_reptile(samples, 0.1, 0, TINY, zeroed=False)[-10:].all()


def test_what_is_plain_to_see_is_learnt(samples: Split) -> None:
    tasks = tabular.diagnoses(samples, 5, 4, 0)
    wide = replace(TINY, hidden=32)
    phi = ravel(tabular.network(wide, 2, 0))
    for right in (
        tabular.answers(phi, 0.1, 50, tasks, wide),
        tabular.regression(tasks, 0.1),
        tabular.by_means(tasks),
    ):
        assert right.shape == (4, 24)
        assert right.double().mean() > 0.9


def test_scores_by_hand() -> None:
    answer = torch.tensor([True, True, False, False, False])
    one = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1]]).bool()
    two = torch.ones(2, 5).bool()
    found = tabular.scored({REPTILE: one, "other": two}, answer)
    mine = found[REPTILE]
    assert mine["sensitivity"]["mean"] == 0.75
    spread = torch.tensor([1.0, 0.5]).std().item()
    expected = 1.96 * spread / 2**0.5
    assert mine["sensitivity"]["ci95"] == pytest.approx(expected)
    assert mine["specificity"]["mean"] == pytest.approx(5 / 6)
    assert mine["balanced"]["mean"] == pytest.approx((0.75 + 5 / 6) / 2)
    assert found["other"]["balanced"]["ahead"] == pytest.approx((0.75 + 5 / 6) / 2 - 1)


@pytest.mark.slow
def test_records_say_what_was_done(
    samples: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "split", lambda seed, study: samples)
    (scored,) = tabular.record([2], tmp_path, TINY)
    choice = records.read_one(tmp_path / ROW / "choice-2.json")
    assert choice["config"] == scored["config"] == TINY.as_dict()
    assert choice["aside"] == [0, 4, 7]
    alpha = choice["chosen"]["alpha"]
    assert alpha["validation"] >= alpha["other_form"]["validation"]
    assert choice["chosen"][REPTILE]["2-shot"]["steps"] in (2, 4)
    assert scored["samples"] == [8, 16]
    scores = scored["metrics"]["2-shot"]
    assert {*scores} == {*METHODS}
    for score in scores.values():
        mean = (score["sensitivity"]["mean"] + score["specificity"]["mean"]) / 2
        assert score["balanced"]["mean"] == pytest.approx(mean)
    assert [line[:2] for line in tabular.table(tmp_path)] == [["2", m] for m in METHODS]
    assert tabular.table(tmp_path / "nothing") == []
    with pytest.raises(UserError, match="other settings"):
        tabular.record([2], tmp_path)


@pytest.mark.needs_data("breast-cancer")
def test_the_table_is_standardised_by_its_training_samples() -> None:
    it = tabular.split(0, Study())
    assert [len(x) for x in (it.train, it.val, it.test)] == [341, 115, 113]
    torch.testing.assert_close(it.train.mean(0), torch.zeros(30), atol=1e-4, rtol=0)
    assert len(it.aside) == 3
    everyone = Episodes(
        Batch(it.train[None], it.malignant.long()[None]),
        Batch(it.test[None], it.answer.long()[None]),
    )
    assert tabular.regression(everyone, 1.0).double().mean() > 0.9
