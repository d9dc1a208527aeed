"""The untrained baseline: the row's own settings, on the row's first weights."""

import json
from pathlib import Path

import pytest

from reptile_book import untrained
from reptile_book.__main__ import main
from reptile_lib import FewShotTasks, Reptile, adam, conv4, evaluate, load
from reptile_lib.errors import UserError


@pytest.mark.slow
def test_it_scores_the_first_weights(tmp_path: Path) -> None:
    made = untrained.record("glyphs-5way", 1, tmp_path, "cpu", {"eval_tasks": 3})
    path = tmp_path / "glyphs-5way-untrained" / "seed-1.json"
    assert json.loads(path.read_text("utf-8")) == made
    assert made["config"]["meta_steps"] == 0
    plain = Reptile(conv4(5, seed=1), adam(1e-3), 5, 10, device="cpu")
    for shots in (1, 5):
        tasks = FewShotTasks(load("glyphs").test, 5, shots)
        score = evaluate(plain, tasks, inner_batch=5, count=3, seed=1)
        assert made["metrics"][f"{shots}-shot"] == score.as_dict()
    asked = ["untrained", "glyphs-5way", "--seeds", "1", "--results", str(tmp_path)]
    assert main(asked) == 2  # recorded already


def test_sine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sine"):
        untrained.record("sine", 0, tmp_path)
