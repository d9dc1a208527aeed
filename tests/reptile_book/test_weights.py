"""The files of weights: what is in them, and that figures compute with it rightly."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from reptile_book import weights
from reptile_book.wave_control import LAST_STEP, curve, fit
from reptile_lib import Sine, UserError, draw
from reptile_lib.tasks import Batch, Episodes
from tests.javascript.node import needs_node, run, tensor
from tests.kit import start_of_the_figure


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "page.ipynb"
    made = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
    prose = {"cell_type": "markdown", "source": ["no code"]}
    path.write_text(json.dumps({"cells": [prose, *made]}), encoding="utf-8")
    return path


def only(tasks: Episodes, i: int) -> Episodes:
    """Return a task of several, in float64."""
    own = tasks.map(lambda t: t[i : i + 1])
    return own.map(lambda t: t.double() if t.is_floating_point() else t)


def sent(batch: Batch) -> dict[str, Any]:
    x, y = curve(batch)
    return {"x": x, "y": y, "count": len(x)}


def test_vectors_come_back_bit_for_bit() -> None:
    vector = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    assert weights.decoded(weights.encoded(vector)).equal(vector)


def test_a_file_comes_back_and_says_how_it_was_made(tmp_path: Path) -> None:
    data = {"rate": 0.5, "starts": {"a": weights.encoded(torch.ones(3))}, "n": [1, 2]}
    text = weights.script("some", data)
    (tmp_path / "some.js").write_text(text, encoding="utf-8")
    assert weights.read("some", tmp_path) == data
    told = text.partition("*/")[0]
    assert "python -m reptile_book.weights some" in told
    assert f"torch {torch.__version__}" in told


@pytest.mark.parametrize("text", [None, "", 'Moving.data("other", {});\n'])
def test_a_bad_file_ends_in_a_remedy(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "some.js").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"weights some writes it"):
        weights.read("some", tmp_path)


def test_cells_are_run_until_all_is_there(tmp_path: Path) -> None:
    path = notebook(
        tmp_path,
        "random = joint = [1]",
        "reptile = [random[0] + 1]",
        "wave = 'w'; print('not shown')",
        "raise RuntimeError",
    )
    learners, wave = weights.page_1_2(path)
    assert [str(learners[start]) for start in weights.STARTS] == ["1", "1", "2"]
    assert str(wave) == "w"


def test_a_page_that_makes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not make joint, reptile, wave"):
        weights.page_1_2(notebook(tmp_path, "random = [1]"))
    with pytest.raises(UserError, match="missing"):
        weights.page_1_2(tmp_path / "none.ipynb")


@pytest.mark.slow
def test_the_stored_networks_are_those_of_the_page(tmp_path: Path) -> None:
    assert weights.main(["sine", "--into", str(tmp_path)]) == 0
    made, stored = weights.read("sine", tmp_path), weights.read("sine")
    networks, kept = made.pop("starts"), stored.pop("starts")
    assert made == stored
    assert networks.keys() == kept.keys()
    for name in networks:
        ours, theirs = weights.decoded(networks[name]), weights.decoded(kept[name])
        assert len(theirs) == 4353
        # other processors round otherwise, a thousand meta-steps long
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert not weights.decoded(kept["joint"]).equal(weights.decoded(kept["random"]))
    page = weights.MOTIVATION.read_text(encoding="utf-8")
    assert re.findall(r"rate=(0\.\d+)\)", page) == [str(weights.RATE)]


@needs_node
@pytest.mark.slow
def test_in_javascript_the_starts_have_the_librarys_losses() -> None:
    drawn = draw(Sine(points=10), 3)
    waves = [only(drawn, i) for i in range(3)]
    told = {
        start: [fit(start_of_the_figure(start), wave, weights.RATE) for wave in waves]
        for start in weights.STARTS
    }
    found = run(
        """
        let data;
        globalThis.Moving = { data: (name, values) => (data = values) };
        require("vm").runInThisContext(given.script);
        const network = Reptile.mlp(data.sizes, data.activation);
        const loss = Reptile.squaredError, optimizer = Reptile.sgd(data.rate);
        const fit = (phi, { support, query }) => {
          const losses = [];
          let answers;
          const watch = (step, theta) => {
            losses.push(Reptile.lossOf(network, theta, query, loss));
            answers = Reptile.outputs(network, theta, query.x, query.count);
          };
          const how = { optimizer, loss, steps: given.steps, watch };
          Reptile.innerLoop(network, phi, support, how);
          return { losses, answers };
        };
        return Object.fromEntries(Object.entries(data.starts).map(([name, text]) =>
          [name, given.waves.map((wave) =>
            fit(Float64Array.from(Reptile.floats(text)), wave))]));
        """,
        script=(weights.FOLDER / "sine.js").read_text(encoding="utf-8"),
        steps=LAST_STEP,
        waves=[
            {"support": sent(wave.support), "query": sent(wave.query)} for wave in waves
        ],
    )
    for start, fits in told.items():
        for mine, theirs in zip(fits, found[start], strict=True):
            for key, wanted in (("losses", mine.losses), ("answers", mine.answers[-1])):
                got = tensor(theirs[key], wanted)
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    ends = {start: [one["losses"][-1] for one in found[start]] for start in found}
    assert sum(ends["reptile"]) < 0.1 * sum(ends["joint"])
