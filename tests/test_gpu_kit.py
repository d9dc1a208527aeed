"""The GPU kit on a CPU: what fails costs only itself; the files are as documented."""

import ast
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import checks, correctness, profiles, seeds, table, training
from benchmarks.gpu.jax_process import JaxProcess
from benchmarks.gpu.job import Job
from benchmarks.gpu.library import load_learners, save_learners
from benchmarks.gpu.plan import STAGES, stages
from benchmarks.gpu.record import Report, read, write
from benchmarks.gpu.runner import Stage, run_all
from reptile_lib import Reptile, UserError, adam, conv4

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def python(name: str, code: str, seconds: float = 60.0) -> Stage:
    return Stage(name, [sys.executable, "-c", code], seconds)


REPORTS = (
    'import pathlib, sys; pathlib.Path({!r}).write_text(\'{{"result": {{"a": 1}}}}\')'
)


# --- the runner: whatever becomes of a stage, the others report


def test_stages_that_fail_hang_or_lack_memory_cost_only_themselves(
    tmp_path: Path,
) -> None:
    def reports(name: str) -> str:
        return REPORTS.format(str(tmp_path / f"{name}.json"))

    memory = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28));"
        "bytes(2**30)"
    )
    child = tmp_path / "child"
    hang = (
        f"{reports('hang')}; import subprocess, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid));"
        f"pathlib.Path({str(tmp_path / '.hang.json.tmp')!r}).write_text('half');"
        "print('last words', file=sys.stderr, flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    found = run_all(
        [
            python("fails", "raise ValueError('one of those')"),
            python("memory", memory),
            python("crashes", "import os; os.kill(os.getpid(), 11)"),
            python("hang", hang, 3.0),
            python("works", reports("works")),
        ],
        tmp_path,
        60.0,
    )
    assert time.monotonic() - began < 30
    by_name = {record["stage"]: record for record in found}
    assert [(r["status"], r["reason"]) for r in found] == [
        ("failed", "exit status 1"),
        ("failed", "exit status 1"),
        ("failed", "ended by SIGSEGV"),
        ("killed", "killed after 3 s"),
        ("ok", None),
    ]
    assert "ValueError: one of those" in by_name["fails"]["stderr"]
    assert "MemoryError" in by_name["memory"]["stderr"]
    assert by_name["hang"]["stderr"] == "last words\n"
    assert by_name["hang"]["result"] == by_name["works"]["result"] == {"a": 1}
    assert not alive(int(child.read_text()))
    child.unlink()
    files = {f"{name}.json" for name in by_name}
    assert {path.name for path in tmp_path.iterdir()} == files
    for record in found:
        assert read(tmp_path / f"{record['stage']}.json") == record
        assert record.keys() == documented("Every file")


