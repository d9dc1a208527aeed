"""The house of DESIGN.md, read off the source: who imports whom, how large it is."""

import ast
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIB = ROOT / "reptile_lib"
# Each of these may import those on the lines above it.
ORDER = """errors
params inner rng device examples
tasks
kernel
inner_loop
meta
evaluation"""
ALGORITHM = ["kernel", "inner_loop", "meta", "evaluation", "tasks", "inner", "params"]
# A folder imports the flat top and itself; besides:
LEAVES = ["reading.folder", "reading.table"]  # they import no more than FEW
FEW = {"errors", "storage.files"}
EXCEPTIONS = [
    *(("examples", leaf) for leaf in LEAVES),
    ("distributions", "reading.table"),
    ("fast", "models.conv4"),
    ("data", "reading"),
    ("reading", "storage.files"),
    ("frameworks", "storage.files"),
    ("theory", "optimizers.formulas"),
]
ALL_FOLDERS = ["learner", "__init__", "__main__", "fit", "runs"]

TEXTS = {
    ".".join(path.relative_to(LIB).with_suffix("").parts): path.read_text("utf-8")
    for path in LIB.rglob("*.py")
}
LENGTHS = {name: len(text.splitlines()) for name, text in TEXTS.items()}
FOLDER = {name: name.split(".")[0] if "." in name else "" for name in TEXTS}


def every_import(name: str) -> set[str]:
    """Return all that a file imports, also inside functions: `torch`, `fast.conv4`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(TEXTS[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {n for n in names if n.removeprefix("reptile_lib.") in TEXTS}
            found |= modules or {f"{'.' * node.level}{node.module}"}
    ours = {module.removeprefix("reptile_lib.") for module in found}
    return {f"{m}.__init__" if f"{m}.__init__" in TEXTS else m for m in ours}


IMPORTS = {name: every_import(name) for name in TEXTS}


def test_imports_point_down() -> None:
    for name, imported in IMPORTS.items():
        mine = FOLDER[name]
        for other in imported & set(TEXTS):
            near, who = FOLDER[other] in ("", mine), mine or name
            excepted = {(who, other), (who, FOLDER[other])} & {*EXCEPTIONS}
            assert near or excepted or who in ALL_FOLDERS, f"{name} imports {other}"
        roots = {module.split(".")[0] for module in imported}
        assert not roots & {"reptile_book", "benchmarks", "tests", ""}, name
        assert "TYPE_CHECKING" not in TEXTS[name], name
    above: set[str] = set()
    for line in ORDER.split("\n"):
        for name in line.split():
            assert IMPORTS[name] & set(TEXTS) <= above | {*LEAVES}, name
        above |= set(line.split())
    for leaf in LEAVES:
        assert IMPORTS[leaf] & set(TEXTS) <= FEW, leaf
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError for a circle


def test_the_algorithm_names_no_network() -> None:
    for name in ALGORITHM:
        nodes = ast.walk(ast.parse(TEXTS[name]))
        used = {getattr(n, "id", getattr(n, "attr", "")).lower() for n in nodes}
        assert not [n for n in used if "conv4" in n or "mlp" in n], name


# Most lines of a folder's files together: 2,000 for the flat top, 1,200 for a folder.
# A further data set or network makes nothing else harder to read: they are left out of
# the rest, as is what reads files for them, and loops in other frameworks. Its aim is
# 5,200; what makes it grow must be worth it (the last was: meta-steps in a row as one
# graph of a GPU).
MOST = {"": 1_999, "fast": 1_199, "data": 1_800}
LEFT_OUT = ("data", "reading", "models", "frameworks")
MOST_IN_ALL = 7_407


def test_files_and_folders_stay_small() -> None:
    long = {name: n for name, n in LENGTHS.items() if n > 300}
    assert not long
    for folder in {*FOLDER.values()}:
        mine = {name for name in LENGTHS if FOLDER[name] == folder} - {"__main__"}
        total = sum(LENGTHS[name] for name in mine)
        most = MOST.get(folder, 1_200)
        assert total <= most, f"{folder or 'the flat top'} has {total} lines"
    rest = [n for name, n in LENGTHS.items() if FOLDER[name] not in LEFT_OUT]
    assert sum(rest) <= MOST_IN_ALL


def test_what_is_tracked_stays_small() -> None:
    told = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    paths = [ROOT / name for name in told.split("\0") if name]
    assert sum(path.stat().st_size for path in paths if path.is_file()) <= 45e6
