"""Training in the GPU kit: slices, checkpoints, and time that runs out."""

import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import seeds, training
from benchmarks.gpu.job import Job
from benchmarks.gpu.library import load_learners, save_learners
from benchmarks.gpu.record import Report, read
from reptile_lib import UserError

CPU = torch.device("cpu")

SIZES = seeds.Sizes(
    canary=2,
    slice_seconds=0.0,
    tasks=(2, 3),
    warm_up=(1, 1),
    changed=dict(seeds.DRY.changed) | {"meta_steps": 6},
)


def trained(
    folder: Path, *deadlines: float
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Train with a deadline, and again; return the results and the checkpoints."""
    folder.mkdir()
    results = []
    for seconds in deadlines:
        report = Report(folder / "x.json")
        job = Job(report, folder, CPU, True, time.time() + seconds)
        training.measure(job, "glyphs-5way", SIZES)
        results.append(read(folder / "x.json")["result"])
    with zipfile.ZipFile(folder / training.CHECKPOINTS) as file:
        phi = {name: file.read(name) for name in file.namelist()}
    return results, phi


def tensors(checkpoint: bytes) -> bytes:
    """Leave the header, which holds seconds, out of a safetensors file."""
    return checkpoint[8 + int.from_bytes(checkpoint[:8], "little") :]


def test_a_training_that_can_end_comes_before_scores() -> None:
    assert training.reserve(200, training=100, scoring=60, least=30) == 60
    assert training.reserve(200, training=160, scoring=60, least=30) == 40
    assert training.reserve(200, training=190, scoring=60, least=30) == 30
    assert training.reserve(200, training=900, scoring=60, least=30) == 30
    assert training.reserve(200, training=900, scoring=20, least=30) == 20


@pytest.mark.slow
def test_time_that_runs_out_is_told_and_training_goes_on(tmp_path: Path) -> None:
    (stopped, resumed), phi = trained(tmp_path / "resumed", -1.0, 600.0)
    (whole,), expected = trained(tmp_path / "whole", 600.0)
    assert stopped["meta_steps_done"] == 2
    assert stopped["complete"] is False
    assert stopped["metrics"] == []
    assert resumed["resumed_from"] == stopped["meta_steps_done"]
    assert whole["resumed_from"] == 0
    assert resumed["complete"] is whole["complete"] is True
    assert phi.keys() == {f"glyphs-5way/seed-{seed}.safetensors" for seed in range(3)}
    for name, content in phi.items():
        assert tensors(content) == tensors(expected[name])
    assert resumed["metrics"] == whole["metrics"]
    assert whole["metrics"][2]["5-shot"]["transductive"]["tasks"] == 3


@pytest.mark.slow
def test_slices_find_the_phi_and_the_epsilon_of_one_go(tmp_path: Path) -> None:
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    once, sliced = (seeds.prepare(job, "glyphs-5way", SIZES) for _ in range(2))
    once.train(6)
    for meta_steps in (1, 3, 6):
        sliced.train(meta_steps)
    for one, other in zip(once.learners, sliced.learners, strict=True):
        assert torch.equal(one.phi, other.phi)
        epsilons = [[row["epsilon"] for row in x.history] for x in (one, other)]
        assert epsilons[0] == epsilons[1]
        assert epsilons[0] == pytest.approx([1 - n / 6 for n in range(6)])


def test_checkpoints_of_other_rows_stay_and_of_other_settings_are_refused(
    tmp_path: Path,
) -> None:
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    run = seeds.prepare(job, "glyphs-5way", SIZES)
    path = tmp_path / "checkpoints.zip"
    for row in ("one", "other", "one"):
        save_learners(path, row, run.learners, run.config)
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == 6
    assert load_learners(path, "one", run.learners, run.config)
    assert not load_learners(path, "third", run.learners, run.config)
    with pytest.raises(UserError, match="lr is"):
        load_learners(path, "one", run.learners, replace(run.config, lr=0.5))


def test_without_omniglot_its_rows_are_of_glyphs_and_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path))
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    run = seeds.prepare(job, "omniglot-5way", SIZES)
    assert (run.row, run.config.data) == ("glyphs-5way-6", "glyphs")


@pytest.mark.needs_data("omniglot")
def test_each_seed_has_a_split_of_omniglot_of_its_own(tmp_path: Path) -> None:
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    run = seeds.prepare(job, "omniglot-5way", SIZES)
    assert run.row == "omniglot-5way"
    assert len({split.test.names for split in run.data}) == 3
