"""The recorded networks under three protocols."""

import json
import math
from pathlib import Path

import pytest

from reptile_book import protocols, records
from reptile_lib import FewShotTasks, UserError, load
from reptile_lib.runs import run

RESULTS = Path(__file__).parents[2] / "results"
PHI = "glyphs-5way/seed-1.safetensors"


@pytest.mark.slow
def test_a_phi_is_scored_once(tmp_path: Path) -> None:
    phi = tmp_path / PHI
    phi.parent.mkdir()
    phi.write_bytes((RESULTS / PHI).read_bytes())
    said: list[str] = []
    (made,) = protocols.several(["glyphs-5way"], [0, 1], tmp_path, 3, said.append)
    stored = json.loads((tmp_path / "protocols/glyphs-5way-1.json").read_text("utf-8"))
    assert made == stored
    assert made["seed"] == 1
    assert "5-shot\ntransductive: " in said[1]
    learner, settings = run.reopen(phi, "cpu", shots=5, eval_tasks=3)
    scores = run.score(learner, settings, FewShotTasks(load("glyphs").test, 5, 5))
    assert made["metrics"]["5-shot"] == scores.as_dict()
    together, alone, kept = (s.values for s in scores)
    for name, other in (("transductive", together), ("non_transductive", alone)):
        found = made["differences"]["5-shot"][name]
        assert found["accuracy"] == pytest.approx((kept - other).mean().item())
    assert protocols.main(["--rows", "glyphs-5way", "--results", str(tmp_path)]) == 2
    with pytest.raises(UserError, match=r"glyphs-5way-1.json is recorded; delete it"):
        protocols.several(["glyphs-5way"], [1], tmp_path)
    with pytest.raises(UserError, match=r"seed-0.safetensors does not exist; make"):
        protocols.several(["glyphs-5way"], [0], tmp_path)


def test_the_table_has_a_column_a_protocol(tmp_path: Path) -> None:
    def score(accuracy: float) -> dict[str, float]:
        return {"accuracy": accuracy, "ci95": 0.01, "tasks": 10}

    for seed in (0, 1):
        found = {
            name: score(level + 0.02 * seed)
            for name, level in zip(protocols.PROTOCOLS, (0.9, 0.8, 0.7), strict=True)
        }
        made = {"metrics": {"1-shot": found, "5-shot": found}}
        records.write(tmp_path / f"protocols/glyphs-5way-{seed}.json", made)
    head, _, first, _ = protocols.table(tmp_path).splitlines()
    assert head.count("|") == first.count("|")
    assert "non-transductive, % | support statistics, %" in head
    # the mean over two seeds, and their standard deviation
    assert first == "| `glyphs-5way` | 1 | 91.0 ± 1.4 | 81.0 ± 1.4 | 71.0 ± 1.4 | 2 |"


def test_the_committed_table_is_made_from_the_committed_records() -> None:
    made = protocols.table(RESULTS)
    assert (RESULTS / "protocols.md").read_text("utf-8") == made
    assert len(made.splitlines()) == 2 + 2 * len(protocols.SCORED)


@pytest.mark.parametrize(
    "path", sorted((RESULTS / "protocols").glob("*.json")), ids=str
)
def test_the_two_old_protocols_agree_with_the_rows_own_record(path: Path) -> None:
    record = records.read_one(path)
    own = records.read_one(RESULTS / record["row"] / f"seed-{record['seed']}.json")
    for shots, scores in record["metrics"].items():
        for name in ("transductive", "non_transductive"):
            here, there = scores[name], own["metrics"][shots][name]
            assert here["tasks"] == 1_000
            # the first 1,000 of those 10,000 tasks
            error = math.hypot(here["ci95"], there["ci95"]) / 1.96
            assert abs(here["accuracy"] - there["accuracy"]) < 3 * error
        kept, difference = scores["support_statistics"], record["differences"][shots]
        apart = kept["accuracy"] - scores["non_transductive"]["accuracy"]
        assert apart == pytest.approx(difference["non_transductive"]["accuracy"])
        assert kept["accuracy"] > 0.5  # chance is a fifth
