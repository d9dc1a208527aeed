"""Pages are written as CONTRIBUTING says; and each rule can fail."""

import base64
import copy
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.book import style
from tests.book.measures import Page
from tests.book.rules import Json, text
from tests.book.test_notebooks import code, markdown, stream

ROOT = Path(__file__).parents[2]

# (page, rule): why the page breaks it.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("chapters/appendices/errata", "article_is_no_opponent"): "it is its subject"
}


def reading_order() -> list[str]:
    """Return the pages of the contents, the preface first, without endings."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))

    def walk(node: Json) -> list[str]:
        own = [node[key] for key in ("root", "file") if key in node]
        inside = [*node.get("parts", []), *node.get("chapters", [])]
        return own + [f for n in [*inside, *node.get("sections", [])] for f in walk(n)]

    return walk(toc)


def path_of(name: str) -> Path:
    notebook = ROOT / f"{name}.ipynb"
    return notebook if notebook.exists() else ROOT / f"{name}.md"


ORDER = [n for n in reading_order() if path_of(n).exists()]
NOTEBOOKS = [n for n in ORDER if path_of(n).suffix == ".ipynb"]


def glossary() -> set[str]:
    source = (ROOT / "chapters/appendices/notation.md").read_text("utf-8")
    inside = source.partition("{glossary}")[2]
    return {line.strip() for line in re.findall(r"^(\S.*)\n {2,}", inside, re.M)}


def test_exceptions_are_of_pages() -> None:
    assert {page for page, _ in EXCEPTIONS} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_page_is_written_for_its_reader(name: str) -> None:
    page = Page.read(path_of(name))
    wrong = [
        f"{rule.__name__}: {words}"
        for rule in style.RULES
        if (name, rule.__name__) not in EXCEPTIONS
        for words in rule(page)
    ]
    assert not wrong, "\n".join([name, *wrong])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_is_used_before_it_is_introduced(name: str) -> None:
    earlier = ORDER[: ORDER.index(name)]
    known = {w for n in earlier for w in Page.read(path_of(n)).introduces}
    page = Page.read(path_of(name))
    wrong = list(style.used_before_introduced(page, known, glossary()))
    stems = {n.rsplit("/", 1)[-1] for n in earlier}
    wrong += style.heads_link_back(text(page.nb["cells"][0]["source"]), stems)
    assert not wrong, "\n".join([name, *wrong])


def test_the_preface_and_chapter_one_take_an_hour() -> None:
    names = ["intro", *(n for n in NOTEBOOKS if n.startswith("chapters/01-"))]
    assert minutes(names) <= 60


def minutes(names: list[str]) -> int:
    return sum(Page.read(path_of(n)).minutes for n in names)


def test_the_ways_through_the_book_say_their_minutes() -> None:
    preface = (ROOT / "intro.md").read_text("utf-8")
    ways = re.findall(r"^\| \*\*(.+)\*\* \| (.+) \| (\d+) \|$", preface, re.M)
    chapters = [n for n in NOTEBOOKS if n.startswith("chapters/0")]
    found = {
        way: minutes(re.findall(r"\]\((.+?)\)", pages) or chapters)
        for way, pages, _ in ways
    }
    assert found == {way: int(told) for way, _, told in ways}
    assert len(found) == 3
    told = re.search(r"(\d+) minutes\.", preface)
    assert told is not None
    assert int(told[1]) == minutes(["intro"])


HEAD = """# 1.1 A title

**What is it?**

It is this, {term}`task` by task.

```{admonition} On this page
:class: page-head
- You will be able to **tell** it.
- You need: [nothing](intro).
- 2 minutes.
```
"""
END = """## What to take away

- One.
- Two.
- Three.

## Exercises

```{exercise} A title
:label: ex-a
```"""


def picture(pixels: int) -> Json:
    """Return an output with the head of a PNG file of this width."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", pixels, 300)
    png = base64.b64encode(head).decode()
    return {"output_type": "display_data", "data": {"image/png": png}}


PICTURE = picture(572)
CAPTION = {"figure": {"caption": "A curve.", "name": "fig-a"}}
GOOD = style.json_page(
    [
        markdown(HEAD),
        code("from reptile_lib import Reptile\nx = Reptile", 1),
        code("y = x", 2, PICTURE, mystnb=CAPTION),
        code('z = 1\nclaim("it is", z == 1)', 3, tags=["hide-input"]),
        code("print(y)", 4, stream("1 2\n3 4\n")),
        markdown("```{figure} a.png\n:name: fig-b\n:alt: b\nA caption.\n```"),
        markdown(END),
    ],
    introduces=["Reptile", "task"],
)


