"""The benchmarks measure what they say; no time is asserted."""

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import figures, memory, processes, speed, timing
from benchmarks.__main__ import main
from benchmarks.contenders import Library
from benchmarks.limit import Product, conv4_flops
from benchmarks.problems import START, Cell, episodes, problem
from reptile_lib import conv4

CPU = torch.device("cpu")
SINE, CONV4 = Cell("sine", 3, 4), Cell("conv4", 2, 3)
each_cell = pytest.mark.parametrize("cell", [SINE, CONV4], ids=["sine", "conv4"])


def test_the_clock_can_start_after_the_first_meta_steps() -> None:
    one, other = Library(SINE, CPU), Library(SINE, CPU)
    other.skipped = 2  # as on a GPU, where `fit` first records graphs
    one(5)
    other(3)
    assert torch.equal(one.phi, other.phi)
    assert one.learner.state.meta_step == START + 5


@each_cell
def test_a_cell_has_the_shapes_it_names(cell: Cell) -> None:
    tasks = problem(cell.problem, cell.ways, CPU).tasks
    (x, _), _, order = episodes(cell, tasks, 0, CPU)
    assert isinstance(x, torch.Tensor)
    shape = (10, 1) if cell.problem == "sine" else (50, 1, 28, 28)
    assert x.shape == (cell.meta_batch, *shape)
    assert order.shape == (cell.meta_batch, cell.inner_steps, 10)


@pytest.mark.parametrize(("batch", "ways", "size"), [(10, 5, 28), (3, 20, 15)])
def test_flops_are_those_that_torch_counts(batch: int, ways: int, size: int) -> None:
    model, images = conv4(ways, size=size), torch.rand(batch, 1, size, size)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), torch.zeros(batch, dtype=torch.long)).backward()
    assert conv4_flops(batch, ways, size=size) == counter.get_total_flops()


def test_a_product_multiplies() -> None:
    product = Product(8, CPU)
    assert product(2) > 0
    torch.testing.assert_close(product.out, product.a @ product.b)


# --- how times are taken


class Fake:
    """A contender of known speed; its first call is slow."""

    def __init__(self, log: list[tuple[str, int]], name: str, seconds: float) -> None:
        self.log, self.name, self.seconds, self.calls = log, name, seconds, 0

    def __call__(self, meta_steps: int) -> float:
        self.log.append((self.name, meta_steps))
        self.calls += 1
        return self.seconds * meta_steps + (self.calls == 1)


def test_contenders_take_turns_and_short_ones_are_repeated() -> None:
    log: list[tuple[str, int]] = []
    effort = timing.Effort(4.0, repetition=1.0, long=50.0, longest=99.0, most=64)
    speeds = {"quick": 1 / 1024, "middling": 0.25, "slow": 16.0}
    speeds |= {"long": 64.0, "longest": 128.0}
    found = timing.measure({n: Fake(log, n, s) for n, s in speeds.items()}, effort)
    meta_steps = {"quick": 64, "middling": 4, "slow": 1, "long": 1, "longest": 1}
    repetitions = {"quick": 64, "middling": 4, "slow": 2, "long": 2, "longest": 1}
    for name, timed in found.items():
        assert (timed.meta_steps, timed.repetitions) == (
            meta_steps[name],
            repetitions[name],
        )
        slowest = speeds[name] + name.startswith("long")  # its warm-up counts
        fastest = slowest if name == "longest" else speeds[name]
        assert (timed.low, timed.high) == pytest.approx((fastest, slowest))
        assert timed.seconds == pytest.approx((fastest + slowest) / 2)
    turns = [name for name, _ in log[8:]]  # after two calls each, one of the long ones
    assert turns[:4] == ["quick", "middling", "slow", "long"]


def test_a_line_through_messages_finds_latency_and_rate() -> None:
    messages = [
        {"floats": n, "seconds": 1e-4 + 4 * n / 2e9} for n in (10, 10**5, 10**7)
    ]
    assert processes.line(messages) == pytest.approx((1e-4, 2e9))


def test_a_team_that_died_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "true")
    with (
        processes.Team(1, 1, CPU) as team,
        pytest.raises(RuntimeError, match="ended before they answered"),
    ):
        team.ask(do="fit")


