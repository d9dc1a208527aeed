"""A whole run of the GPU kit at tiny sizes: its files, and the page they become."""

import ast
import itertools
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import stage, table
from benchmarks.gpu.plan import STAGES
from benchmarks.gpu.record import read, write
from tests.gpu.readme import ROOT, documented


@pytest.mark.slow
def test_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages, without Omniglot, in this process: importing torch takes as long."""
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    dry = tmp_path / "dry"
    dry.mkdir()
    for name in STAGES:
        status = stage.run(name, dry, time.time() + 3_600, dry=True)
        assert status == 0, read(dry / f"{name}.json")["traceback"]
    check_files(dry)
    check_findings(dry)
    check_page(dry, tmp_path / "some")


def check_files(dry: Path) -> None:
    names = {path.name for path in dry.iterdir()}
    assert names == {f"{name}.json" for name in STAGES} | {"checkpoints.zip"}
    assert len(names) <= 8
    for path in dry.iterdir():
        assert path.stat().st_size <= 2**24
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name)
    trainings = documented("train-5way.json, train-glyphs.json, train-20way.json")
    for name in STAGES:
        result = read(dry / f"{name}.json")["result"]
        if name.startswith("train"):
            assert set(keys(result)) == trainings
            assert result["complete"] is True
            assert math.isfinite(result["canary"]["loss"])
        else:
            assert set(keys(result)) == documented(f"{name}.json"), name


def check_findings(dry: Path) -> None:
    limits, correct, speed = (
        read(dry / f"{name}.json")["result"]
        for name in ("limits", "correctness", "speed")
    )
    assert limits["dry"] is True
    assert limits["copy_bytes_per_second"] > 0
    wrong = [row for row in correct["checks"] if not row["ok"]]
    assert not wrong
    for cell in speed["cells"]:
        ran = {name for name, timing in cell["contenders"].items() if timing}
        assert ran >= {"textbook", "torch", "recorded", "unrecorded", "bf16"}
    assert speed["cells"][1]["contenders"]["compiled"]
    assert not any(cell["tracebacks"]["compiled"] for cell in speed["cells"])
    for found in speed["profiles"]:
        assert found["traceback"] is None
        assert found["busy_seconds"] > 0
    if speed["jax"]["version"] is None:
        assert speed["jax"]["reason"] == "ModuleNotFoundError: No module named 'jax'"


def check_page(dry: Path, some: Path) -> None:
    """The page takes the files as they come."""
    some.mkdir()
    assert table.page_of(some).count(table.MISSING) == 4
    whole = table.page_of(dry)
    assert table.MISSING not in whole
    assert "| Conv4, 1 |" in whole
    assert re.search(r"\| glyphs-5way \| 3 \| 4 \|", whole)
    for name in ("limits", "speed"):
        (some / f"{name}.json").write_bytes((dry / f"{name}.json").read_bytes())
    write(some / "train-5way.json", {"status": "failed", "result": None})
    assert table.page_of(some).count(table.MISSING) == 2
    for line in itertools.chain(whole.splitlines(), [table.page_of(some)]):
        assert "None" not in line or "CUDA None" in line


@pytest.mark.slow
def test_the_command_runs_stages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--only", "limits"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("limits: ok, ")
    record = read(tmp_path / "limits.json")
    assert (record["status"], record["limit_seconds"]) == ("ok", 3_600)
    assert record["result"]["dry"] is True


VARIABLE = [
    (r"(?<=^versions\.)[^.]+", "NAME"),
    (r"(?<=^config\.)[^.]+", "NAME"),
    (r"(?<=^clocks\.(idle|busy)\.)[^.]+".replace("(idle|busy)", "...."), "NAME"),
    (r"(?<=contenders\.)[^.]+", "NAME"),
    (r"(?<=tracebacks\.)[^.]+", "NAME"),
    (r"(?<=^score_seconds_per_task\.)[^.]+", "NAME"),
    (r"(?<=^gemm_flops_per_second\.).+", "PRECISION.SIZE"),
    (r"(?<=^stack_flops_per_second\.).+", "PRECISION.TASKS"),
    (
        r"(?<=^metrics\[\]\.)[15]-shot\.((non_)?transductive|support_statistics)",
        "SHOTS.PROTOCOL",
    ),
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


def test_the_page_in_the_book_is_that_of_the_files() -> None:
    page = (ROOT / table.PAGE).read_text(encoding="utf-8")
    assert page == table.page_of(ROOT / "results" / "benchmarks" / "gpu")


BARE = {
    *("numpy", "tqdm", "torch", "torchvision", "jax", "safetensors", "filelock"),
    *("matplotlib", "cycler", "PIL"),  # it brings the last two
    *("benchmarks", "reptile_lib"),
    "reptile_book",  # its rows and records, which need no more
    "sklearn",  # where one of its two data sets is loaded, which the kit does not
}


def test_nothing_is_imported_that_a_bare_machine_lacks() -> None:
    files = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("reptile_lib/**/*.py")]
    files += [ROOT / "reptile_book" / f"{name}.py" for name in ("records", "rows")]
    twins = {*ROOT.glob("reptile_lib/frameworks/*.py")}  # imported where they can be
    twins.remove(ROOT / "reptile_lib/frameworks/torch_loop.py")
    twins.add(ROOT / "benchmarks/keras_loop.py")  # not on a GPU
    found = set()
    for path in {*files} - twins:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    assert found - sys.stdlib_module_names <= BARE
