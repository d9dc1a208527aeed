"""Rules that hold for every test: the device, and what happens without a data set.

All tests, those of notebooks included, compute on the CPU, also where there is a GPU:
the numbers and tolerances in them are a CPU's. The one test that asks a GPU starts
`benchmarks.gpu.stage correctness` as a process of its own, which sees it.

A notebook names the data sets it needs in its metadata, {"reptile": {"data": [...]}};
a test names them with the marker `needs_data`. Where a set is not at hand they are
skipped, and the reason says how to get it. With REPTILE_REQUIRE_DATA=1 (continuous
integration) every skip whose reason names REPTILE_DATA is a failure. In the same place
a notebook names the packages that need not be installed, {"packages": ["jax"]}.
"""

import json
import os
from collections.abc import Generator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from reptile_book.notebooks import prepare

prepare(os.environ)  # a user's settings of matplotlib change no output

# Before anything asks CUDA, and for all processes that tests start. What was visible is
# kept for the test that needs it; pytest's own workers find it kept already.
os.environ.setdefault("REPTILE_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs_data(*names): skip where one of these data sets is missing"
    )


def has_data(name: str) -> bool:
    """Say whether the data set is in $REPTILE_DATA or in the download cache."""
    from reptile_lib.data.sets import at_hand  # torch takes seconds to import

    return at_hand(name)


@cache
def needs_of_notebook(path: Path, kind: str) -> tuple[str, ...]:
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    return tuple(metadata.get("reptile", {}).get(kind, ()))


def data_of(item: pytest.Item) -> tuple[str, ...]:
    if item.path.suffix == ".ipynb":
        return needs_of_notebook(item.path, "data")
    return tuple(n for mark in item.iter_markers("needs_data") for n in mark.args)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.suffix == ".ipynb":
        for name in needs_of_notebook(item.path, "packages"):
            if find_spec(name) is None:
                pytest.skip(f"{name} is not installed: requirements-frameworks.txt")
    missing = [name for name in data_of(item) if not has_data(name)]
    if missing:
        pytest.skip(
            f"data set missing: {', '.join(missing)}. Get it with"
            f" python -m reptile_lib data get {missing[0]} (all of them: make data),"
            " or set REPTILE_DATA to a folder that holds it"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = os.environ.get("REPTILE_REQUIRE_DATA") == "1"
    if required and report.skipped and "REPTILE_DATA" in (why := str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"skipped, but REPTILE_REQUIRE_DATA=1: {why}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with what was left out for want of data, and what to do about it."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if "data set missing" in str(report.longrepr)
    ]
    notebooks = {r.nodeid.split("::")[0] for r in skipped if ".ipynb" in r.nodeid}
    tests = [report for report in skipped if ".ipynb" not in report.nodeid]
    for count, what in ((len(notebooks), "notebooks"), (len(tests), "tests")):
        if count:
            terminalreporter.write_line(f"{count} {what} skipped: make data")