# --- memory


def test_memory_is_counted_by_hand() -> None:
    with memory.measured(CPU) as peak:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + a  # 8000
        del a
        c = b.view(10, 100)  # a view claims nothing
        del b
        d = c.double()  # 4000 + 8000
        del c
        d.add_(1)
    assert peak.bytes == 12_000


def test_memory_follows_a_buffer_that_grows() -> None:
    with memory.measured(CPU) as peak:
        out = torch.empty(0)
        torch.add(torch.ones(10), 1, out=out)
    assert peak.bytes == 80
    alive = weakref.ref(out)
    del out
    assert alive() is None


# --- a whole run


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that a quick run wrote."""
    folder = tmp_path_factory.mktemp("benchmarks")
    quick = ["--quick", "--device", "cpu", "--out", str(folder)]
    command = [sys.executable, "-m", "benchmarks", *quick]
    subprocess.run(command, cwd=processes.ROOT, check=True)
    (path,) = folder.glob("*.json")
    return path


def keys(value: Any, path: str = "") -> set[str]:
    """Return the keys of a record, as README.md writes them."""
    if isinstance(value, list):
        return {key for v in value for key in keys(v, path + "[]")}
    if not isinstance(value, dict):
        return {path}
    return {key for k, v in value.items() for key in keys(v, f"{path}.{k}")}


def documented() -> set[str]:
    text = Path(processes.ROOT, "benchmarks", "README.md").read_text(encoding="utf-8")
    text, _, _ = text.partition("# On a GPU")
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


NAMED = re.compile(
    r"(?<=\.contenders\.)[^.]+|(?<=\.share\.)[^.]+|(?<=\.versions\.)[^.]+"
    r"|(?<=limit\.flops_per_second\.)[^.]+|(?<=\.processes\.)[12](?=\.|$)"
)


@pytest.mark.slow
def test_a_quick_run_writes_what_is_documented(quick: Path) -> None:
    record = json.loads(quick.read_text(encoding="utf-8"))
    found = {NAMED.sub("NAME", key).removeprefix(".") for key in keys(record)}
    assert found == documented()
    assert record["quick"] is True
    for row in record["speed"]:
        for name, timed in row["contenders"].items():
            if timed:
                assert 0 < timed["low"] <= timed["seconds"] <= timed["high"]
            else:
                only = {"two processes": "conv4", "plain calls": "sine"}
                missing = name in ("jax", "keras")
                assert missing or only[name] != row["problem"]
    (row,) = (r for r in record["speed"] if r["problem"] == "conv4")
    share = row["flops"] / row["flops_per_second"]
    assert row["share"]["library"] == share / row["contenders"]["library"]["seconds"]
    tasks = row["meta_batch"] * row["inner_steps"]
    assert row["flops"] == tasks * conv4_flops(10, row["ways"])


@pytest.mark.slow
def test_memory_of_maml_alone_grows_with_the_inner_steps(quick: Path) -> None:
    rows = json.loads(quick.read_text(encoding="utf-8"))["memory"]
    found = {(r["method"], r["inner_steps"]): r["bytes"] for r in rows}
    few, many = sorted({k for _, k in found})
    for method in ("Reptile", "FOMAML"):
        assert found[method, many] < 1.05 * found[method, few]
    assert found["MAML", many] > 1.5 * found["MAML", few]


@pytest.mark.slow
def test_figures_are_made_again_from_the_file(quick: Path) -> None:
    names = [quick.with_name(f"{quick.stem}-{n}.svg") for n in figures.FIGURES]
    before = [path.read_bytes() for path in names]
    assert main(["--draw", str(quick)]) == 0
    assert [path.read_bytes() for path in names] == before


def test_a_full_run_times_all_sizes() -> None:
    cells = speed.cells(quick=False)
    assert len(set(cells)) == len(cells) == 2 * 4 * 3 + 2
    assert {c.meta_batch for c in cells} == {1, 5, 32, 256}
    assert {c.inner_steps for c in cells} == {1, 5, 10}
    assert {c.ways for c in cells} == {5, 10, 20}


def test_a_missing_record_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--draw", str(tmp_path / "none.json")]) == 2
    assert "cannot read" in capsys.readouterr().err
