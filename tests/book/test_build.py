"""`make book` in a book of a few pages: it depends on no earlier build."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENTS = """
format: jb-book
root: intro
chapters:
  - file: chapters/page
  - file: chapters/appendices/api
    sections:
      - file: chapters/appendices/api/reptile_lib/index
      - glob: chapters/appendices/api/reptile_lib/*/index
"""
FILES = {
    "_toc.yml": CONTENTS,
    "intro.md": "# A book\n",
    "chapters/page.md": "# A page\n",
    "chapters/appendices/api.md": "# API\n\n```{tableofcontents}\n```\n",
    "reptile_lib/__init__.py": '"""The library."""\n',
    "reptile_lib/same.py": '"""A module that stays."""\n',
    "reptile_lib/old.py": '"""A module that goes."""\n',
}
CHANGED = FILES | {
    "chapters/page.md": "# Another title\n",
    "reptile_lib/same.py": '"""A module with another docstring."""\n',
    "reptile_lib/new.py": '"""A module that comes."""\n',
}
del CHANGED["reptile_lib/old.py"]

pytestmark = pytest.mark.slow


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def make_folder(folder: Path, files: dict[str, str]) -> Path:
    """Lay down a book that is set up like this one."""
    for name in ("_extra", "_static", "_templates"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "_config.yml", "references.bib"):
        shutil.copy(ROOT / name, folder)
    write(folder, files)
    return folder


def make_book(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `make book` with what is installed here; return how it ended."""
    tools = f"BIN={Path(sys.executable).parent}"
    return subprocess.run(
        ["make", tools, "-o", ".venv/book.stamp", "book"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def built(folder: Path) -> dict[str, bytes]:
    """Build the book; return its files but for those copied unchanged."""
    done = make_book(folder)
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
    html = folder / "_build/html"
    files = {p.relative_to(html): p for p in html.rglob("*") if p.is_file()}
    return {str(n): p.read_bytes() for n, p in files.items() if n.parts[0] != "_static"}


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def test_a_build_depends_on_no_earlier_one(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "book", FILES)
    first = built(folder)
    assert {"old", "same"} <= {Path(n).parent.name for n in first}

    (folder / "reptile_lib/old.py").unlink()
    write(folder, CHANGED)
    changed = built(folder)
    assert differing(changed, first)
    fresh = built(make_folder(tmp_path / "fresh", CHANGED))
    assert differing(changed, fresh) == []


def test_every_warning_fails_the_build(tmp_path: Path) -> None:
    toc = CONTENTS.replace("chapters/page", "chapters/paeg")
    folder = make_folder(tmp_path, FILES | {"_toc.yml": toc})
    done = make_book(folder)
    assert "nonexisting document 'chapters/paeg'" in done.stdout
    assert done.returncode != 0

    page = "# A page\n\n{ref}`nowhere`\n"
    write(folder, {"_toc.yml": CONTENTS, "chapters/page.md": page})
    for _ in range(2):  # the second time, Sphinx would not look at the page again
        done = make_book(folder)
        assert "undefined label: 'nowhere'" in done.stdout
        assert done.returncode != 0
