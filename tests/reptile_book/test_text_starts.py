"""The study of page 5.2: the same sentences for all, and starts that are as told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reptile_book import records, text_starts
from reptile_book.text_starts import (
    BOTH,
    METHODS,
    NEAREST,
    ROW,
    WORDS,
    ZEROED,
    Bench,
    Corpus,
    Study,
    Training,
)
from reptile_lib import UserError, load
from reptile_lib.models.text import encode_words
from reptile_lib.rng import TEST
from reptile_lib.runs import run

TINY = Study(
    shots=(1, 2),
    test_tasks=6,
    validation_tasks=4,
    train_shots=5,
    meta_steps=(2, 3),
    rates=(1.0, 2.0),
    steps=(3,),
    penalties=(1.0, 10.0),
    joint_rates=(3e-3,),
    joint_steps=3,
    widen=0,
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    parts = load("requests")
    return Bench(Corpus(parts.train), parts.test, TEST, 6, 3, TINY)


def test_tfidf_is_shown_the_sentences_that_networks_are(bench: Bench) -> None:
    sentences = [s for own in bench.texts.sentences for s in own]
    table = bench.corpus.tfidf[BOTH].transform(sentences).toarray()
    tasks, number = bench.drawn(bench.examples, 2), iter(range(6))

    def answer(support: Any, y: Any, queries: Any) -> Any:
        i = next(number)
        for rows, ids in ((support, tasks.support.x), (queries, tasks.query.x)):
            assert isinstance(ids, Tensor)
            which = [(table == row).all(1).argmax() for row in rows.toarray()]
            assert encode_words([sentences[k] for k in which]).equal(ids[i])
        assert y.tolist() == tasks.support.y[i].tolist()
        return tasks.query.y[i].numpy()

    assert bench.sparse(BOTH, 2, answer).tolist() == [1.0] * 6
    assert bench.sparse(BOTH, 2, lambda s, y, q: y[:1].repeat(5)).tolist() == [0.2] * 6


def test_a_sentence_of_the_support_set_is_its_own_nearest(bench: Bench) -> None:
    x = bench.corpus.tfidf[WORDS].transform(["play some jazz", "call me a cab"])
    y = torch.tensor([1, 0]).numpy()
    for answer in (text_starts.nearest_neighbour, text_starts.nearest_centroid):
        assert list(answer(x, y, x)) == [1, 0]
    found = text_starts.regression(100.0, x, y, x)
    assert list(found) == [1, 0]


def test_words_that_were_never_seen_count(bench: Bench) -> None:
    for kind in (WORDS, BOTH):
        x = bench.corpus.tfidf[kind].transform(["play opera", "play zither"]).toarray()
        assert x[0] @ x[1] < 0.9 * (x[0] @ x[0])
        assert x[0] @ x[0] == pytest.approx(1)


def test_words_are_weighted_by_the_training_sentences_alone(bench: Bench) -> None:
    corpus = Corpus(load("requests").train)
    net = corpus.network(5, seed=1, scale=0.02)
    table = net.get_parameter("table.weight")
    assert table.std().item() == pytest.approx(0.02, rel=0.02)
    (rare, common) = encode_words(["Kyoto the"], length=2)[0]
    weights = net.get_buffer("weights")
    assert weights[rare] > weights[common] > 1
    assert corpus.labels.bincount().tolist() == [20] * 24


def test_heads_start_at_zero_and_stay_there(bench: Bench) -> None:
    how = Training(scale=0.1, rate=1.0, steps=2)
    made = text_starts.train(bench.corpus, how, TINY, 0, zeroed=True)
    body = run.body_of(made.model)
    start = text_starts.learner_of(bench.corpus, TINY, 0, scale=0.1, zeroed=True).phi
    assert torch.equal(made.phi * (1 - body), torch.zeros_like(body))
    assert not torch.equal(made.phi, start)
    paper = text_starts.train(bench.corpus, how, TINY, 0, zeroed=False)
    assert (paper.phi * (1 - body)).abs().max() > 0


def test_a_jointly_trained_network_lends_all_but_its_head(bench: Bench) -> None:
    net = text_starts.train_jointly(bench.corpus, Training(0.1, 3e-3, 3), TINY, 0)
    learner = text_starts.learner_of(bench.corpus, TINY, 1, scale=0.1, zeroed=False)
    text_starts.joined(learner, net)
    table = net.get_parameter("table.weight")
    assert torch.equal(learner.phi[: table.numel()], table.detach().flatten())
    assert torch.equal(learner.phi[-5 * 65 :], torch.zeros(5 * 65))
    ids = encode_words(["play some jazz"])
    body, head = text_starts.without_head(net), net.get_submodule("head")
    last = list(head.children())[-1]
    torch.testing.assert_close(last(body(ids)), net(ids))
    assert bench.nearest(net, 2).shape == (6,)


def test_a_rate_at_which_tasks_diverge_is_halved() -> None:
    def score(rate: float) -> Tensor:
        if rate > 0.6:
            raise UserError(f"3 of 600 tasks diverged at {rate}")
        return torch.tensor([rate])

    assert text_starts.at_once_or_halved(0.5, score) == (0.5, torch.tensor([0.5]))
    assert text_starts.at_once_or_halved(2.0, score)[0] == 0.5
    with pytest.raises(UserError, match=r"diverged at 6\.25"):
        text_starts.at_once_or_halved(50.0, score)


@pytest.mark.slow
def test_records_say_what_was_done(tmp_path: Path) -> None:
    choice, scored = text_starts.record("requests", [0], tmp_path, TINY)
    assert choice["config"] == scored["config"] == TINY.as_dict()
    for own in choice["chosen"].values():
        for one in own.values():
            assert one["validation"] == max(one["tried"].values())
    for name in (ZEROED, text_starts.PAPER):
        own = choice["chosen"][name]["training"]
        assert {*own["lengths"]} == {"2", "3"}
        reached = own["lengths"][str(own["steps"])]
        assert reached == max(own["lengths"].values())
        middle = max(own["scales"].values())
        assert own["scales"][str(own["scale"])] == middle == own["lengths"]["3"]
    for scores in scored["metrics"].values():
        assert {*scores} == {*METHODS}
        for score in scores.values():
            gap = scores[ZEROED]["mean"] - score["mean"]
            assert score["ahead"] == pytest.approx(gap)
    with pytest.raises(UserError, match="other settings"):
        text_starts.record("requests", [0], tmp_path)


def test_the_table_has_a_row_per_method(tmp_path: Path) -> None:
    assert text_starts.table("clinc150", tmp_path) == []
    for seed, reptile in enumerate((0.8, 0.9)):
        scores = {m: {"mean": 0.7, "ahead": reptile - 0.7} for m in METHODS}
        scores[ZEROED] = {"mean": reptile, "ahead": 0.0}
        metrics = {"1-shot": scores, "5-shot": scores}
        path = tmp_path / ROW / f"clinc150-{seed}.json"
        records.write(path, {"metrics": metrics})
    rows = {row[0]: row[1:] for row in text_starts.table("clinc150", tmp_path)}
    assert rows[ZEROED] == ["85.0 ± 7.1", "–", "85.0 ± 7.1", "–"]
    assert rows[NEAREST] == 2 * ["70.0 ± 0.0", "+15.0 (+10.0 to +20.0)"]
