"""The rules a notebook of the book must keep. Each returns what is wrong, in words."""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from reptile_book.notebooks import CELL_METADATA, FORMAT, KERNELSPEC

Json = Any
"""A notebook, a cell or an output, as the file has it."""

Rule = Callable[[Json], Iterator[str]]

MAX_COLUMNS = 78
MAX_LINES = 25
TAGS = {"nbval-ignore-output", "hide-input", "remove-input", "keep-colors"}
IMAGES = ("image/png", "image/svg+xml", "image/jpeg", "image/gif")
ABSOLUTE = re.compile(
    r"(?<![\w.:/~-])/(home|root|tmp|Users|usr|opt|var|work|mnt|content)/|\b[A-Z]:\\\\"
)
LOOPHOLES = re.compile(r"NBVAL_|PYTEST_VALIDATE|^\s*[%!]", re.MULTILINE)


def text(value: Json) -> str:
    return value if isinstance(value, str) else "".join(value)


def cells(nb: Json, kind: str) -> Iterator[tuple[int, Json, str]]:
    """Yield (number, cell, source) of the code or markdown cells."""
    number = 0
    for cell in nb["cells"]:
        if cell["cell_type"] == kind:
            number += 1
            yield number, cell, text(cell["source"])


def tags(cell: Json) -> set[str]:
    return set(cell["metadata"].get("tags", ()))


def code_is_executed_in_order(nb: Json) -> Iterator[str]:
    for number, cell, source in cells(nb, "code"):
        if not source.strip():
            yield f"code cell {number} is empty"
        elif cell["execution_count"] != number:
            yield f"code cell {number} has execution count {cell['execution_count']}"


def code_fits_a_page(nb: Json) -> Iterator[str]:
    for number, _, source in cells(nb, "code"):
        lines = source.splitlines()
        if len(lines) > MAX_LINES:
            yield f"code cell {number} has {len(lines)} lines, at most {MAX_LINES}"
        for line in lines:
            if len(line) > MAX_COLUMNS:
                yield f"code cell {number}: {len(line)} columns in {line.strip()!r}"


def output_is_clean(nb: Json) -> Iterator[str]:
    for number, cell, _ in cells(nb, "code"):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"code cell {number} stores an error"
            if output.get("name") == "stderr":
                yield f"code cell {number} wrote to stderr"
            for kind, shown in printed(output):
                if "\r" in shown:
                    yield f"code cell {number} stores a progress bar"
                if re.search(r" at 0x[0-9a-f]{6,}", shown):
                    yield f"code cell {number} shows a memory address"
                if "widget-view" in kind:
                    yield f"code cell {number} shows a widget, which pages cannot draw"


def printed(output: Json) -> Iterator[tuple[str, Json]]:
    """Yield (kind, text) of what an output shows, without pictures."""
    if "text" in output:
        yield "stream", text(output["text"])
    for kind, value in output.get("data", {}).items():
        if kind not in IMAGES:
            yield kind, value if isinstance(value, dict) else text(value)


def no_output_escapes_comparison(nb: Json) -> Iterator[str]:
    for number, cell, source in cells(nb, "code"):
        for tag in sorted(tags(cell) - TAGS):
            yield f"code cell {number} has the tag {tag}; allowed: {sorted(TAGS)}"
        if LOOPHOLES.search(source):
            yield f"code cell {number} uses a marker of nbval, a magic or the shell"


def ignored_output_is_followed_by_a_claim(nb: Json) -> Iterator[str]:
    open_cell = None
    for number, cell, source in cells(nb, "code"):
        if "nbval-ignore-output" in tags(cell):
            if open_cell:
                yield f"no claim() between the ignored code cells {open_cell}, {number}"
            open_cell = number
        elif claims(source):
            open_cell = None
    if open_cell:
        yield f"no claim() after code cell {open_cell}, whose output is not compared"