def alive(process: int) -> bool:
    """Say whether a process is at work; one that nobody has waited for is not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_stage_learns_when_it_should_end(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(sys.argv[-1])"
    before = time.time()
    run_all([python("one", code, 20.0)], tmp_path, 60.0)
    assert before + 15 < float((tmp_path / "told").read_text()) < before + 20


def test_what_finds_no_time_says_so(tmp_path: Path) -> None:
    (tmp_path / "late.json").write_text('{"result": "of an earlier run"}')
    sleep = python("slow", "import time; time.sleep(600)", 0.5)
    late = python("late", "1 / 0", 30.0)
    slow, skipped = run_all([sleep, late], tmp_path, 7.4)
    assert slow["status"] == "killed"
    assert skipped["status"] == "skipped"
    assert skipped["reason"] in {f"{n} s were left" for n in range(8)}
    assert skipped["result"] is None


def test_a_stage_that_raises_keeps_its_traceback_and_what_it_had(
    tmp_path: Path,
) -> None:
    report = Report(tmp_path / "x.json")
    report.add(first=1.5, bad=math.nan)
    report.fail("Traceback: all of it")
    found = read(tmp_path / "x.json")
    assert found == {
        "traceback": "Traceback: all of it",
        "result": {"first": 1.5, "bad": None},
    }


def test_without_a_gpu_a_stage_says_so(tmp_path: Path) -> None:
    (found,) = run_all(stages(tmp_path, 480.0, ["limits"], dry=False), tmp_path, 480.0)
    assert found["status"] == "failed"
    assert "finds no CUDA GPU; --dry" in found["traceback"]


def test_less_time_is_less_for_all_and_more_is_for_the_last(tmp_path: Path) -> None:
    def limits(minutes: float) -> list[float]:
        return [s.seconds for s in stages(tmp_path, 60 * minutes, dry=False)]

    assert limits(8) == limits(20) == list(STAGES.values())
    assert limits(4)[:-1] == [seconds / 2 for seconds in limits(8)[:-1]]
    assert sum(limits(8)[:2]) <= 60
    assert sum(limits(8)[:-1]) <= 480


# --- checks


def test_a_check_passes_fails_or_raises(tmp_path: Path) -> None:
    def broken() -> float:
        raise ZeroDivisionError("CUDA error")

    def verdict(difference: Any, left: float = 9.0) -> tuple[Any, Any]:
        job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, time.time() + left)
        row = correctness.carry_out(correctness.Check("x", difference, 0.1), job)
        return row["ok"], row["traceback"]

    assert verdict(lambda: 0.1) == (True, None)
    assert verdict(lambda: 0.2) == (False, None)
    assert verdict(lambda: math.nan) == (False, None)
    assert verdict(broken)[0] is False
    assert "CUDA error" in verdict(broken)[1]
    assert verdict(broken, left=0.0) == (None, None)


def test_a_difference_is_relative_to_the_move() -> None:
    learner = Reptile(conv4(5), adam(1e-3), 1, device="cpu")
    start = learner.phi.clone()
    expected = start + 1
    learner.state = learner.state._replace(phi=start + 0.75)
    assert checks.apart(learner, expected, start) == pytest.approx(0.25, rel=1e-5)
    assert checks.apart(learner, start, start) == math.inf


# --- profiles


def test_gaps_are_where_no_kernel_is_at_work() -> None:
    times = [("a", 0, 2), ("b", 1, 3), ("a", 6, 1), ("c", 6.5, 0.25), ("b", 8, 2)]
    events = [{"name": n, "ts": 100 + ts, "dur": dur} for n, ts, dur in times]
    found = profiles.table(events, 5)
    assert found["span_seconds"] == pytest.approx(10e-6)
    assert found["busy_seconds"] == pytest.approx(7e-6)
    assert (found["gaps"], found["launches"]) == (2, 5)
    assert found["longest_gaps_seconds"] == pytest.approx([2e-6, 1e-6])
    assert [(k["name"], k["calls"]) for k in found["kernels"]] == [
        ("b", 2),
        ("a", 2),
        ("c", 1),
    ]


def test_jax_that_takes_too_long_is_given_up() -> None:
    with (
        JaxProcess("cpu") as process,
        pytest.raises(RuntimeError, match="no time for it: import jax"),
    ):
        process.ask(0.0)
    assert process.process.poll() is not None


# --- training

SIZES = seeds.Sizes(
    canary=2,
    every=2,
    checkpoint_seconds=0.0,
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
    assert 2 < stopped["meta_steps_done"] < 6
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
        load_learners(path, "one", run.learners, run.config | {"lr": 0.5})


def test_without_omniglot_its_rows_are_of_glyphs_and_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path))
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    run = seeds.prepare(job, "omniglot-5way", SIZES)
    assert (run.row, run.config["data"]) == ("glyphs-5way-6", "glyphs")


@pytest.mark.needs_data("omniglot")
def test_each_seed_has_a_split_of_omniglot_of_its_own(tmp_path: Path) -> None:
    job = Job(Report(tmp_path / "x"), tmp_path, CPU, True, 0.0)
    run = seeds.prepare(job, "omniglot-5way", SIZES)
    assert run.row == "omniglot-5way"
    assert len({split.test.names for split in run.data}) == 3


# --- a whole run


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dry run, made as a user would."""
    folder = tmp_path_factory.mktemp("gpu") / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


VARIABLE = [
    (r"(?<=^versions\.)[^.]+", "NAME"),
    (r"(?<=^config\.)[^.]+", "NAME"),
    (r"(?<=^clocks\.(idle|busy)\.)[^.]+".replace("(idle|busy)", "...."), "NAME"),
    (r"(?<=contenders\.)[^.]+", "NAME"),
    (r"(?<=tracebacks\.)[^.]+", "NAME"),
    (r"(?<=^score_seconds_per_task\.)[^.]+", "NAME"),
    (r"(?<=^gemm_flops_per_second\.).+", "PRECISION.SIZE"),
    (r"(?<=^stack_flops_per_second\.).+", "PRECISION.TASKS"),
    (r"(?<=^metrics\[\]\.)[15]-shot\.(non_)?transductive", "SHOTS.PROTOCOL"),
]


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Yield the keys of a record, as README.md writes them."""
    if isinstance(value, list):
        for one in value:
            yield from keys(one, path + "[]")
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from keys(one, f"{path}.{name}".removeprefix("."))
    else:
        for pattern, word in VARIABLE:
            path = re.sub(pattern, word, path)
        yield path


def documented(heading: str) -> set[str]:
    """Return the keys under a heading of the README."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.M))


