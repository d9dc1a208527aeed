"""What can be measured of a page: words, lines of code, figures, minutes."""

import ast
import builtins
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.book.rules import IMAGES, Json, claims, tags, text

FOLDED = {"hide-input", "remove-input"}
FENCE = re.compile(r"\s*(`{3,}|~{3,}|:{3,})(\{[^}]*\})?")
STYLING = {"plots", "plt"}
"""What a visible cell may have from a folded one: the style of figures."""


@dataclass(frozen=True)
class Page:
    """A page of the book: a notebook, or markdown alone."""

    nb: Json

    @classmethod
    def read(cls, path: Path) -> "Page":
        """Read a notebook, or a markdown file as a notebook of one cell."""
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            return cls(json.loads(source))
        cell = {"cell_type": "markdown", "metadata": {}, "source": source}
        return cls({"cells": [cell], "metadata": {}})

    @property
    def lesson(self) -> list[Json]:
        """The cells before the exercises."""
        found = []
        for cell in self.nb["cells"]:
            if cell["cell_type"] == "markdown" and re.search(
                r"^## Exercises", text(cell["source"]), re.MULTILINE
            ):
                break
            found.append(cell)
        return found

    @property
    def markdown(self) -> str:
        """All prose, exercises included."""
        kind = "markdown"
        parts = [c for c in self.nb["cells"] if c["cell_type"] == kind]
        return "\n\n".join(text(c["source"]) for c in parts)

    @cached_property
    def words(self) -> int:
        """Words of the prose before the exercises; a formula counts as one."""
        parts = [c for c in self.lesson if c["cell_type"] == "markdown"]
        prose = "\n\n".join(text(c["source"]) for c in parts)
        prose = re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", " formula ", prose, flags=re.DOTALL)
        lines = [
            line
            for line in prose.splitlines()
            if not FENCE.match(line) and not re.match(r"\s*:[\w-]+:", line)
        ]
        shown = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))  # addresses of links
        shown = re.sub(r"\{[a-z:]+\}`", "`", shown)
        return len(re.findall(r"[^\W_][\w'’.,\-–]*", shown))

    def code(self, *, folded: bool) -> list[Json]:
        """Return the code cells of the lesson that are shown, or those that are not."""
        cells = [c for c in self.lesson if c["cell_type"] == "code"]
        return [c for c in cells if bool(tags(c) & FOLDED) == folded]

    def lines(self, *, folded: bool) -> int:
        """Count their lines, empty ones apart."""
        sources = [text(c["source"]) for c in self.code(folded=folded)]
        return sum(bool(line.strip()) for s in sources for line in s.splitlines())

    @cached_property
    def figures(self) -> int:
        """Pictures of the lesson, drawn by code or put into the text."""
        drawn = [c for c in self.lesson if c["cell_type"] == "code" and draws(c)]
        parts = [c for c in self.lesson if c["cell_type"] == "markdown"]
        put = sum(len(re.findall(r"\{figure\}", text(c["source"]))) for c in parts)
        return len(drawn) + put

    @property
    def claims(self) -> int:
        """Calls of `claim`, exercises included."""
        cells = [c for c in self.nb["cells"] if c["cell_type"] == "code"]
        return sum(len(claims(text(c["source"]))) for c in cells)

    @property
    def minutes(self) -> int:
        """Prose at 200 words and visible code at 15 lines per minute, 30 s a figure."""
        spent = self.words / 200 + self.lines(folded=False) / 15 + self.figures / 2
        return math.ceil(spent)

    @property
    def introduces(self) -> list[str]:
        """Names and terms that the page says it explains first."""
        metadata: dict[str, Any] = self.nb["metadata"].get("reptile", {})
        return list(metadata.get("introduces", []))

    def names(self) -> Iterator[str]:
        """Yield what visible cells import from the library and the book's package."""
        for cell in self.nb["cells"]:
            if cell["cell_type"] == "markdown" or tags(cell) & FOLDED:
                continue
            for node in ast.walk(ast.parse(text(cell["source"]))):
                if isinstance(node, ast.ImportFrom) and re.match(
                    r"reptile_(lib|book)\b", node.module or ""
                ):
                    yield from (alias.name for alias in node.names)

    def terms(self) -> Iterator[str]:
        """Yield the terms of the glossary that the page refers to."""
        for shown in re.findall(r"\{term\}`([^`]+)`", self.markdown):
            target = re.search(r"<(.+)>$", shown)
            yield target[1] if target else shown


def draws(cell: Json) -> bool:
    """Say whether a code cell stores a picture."""
    data = [output.get("data", {}) for output in cell["outputs"]]
    return any(kind in d for d in data for kind in IMAGES)


def bound(tree: ast.AST) -> set[str]:
    """Return the names that code binds, those inside functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
    return found


def used(tree: ast.AST) -> set[str]:
    """Return the names that code reads and does not bind itself."""
    read = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return read - bound(tree) - set(dir(builtins))
