"""The study of spoken digits: who is who, where words are cut, what is recorded."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reptile_book import records, speech
from reptile_book.speech import METHODS, PLAIN, REPTILE, ROW, TUNED, Spoken, Study
from reptile_lib import UserError
from reptile_lib.data import fsdd
from reptile_lib.models.frozen import frozen
from reptile_lib.models.speech import log_mel
from reptile_lib.rng import TEST

TINY = Study(
    filters=4,
    gradients=200,
    doublings=1,
    joint_rates=(2e-3,),
    joint_batch=20,
    train_shots=15,
    inner_steps=2,
    alphas=(2e-3,),
    rates=(1e-3,),
    steps=(2, 3),
    widen=0,
    asked_takes=2,
    test_sets=3,
    validation_sets=2,
    strings=4,
    calibration=30,
)


def sound(digit: int, pitch: float, take: int) -> Tensor:
    """Return a tone that rises with the digit, of an own length."""
    time = torch.arange(2400 + 90 * take) / fsdd.RATE
    wave = torch.sin(2 * torch.pi * (200 * (digit + 1) + pitch) * time)
    return (3000 * wave).to(torch.int16)


@pytest.fixture(scope="module")
def tones() -> Spoken:
    """Return seven takes of ten digits by six "speakers"."""
    which = torch.cartesian_prod(torch.arange(6), torch.arange(10), torch.arange(7))
    waves = tuple(sound(d, 30.0 * s, t) for s, d, t in which.tolist())
    speaker, digit, take = which.T
    return Spoken(log_mel(waves), digit, speaker, take, waves)


def test_each_speaker_is_the_test_once_and_validates_once() -> None:
    seen = []
    for name in fsdd.SPEAKERS:
        train, val = speech.parts(name)
        assert sorted([*train, val, name]) == sorted(fsdd.SPEAKERS)
        seen.append(val)
    assert sorted(seen) == sorted(fsdd.SPEAKERS)


def test_support_sets_are_balanced_and_never_asked(tones: Spoken) -> None:
    own = tones.of("lucas")
    assert len(own.y) == len(own.waves) == 70
    tasks = speech.support_sets(own, 3, 4, 0, TEST, TINY)
    assert tasks.order.shape == (4, 3, 10)
    asked = {x.numpy().tobytes() for x in own.x[own.take < 2]}
    for y, x in zip(tasks.support.y, tasks.support.x, strict=True):
        assert y.bincount().tolist() == [3] * 10
        assert isinstance(x, Tensor)
        seen = {one.numpy().tobytes() for one in x}
        assert len(seen) == 30
        assert not seen & asked
    assert isinstance(tasks.query.x, Tensor)
    for x in tasks.query.x:
        assert {one.numpy().tobytes() for one in x} == asked
    again = speech.support_sets(own, 3, 4, 0, TEST, TINY)
    assert torch.equal(again.support.y, tasks.support.y)


def test_strings_are_cut_where_they_are_quiet() -> None:
    waves = [sound(digit, 0.0, digit) for digit in (2, 7, 4)]
    words = speech.words_in(speech.joined(waves))
    assert len(words) == 3
    for word, wave in zip(words, waves, strict=True):
        assert abs(len(word) - len(wave)) <= 2 * speech.BLOCK
        assert word.double().std() > 1500
    short = torch.zeros(80 * speech.PAUSE, dtype=torch.int16)  # within a word
    assert len(speech.words_in(torch.cat([waves[0], short[80:], waves[1]]))) == 1
    click = torch.full((160,), 3000, dtype=torch.int16)
    apart = torch.zeros(4000, dtype=torch.int16)
    assert len(speech.words_in(torch.cat([waves[0], apart, click]))) == 1


def test_word_errors_count_what_is_replaced_added_and_left_out(tones: Spoken) -> None:
    for said, heard, errors in (
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [], 3),
        ([1, 2, 3], [4, 2, 3], 1),
        ([1, 2, 3], [0, 1, 2, 3], 1),
        ([1, 2, 3], [2, 3, 4, 5], 3),
    ):
        assert speech.edits(said, heard) == errors
    made = speech.strings(tones.of("theo"), 5, TINY)
    assert made.words == [3] * 5
    answers = torch.tensor(made.said).flatten()
    assert made.errors(lambda x: answers) == 0
    assert made.errors(lambda x: (answers + 1) % 10) == 1


def test_without_adaptation_an_answer_depends_on_no_other(tones: Spoken) -> None:
    train = tones.of("george", "jackson")
    phi = speech.train_joint(train, 2e-3, 0, TINY)
    net = speech.as_it_is(phi, train, TINY)
    x = tones.of("theo").x[:8]
    torch.testing.assert_close(net(x[:1]), net(x)[:1], atol=1e-4, rtol=1e-4)


def test_without_a_step_only_the_statistics_are_the_speakers(tones: Spoken) -> None:
    phi = speech.train_joint(tones.of("george"), 2e-3, 0, TINY)
    tasks = speech.support_sets(tones.of("theo"), 1, 2, 0, TEST, TINY)
    network = speech.adapt(phi, 1.0, 0, tasks, TINY)
    x = tones.of("theo").x[:9]
    assert isinstance(tasks.support.x, Tensor)
    model = speech.learner_of(TINY, 1.0, 0).model
    expected = frozen(model, phi, tasks.support.x[1])(x).argmax(1)
    assert torch.equal(network.answers(x, 1), expected)


@pytest.mark.slow
def test_records_say_what_was_done(
    tones: Spoken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "spoken", lambda: tones)
    made = speech.record([0], tmp_path, TINY, speakers=["theo", "lucas"])
    choice, scored, *_ = made
    assert choice["validation"] == "yweweler"
    assert choice["config"] == scored["config"] == TINY.as_dict()
    assert {*choice["trainings"]} == {REPTILE, TUNED, PLAIN}
    for own in choice["trainings"].values():
        assert own["by_times"][str(own["times"])] == max(own["by_times"].values())
    how = choice["rates"][REPTILE]["1-shot"]
    assert how["steps"] in (2, 3)
    for shots in ("1-shot", "5-shot"):
        scores = scored["metrics"][shots]
        assert tuple(scores) == METHODS
        for score in scores.values():
            gap = scores[REPTILE]["mean"] - score["mean"]
            assert score["ahead"] == pytest.approx(gap)
            assert 0 <= score["word_errors"] <= 1
        assert scores[PLAIN]["ci95"] == pytest.approx(0)
    assert scored["cut_rightly"] == 1
    lines = speech.table(tmp_path)
    assert [line[:2] for line in lines[:5]] == [["1", method] for method in METHODS]
    with pytest.raises(UserError, match="other settings"):
        speech.record([0], tmp_path, speakers=["theo"])


def test_the_table_has_intervals_over_speakers(tmp_path: Path) -> None:
    for at, name in enumerate(fsdd.SPEAKERS):
        for seed in (0, 1):
            score = 0.7 + at / 100 + (0.01 if seed else -0.01)
            ahead = dict.fromkeys(METHODS, score - 0.5) | {REPTILE: 0.0}
            metrics = {
                "1-shot": {
                    method: {"mean": score, "ahead": ahead[method], "word_errors": 0.1}
                    for method in METHODS
                }
            }
            path = tmp_path / ROW / f"{name}-{seed}.json"
            records.write(path, {"metrics": metrics})
    first, second, *_ = speech.table(tmp_path)
    # 72.5 ± 2.571 · 1.871 / √6
    assert first == ["1", REPTILE, "72.5 ± 2.0", "", "", "10.0"]
    assert second[3:] == ["+22.5 ± 2.0", "+20.0 to +25.0", "10.0"]
    assert speech.table(tmp_path / "nothing") == []


@pytest.mark.slow
@pytest.mark.needs_data("fsdd")
def test_the_published_recordings_become_pictures() -> None:
    found = speech.spoken()
    assert found.x.shape == (3000, 1, 32, 32)
    assert found.of("theo").y.bincount().tolist() == [50] * 10
    made = speech.strings(found.of("theo"), 20, Study())
    assert sum(n == 3 for n in made.words) >= 18