@pytest.mark.slow
def test_a_dry_run_writes_what_is_documented(dry: Path) -> None:
    names = {path.name for path in dry.iterdir()}
    assert names == {f"{stage}.json" for stage in STAGES} | {"checkpoints.zip"}
    assert len(names) <= 8
    for path in dry.iterdir():
        assert path.stat().st_size <= 2**24
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name)
    trainings = documented("train-5way.json, train-glyphs.json, train-20way.json")
    for stage in STAGES:
        record = read(dry / f"{stage}.json")
        assert record["status"] == "ok", record
        result = record["result"]
        if stage.startswith("train"):
            assert set(keys(result)) == trainings
            assert result["complete"] is True
            assert math.isfinite(result["canary"]["loss"])
        else:
            expected = documented(f"{stage}.json")
            assert set(keys(result)) == expected, stage


@pytest.mark.slow
def test_a_dry_run_finds_what_it_looks_for(dry: Path) -> None:
    limits, correct, speed = (
        read(dry / f"{stage}.json")["result"]
        for stage in ("limits", "correctness", "speed")
    )
    assert limits["dry"] is True
    assert limits["copy_bytes_per_second"] > 0
    wrong = [row for row in correct["checks"] if not row["ok"]]
    assert not wrong
    for cell in speed["cells"]:
        ran = {name for name, timing in cell["contenders"].items() if timing}
        assert ran >= {"textbook", "recorded", "unrecorded", "bf16"}
    for found in speed["profiles"]:
        assert found["traceback"] is None
        assert found["busy_seconds"] > 0
    if speed["jax"]["version"] is None:
        assert speed["jax"]["reason"] == "ModuleNotFoundError: No module named 'jax'"


@pytest.mark.slow
def test_the_page_takes_the_files_as_they_come(dry: Path, tmp_path: Path) -> None:
    assert table.page_of(tmp_path).count(table.MISSING) == 4
    whole = table.page_of(dry)
    assert table.MISSING not in whole
    assert "| Conv4, 1 |" in whole
    assert re.search(r"\| glyphs-5way \| 3 \| 4 \|", whole)
    for name in ("limits", "speed"):
        (tmp_path / f"{name}.json").write_bytes((dry / f"{name}.json").read_bytes())
    write(tmp_path / "train-5way.json", {"status": "failed", "result": None})
    assert table.page_of(tmp_path).count(table.MISSING) == 2
    for line in itertools.chain(whole.splitlines(), [table.page_of(tmp_path)]):
        assert "None" not in line or "CUDA None" in line


def test_the_page_in_the_book_is_that_of_the_files() -> None:
    page = (ROOT / table.PAGE).read_text(encoding="utf-8")
    assert page == table.page_of(ROOT / "results" / "benchmarks" / "gpu")


BARE = {
    *("numpy", "tqdm", "torch", "torchvision", "jax", "safetensors", "filelock"),
    *("matplotlib", "cycler", "PIL"),  # it brings the last two
    *("benchmarks", "reptile_lib"),
}


def test_nothing_is_imported_that_a_bare_machine_lacks() -> None:
    files = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("reptile_lib/**/*.py")]
    found = set()
    for path in files:
        if path.name == "make_glyphs.py":  # draws the letters that are stored
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    assert found - sys.stdlib_module_names <= BARE


@pytest.mark.slow
def test_this_machines_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    visible = os.environ["REPTILE_GPUS"]
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if visible != "all":
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", "correctness"]
    command += ["--out", str(tmp_path), "--minutes", "8"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = json.loads((tmp_path / "correctness.json").read_text(encoding="utf-8"))
    if "finds no CUDA GPU" in (found["traceback"] or ""):
        pytest.skip("torch finds no CUDA GPU")
    assert found["status"] == "ok", found["stderr"]
    assert [row for row in found["result"]["checks"] if not row["ok"]] == []
