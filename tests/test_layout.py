"""The house of DESIGN.md, read off the source: who imports whom, and how large it is."""

import ast
import subprocess
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIB = ROOT / "reptile_lib"
FILES = {
    ".".join(p.relative_to(LIB).with_suffix("").parts): p for p in LIB.rglob("*.py")
}
FLAT = {name for name in FILES if "." not in name}
FOLDERS = {name.split(".")[0] for name in FILES if "." in name}

# Each of these may import those on the lines above it.
ORDER = """
errors
params inner rng schedules device examples
tasks
kernel
inner_loop
meta
evaluation
"""
LINES = [set(line.split()) for line in ORDER.split("\n") if line]
ALGORITHM = {"kernel", "inner_loop", "meta", "evaluation", "tasks", "inner", "params"}
NETWORKS = {"conv4", "mlp"}
# A folder imports the flat top and itself; besides:
EXCEPTIONS = {("fast", "models.conv4"), ("data", "storage.files")}
IMPORT_FOLDERS = {"learner", "__init__", "__main__", "runs"}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def every_import(name: str) -> set[str]:
    """Return all modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {w for w in whole if w.removeprefix("reptile_lib.") in FILES}
            found |= modules or {node.module or ""}
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules of the library among them: `tasks`, `fast.conv4`."""
    ours = {m.removeprefix("reptile_lib.") for m in every_import(name)}
    packages = {f"{m}.__init__" for m in ours if f"{m}.__init__" in FILES}
    return frozenset((ours & set(FILES)) | packages)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_down(name: str) -> None:
    folder = name.split(".")[0] if "." in name else None
    for other in imports(name):
        away = other.split(".")[0] if "." in other else None
        allowed = (
            away in (None, folder)
            or (folder, other) in EXCEPTIONS
            or (folder or name) in IMPORT_FOLDERS
        )
        assert allowed, f"{name} may not import {other}"
    for i, line in enumerate(LINES):
        if name in line:
            above = set().union(*LINES[:i])
            assert imports(name) <= above, f"{name} imports {imports(name) - above}"


def test_there_is_no_circle() -> None:
    list(TopologicalSorter({name: imports(name) for name in FILES}).static_order())


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_library_stands_alone(name: str) -> None:
    roots = {module.split(".")[0] for module in every_import(name)}
    assert not roots & {"reptile_book", "benchmarks", "tests"}
    assert "TYPE_CHECKING" not in FILES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(ALGORITHM))
def test_the_algorithm_names_no_network(name: str) -> None:
    nodes = list(ast.walk(tree(name)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not {n for n in names if any(net in n.lower() for net in NETWORKS)}
    assert not {m for m in imports(name) if "." in m}


def lines(names: set[str]) -> int:
    return sum(len(FILES[n].read_text(encoding="utf-8").splitlines()) for n in names)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_read_in_one_go(name: str) -> None:
    assert lines({name}) <= 300


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_is_one_concern(folder: str) -> None:
    inside = {name for name in FILES if name.startswith(f"{folder}.")}
    assert lines(inside) <= (1_800 if folder == "data" else 1_200)


def test_the_library_stays_small() -> None:
    assert lines(FLAT) <= 2_000


def test_all_of_it_stays_small() -> None:
    assert (
        lines({n for n in FILES if n.split(".")[0] not in ("data", "models")}) <= 5_200
    )


def test_what_is_tracked_stays_small() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    told = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in told.stdout.split("\0") if name]
    assert sum(p.stat().st_size for p in paths if p.exists()) <= 45e6
