"""Drawings of page 5.1: the still picture, the control, and how one adapts to them."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from reptile_book import controls, draw_choice, draw_control, plots, records
from reptile_book.draw_control import CLASSES, DRAWN, QUERY
from reptile_lib import Batch, MetaLearner, Reptile, adam
from reptile_lib.models.conv4 import conv4

pytestmark = pytest.mark.slow

LINE = [[10.0, 52.5], [95.0, 52.5]]
DOT = [[52.5, 52.5]]


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    return draw_control.recorded()


def test_a_line_and_a_dot_are_inked() -> None:
    # pixels are looked at in 1.5, 5.5, ... 50.5, 54.5, 58.5 ... of the field
    line = draw_control.rasterized([LINE])
    rows, columns = np.nonzero(line == 0)
    assert set(rows) == {13, 14}
    assert [int(columns.min()), int(columns.max())] == [2, 25]
    assert np.argwhere(draw_control.rasterized([DOT]) == 0).tolist() == []
    near = draw_control.rasterized([[[50.5, 54.0]], [[54.5, 50.5]]])
    assert np.argwhere(near == 0).tolist() == [[13, 14], [14, 13]]
    assert (draw_control.rasterized([]) == 255).all()


def test_the_recorded_network_adapts_as_chosen(learner: MetaLearner) -> None:
    path = draw_control.PHI.with_name(draw_control.ADAPTATION)
    record = records.read_one(path)
    best = max(one["accuracy"] for one in record["tried"])
    (tried,) = (
        one
        for one in record["tried"]
        if all(one[key] == value for key, value in record["choice"].items())
    )
    assert tried["accuracy"] == best
    assert len(record["tried"]) == len(draw_choice.RATES) * len(draw_choice.STEPS)
    assert learner.inner.lr == record["choice"]["rate"]
    assert learner.inner_steps == record["choice"]["steps"]
    assert record["test"]["tasks"] == draw_choice.TEST_TASKS
    assert record["test"]["accuracy"] > 0.85


def test_adaptation_is_the_predictors_with_a_fresh_memory(learner: MetaLearner) -> None:
    examples = [DRAWN[name] for name in CLASSES]
    x = draw_control.pictures(examples)
    assert x.shape == (3, 1, 28, 28)
    net = learner.predictor(
        Batch(x, torch.arange(3)),
        inner_steps=learner.inner_steps,
        inner_batch=3,
        moments="reset",
    )
    told = net(draw_control.pictures([DRAWN[QUERY]])).softmax(1)[0].tolist()
    found = draw_control.chances(draw_control.adapted(learner, examples), DRAWN[QUERY])
    assert found == pytest.approx(told)
    assert draw_control.words(found).startswith("It looks like B (")


@pytest.mark.parametrize(
    ("chance", "told"),
    [(0.0, "under 1 %"), (0.006, "1 %"), (0.254, "25 %"), (0.995, "over 99 %")],
)
def test_no_probability_is_told_as_0_or_1(chance: float, told: str) -> None:
    assert draw_control.percent(chance) == told


def test_the_still_picture(learner: MetaLearner) -> None:
    with plt.rc_context(plots.STYLE):
        figure = draw_control.still(learner)
        figure.canvas.draw()  # letters that are too small are refused
        *fields, bars = figure.axes
        lines = [[line.get_xydata() for line in field.lines] for field in fields]
        plt.close(figure)
    for drawn, strokes in zip(lines, DRAWN.values(), strict=True):
        assert [np.asarray(one).tolist() for one in drawn] == list(strokes)
    assert all(field.yaxis_inverted() for field in fields)
    widths = [bar.get_width() for bar in bars.patches]  # type: ignore[attr-defined]
    assert sum(widths) == pytest.approx(1)
    assert bars.get_title() == draw_control.words(widths)
    assert "B" in bars.get_title()
    assert figure.patch.get_alpha() == 0 or figure.get_facecolor() == (0, 0, 0, 0)


def test_the_control_answers_what_is_drawn(learner: MetaLearner) -> None:
    control = draw_control.draw_control(learner)
    assert control.words.value.startswith("It looks like B (")
    first = [bar.value for bar in control.bars]
    assert sum(first) == pytest.approx(1)

    control.strokes[QUERY].value = json.dumps(DRAWN["C"])
    assert control.words.value.startswith("It looks like C (")
    network = control.known
    control.strokes[QUERY].value = "[]"
    assert "fourth field" in control.words.value
    assert [bar.value for bar in control.bars] == [0, 0, 0]
    assert control.known is network  # nothing was learnt anew

    control.strokes["C"].value = "[]"
    control.strokes["A"].value = "[]"
    assert control.words.value == "Draw A and C."
    control.strokes["C"].value = json.dumps(DRAWN["A"])  # they change places
    control.strokes["A"].value = json.dumps(DRAWN["C"])
    control.strokes[QUERY].value = json.dumps(DRAWN["C"])
    assert control.words.value.startswith("It looks like A (")
    assert control.known is not network
    assert control.shares[0].value == draw_control.percent(control.bars[0].value)


def test_the_fields_write_where_the_control_listens(learner: MetaLearner) -> None:
    control = draw_control.draw_control(learner)
    (shown,) = control.fields.outputs
    html = shown["data"]["text/html"]
    mark = html.partition('id="')[2].partition('"')[0]
    classes = [area._dom_classes for area in control.strokes.values()]
    assert classes == [(f"{mark}-{place}",) for place in range(4)]
    assert all(area.layout.display == "none" for area in control.strokes.values())
    assert json.dumps([*DRAWN.values()]) in html
    other = draw_control.draw_control(learner)
    assert mark not in other.fields.outputs[0]["data"]["text/html"]


def test_nothing_is_shown_where_nobody_draws(
    learner: MetaLearner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(controls.SWITCH, "off")
    controls.show(draw_control.draw_control(learner))
    assert capsys.readouterr().out == ""


@pytest.mark.needs_data("omniglot")
def test_a_choice_is_recorded_beside_phi(tmp_path: Path) -> None:
    phi = tmp_path / draw_control.PHI.name
    phi.write_bytes(draw_control.PHI.read_bytes())
    told: list[str] = []
    ways = [(1e-7, 1), (0.002, 5)]
    made = draw_choice.record(phi, ways, (8, 4), told.append)
    assert [(one["rate"], one["steps"]) for one in made["tried"]] == ways
    low, high = (one["accuracy"] for one in made["tried"])
    assert low < high
    assert made["choice"] == {"rate": 0.002, "steps": 5}
    assert made["tried"][0]["tasks"] == 8
    assert made["test"]["tasks"] == 4
    learner = draw_control.recorded(phi)
    assert (learner.inner.lr, learner.inner_steps) == (0.002, 5)
    assert len(told) == 3


def test_it_takes_any_network_of_three_ways() -> None:
    model = conv4(3, filters=4)
    fresh = Reptile(model, adam(1e-3), 5, moments="reset", device="cpu")
    found = draw_control.chances(
        draw_control.adapted(fresh, [[LINE], [DOT], [LINE, DOT]]), [LINE]
    )
    assert sum(found) == pytest.approx(1)