def test_good_page_passes() -> None:
    assert [wrong for rule in style.RULES for wrong in rule(GOOD)] == []
    assert not list(style.used_before_introduced(GOOD, set(), {"task"}))
    assert not list(style.heads_link_back(HEAD, {"intro"}))


def source(cell: int, new: str) -> Callable[[Json], None]:
    return lambda nb: nb["cells"][cell].update(source=new)


def replaced(cell: int, old: str, new: str) -> Callable[[Json], None]:
    def change(nb: Json) -> None:
        assert old in nb["cells"][cell]["source"]
        source(cell, nb["cells"][cell]["source"].replace(old, new))(nb)

    return change


def many(count: int, cell: Json) -> Callable[[Json], None]:
    def change(nb: Json) -> None:
        nb["cells"][1:1] = [copy.deepcopy(cell) for _ in range(count)]

    return change


def metadata(cell: int, **new: object) -> Callable[[Json], None]:
    return lambda nb: nb["cells"][cell].update(metadata=new)


LINES = "\n".join(["x = 1"] * 15)
BAD: dict[str, tuple[str, Callable[[Json], None]]] = {
    "no box": ("page_begins_with_its_answer", source(0, "# 1.1\n\n**What?**")),
    "no question": ("page_begins_with_its_answer", replaced(0, "is it?", "it is.")),
    "no aim": ("page_begins_with_its_answer", replaced(0, "able to", "glad to")),
    "no needs": ("page_begins_with_its_answer", replaced(0, "You need", "Beside")),
    "wrong minutes": ("page_begins_with_its_answer", replaced(0, "2 min", "3 min")),
    "too many words": ("page_is_short", many(1, markdown("word " * 1_801))),
    "too much code": ("page_is_short", many(9, code(LINES, 1))),
    "too much behind": ("page_is_short", many(7, code(LINES, 1, tags=["hide-input"]))),
    "too many figures": ("page_is_short", many(5, code("x", 1, PICTURE))),
    "too many claims": ("page_is_short", many(12, code('claim("a", b)', 1))),
    "too long": ("page_is_short", many(16, markdown("word " * 190))),
    "long cell": ("cells_are_short", source(1, LINES + "\n1")),
    "long cell with plot": ("cells_are_short", source(2, "x\n" * 26)),
    "hidden name": ("visible_code_stands_alone", source(4, "print(z)")),
    "open claim": ("claims_are_folded", metadata(3, tags=[])),
    "no caption": ("figures_have_captions", metadata(2)),
    "no caption in text": (
        "figures_have_captions",
        replaced(5, "A caption.\n", ""),
    ),
    "no name in text": ("figures_have_captions", replaced(5, ":name: fig-b\n", "")),
    "image": ("figures_have_captions", replaced(5, "{figure}", "{image}")),
    "wide figure": (
        "figures_fit_a_phone",
        lambda nb: nb["cells"][2].update(outputs=[picture(700)]),
    ),
    "printed table": (
        "results_are_tables",
        lambda nb: nb["cells"][4].update(outputs=[stream("1 2\n3 4\na 5.0 6\n")]),
    ),
    "article": (
        "article_is_no_opponent",
        replaced(0, "It is", "The article: the article"),
    ),
    "no end": ("page_has_an_end", source(6, "## Exercises")),
    "two points": ("page_has_an_end", replaced(6, "- Two.\n", "")),
    "no title": ("page_has_an_end", replaced(6, "{exercise} A title", "{exercise}")),
}


@pytest.mark.parametrize(("rule", "change"), BAD.values(), ids=BAD)
def test_bad_page_is_caught(rule: str, change: Callable[[Json], None]) -> None:
    nb = copy.deepcopy(GOOD.nb)
    change(nb)
    assert list(getattr(style, rule)(Page(nb))) != []


@pytest.mark.parametrize(
    ("introduces", "known", "wrong"),
    [
        (["task"], set(), "'Reptile' is used here"),
        (["Reptile"], set(), "'task' is used here"),
        (["Reptile", "task"], {"task"}, "'task' was introduced before"),
        (["Reptile", "task", "Sine"], set(), "'Sine' is introduced and not used"),
    ],
)
def test_first_use_is_checked(
    introduces: list[str], known: set[str], wrong: str
) -> None:
    page = style.json_page(GOOD.nb["cells"], introduces=introduces)
    found = list(style.used_before_introduced(page, known, {"task"}))
    assert any(wrong in words for words in found), found


def test_a_link_ahead_is_caught() -> None:
    assert list(style.heads_link_back(HEAD, {"definition"}))


def test_words_are_those_that_are_read() -> None:
    note = "```{note}\n:class: x\nin\n```"
    prose = f"One {{term}}`task` of $a + b$ [link](address.md).\n\n{note}"
    assert Page(style.json_page([markdown(prose)]).nb).words == 6
