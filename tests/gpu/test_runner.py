"""The GPU kit's runner: whatever becomes of a stage, the others report."""

import math
import sys
import time
from pathlib import Path

from benchmarks.gpu import stage
from benchmarks.gpu.plan import STAGES, stages
from benchmarks.gpu.record import Report, read
from benchmarks.gpu.runner import Stage, run_all
from tests.gpu.readme import documented


def python(name: str, code: str, seconds: float = 60.0) -> Stage:
    return Stage(name, [sys.executable, "-c", code], seconds)


REPORTS = (
    'import pathlib, sys; pathlib.Path({!r}).write_text(\'{{"result": {{"a": 1}}}}\')'
)


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
    assert stage.run("limits", tmp_path, time.time() + 60, dry=False) == 1
    found = read(tmp_path / "limits.json")
    assert "finds no CUDA GPU; --dry" in found["traceback"]
    assert found["result"] is None


def test_less_time_is_less_for_all_and_more_is_for_the_last(tmp_path: Path) -> None:
    def limits(minutes: float) -> list[float]:
        return [s.seconds for s in stages(tmp_path, 60 * minutes, dry=False)]

    assert limits(8) == limits(20) == list(STAGES.values())
    assert limits(4)[:-1] == [seconds / 2 for seconds in limits(8)[:-1]]
    assert sum(limits(8)[:2]) <= 60
    assert sum(limits(8)[:-1]) <= 480
