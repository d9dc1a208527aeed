"""Appendix D: a page per module, in an order in which the library can be read."""

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGES = "chapters/appendices/api/reptile_lib/"


def entries(node: object) -> list[str]:
    """Return the files and globs of a table of contents, from top to bottom."""
    if isinstance(node, dict):
        own = [node[kind] for kind in ("file", "glob") if kind in node]
        return own + [e for value in node.values() for e in entries(value)]
    return (
        [e for child in node for e in entries(child)] if isinstance(node, list) else []
    )


def modules() -> list[str]:
    """Return what the contents name: modules, and a folder's as "fast.*"."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [e for e in entries(contents) if e.startswith(PAGES)]
    return [e.removeprefix(PAGES).removesuffix("/index") for e in found]


def imported(path: Path) -> set[str]:
    """Return the modules of the library that a file imports, without its name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    ours = {m.removeprefix("reptile_lib.") for m in froms if "reptile_lib." in m}
    return ours - {"reading"}  # its leaves, see tests/test_layout.py


def test_every_module_and_folder_has_its_place() -> None:
    library = ROOT / "reptile_lib"
    flat = {p.stem for p in library.glob("*.py") if not p.stem.startswith("_")}
    folders = {p.parent.name for p in library.glob("*/__init__.py")}
    wanted = flat | folders | {f"{folder}/*" for folder in folders}
    assert {m for m in modules() if m != "index"} == wanted


def test_the_pages_are_in_the_order_of_the_imports() -> None:
    order = modules()
    for place, module in enumerate(order):
        path = ROOT / "reptile_lib" / f"{module}.py"
        if path.exists() and module != "learner":  # which joins the folders
            assert imported(path) <= set(order[:place]), module