def claims(source: str) -> list[ast.Call]:
    """Return the calls of claim() in a cell."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic, which another rule forbids
        return []
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "claim"
    ]


def claims_are_plain_words(nb: Json) -> Iterator[str]:
    """A claim is compared on every machine: a fixed text, without numbers."""
    for number, _, source in cells(nb, "code"):
        for call in claims(source):
            words = call.args[0] if call.args else None
            if not (isinstance(words, ast.Constant) and isinstance(words.value, str)):
                yield f"code cell {number}: claim() must begin with a plain string"
            elif re.search(r"\d", words.value):
                yield f"code cell {number}: digits in the claim {words.value!r}"


def prose(nb: Json) -> list[str]:
    """Return the markdown without what stands in fences."""
    lines: list[str] = []
    fence: str | None = None
    for _, _, source in cells(nb, "markdown"):
        for line in source.splitlines():
            mark = re.match(r"\s*(`{3,}|~{3,}|:{3,})", line)
            if fence:
                if mark and line.strip() == fence:
                    fence = None
            elif mark:
                fence = mark[1]
            else:
                lines.append(line)
        fence = None
    return lines


def headings(nb: Json) -> list[tuple[int, str]]:
    marks = (re.match(r"(#{1,6})\s+(.*)", line) for line in prose(nb))
    return [(len(mark[1]), mark[2].strip()) for mark in marks if mark]


def headings_are_in_order(nb: Json) -> Iterator[str]:
    found = headings(nb)
    first = text(nb["cells"][0]["source"]) if nb["cells"] else ""
    if not first.startswith("# "):
        yield "the first cell does not begin with the title"
    titles = sum(level == 1 for level, _ in found)
    if titles != 1:
        yield f"{titles} titles (# ...) instead of one"
    for (above, _), (level, words) in pairwise(found):
        if level > above + 1:
            yield f"heading {words!r} skips a level"


def exercises_have_solutions(nb: Json) -> Iterator[str]:
    source = "\n\n".join(s for _, _, s in cells(nb, "markdown"))
    fence = r"^[`:]{3,}\{%s\}[ \t]*(.*)\n((?::.*\n)*)"
    exercises = [
        label[1]
        for _, options in re.findall(
            fence % "exercise(?:-start)?", source + "\n", re.MULTILINE
        )
        if (label := re.search(r"^:label:\s*(\S+)", options, re.MULTILINE))
    ]
    count = len(re.findall(r"^[`:]{3,}\{exercise(?:-start)?\}", source, re.MULTILINE))
    if not 2 <= count <= 4:
        yield f"{count} exercises; a section has two to four"
    if count != len(exercises):
        yield "an exercise has no :label:"
    solved = []
    for label, options in re.findall(
        fence % "solution(?:-start)?", source + "\n", re.MULTILINE
    ):
        solved.append(label.strip())
        if not re.search(r"^:class:.*\bdropdown\b", options, re.MULTILINE):
            yield f"the solution of {label.strip()} is not hidden (:class: dropdown)"
    if sorted(solved) != sorted(exercises):
        yield f"exercises {sorted(exercises)} but solutions {sorted(solved)}"


def sources_are_named(nb: Json) -> Iterator[str]:
    if "References" not in [words for level, words in headings(nb) if level == 2]:
        yield "no section ## References"
    if not any("{cite" in s for _, _, s in cells(nb, "markdown")):
        yield "nothing is cited"


def pictures_are_described(nb: Json) -> Iterator[str]:
    for number, cell, _ in cells(nb, "code"):
        data = [output.get("data", {}) for output in cell["outputs"]]
        pictures = sum(any(kind in d for kind in IMAGES) for d in data)
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if pictures and not alt.strip():
            yield (
                f"code cell {number} draws a picture without alt text"
                " (metadata: mystnb.image.alt)"
            )
        if pictures > 1:
            yield f"code cell {number} draws {pictures} pictures with one alt text"
        for html in (text(d["text/html"]) for d in data if "text/html" in d):
            if any('alt="' not in tag for tag in re.findall(r"<img[^>]*>", html)):
                yield f"code cell {number} shows HTML with an undescribed <img>"
    for number, _, source in cells(nb, "markdown"):
        if re.search(r"!\[\s*\]\(", source):
            yield f"markdown cell {number}: a picture without alt text"
        for options in re.findall(r"\{(?:figure|image)\}[^\n]*\n((?::.*\n)*)", source):
            if ":alt:" not in options:
                yield f"markdown cell {number}: a figure without :alt:"


def no_path_of_a_machine(nb: Json) -> Iterator[str]:
    for kind in ("code", "markdown"):
        for number, cell, source in cells(nb, kind):
            shown = [s for out in cell.get("outputs", ()) for _, s in printed(out)]
            for words in (source, *map(str, shown)):
                if hit := ABSOLUTE.search(words):
                    yield f"{kind} cell {number} holds the absolute path {hit[0]}..."


def metadata_is_minimal(nb: Json) -> Iterator[str]:
    metadata = dict(nb["metadata"])
    if metadata.pop("kernelspec", None) != KERNELSPEC:
        yield f"the kernelspec is not {KERNELSPEC}"
    if metadata.pop("language_info", None) != {"name": "python"}:
        yield 'language_info is not {"name": "python"}'
    if set(metadata) - {"reptile"}:
        yield f"other metadata: {sorted(set(metadata) - {'reptile'})}"
    if (nb["nbformat"], nb["nbformat_minor"]) != FORMAT:
        yield f"the format is not {FORMAT}"
    for cell in nb["cells"]:
        if extra := set(cell["metadata"]) - set(CELL_METADATA):
            yield f"a cell holds the metadata {sorted(extra)} (run `make notebooks`)"


RULES: list[Rule] = [
    code_is_executed_in_order,
    code_fits_a_page,
    output_is_clean,
    no_output_escapes_comparison,
    ignored_output_is_followed_by_a_claim,
    claims_are_plain_words,
    headings_are_in_order,
    exercises_have_solutions,
    sources_are_named,
    pictures_are_described,
    no_path_of_a_machine,
    metadata_is_minimal,
]
