"""The built pages: complete, readable, and asking nothing of other sites."""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from tests.rendered.book import (
    ARTICLES,
    HTML,
    PAGES,
    ROOT,
    article,
    name,
    parsed,
    value,
)


def elsewhere(url: str) -> bool:
    """Say whether loading this address would leave the book."""
    parts = urlsplit(url.strip())
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def loaded_by_style(css: str) -> list[str]:
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", css) + re.findall(
        r"@import\s+['\"]([^'\"]+)", css
    )


def loaded_by_script(script: str) -> list[str]:
    """Addresses that a script written into a page would fetch."""
    return re.findall(
        r"(?:fetch|import|importScripts|Worker|WebSocket|EventSource|sendBeacon)"
        r"\(\s*['\"`]([^'\"`]+)|\bfrom\s+['\"]([^'\"]+)['\"]"
        r"|\.(?:src|href)\s*=\s*['\"`]([^'\"`]+)",
        script,
    )


def loaded_by_page(soup: BeautifulSoup) -> Iterator[str]:
    """Yield every address that a browser loads without being asked to."""
    for tag in soup.find_all(True):
        for key in ("src", "data", "poster", "background"):
            if tag.has_attr(key):
                yield value(tag, key)
        if tag.has_attr("srcset"):
            yield from (part.split()[0] for part in value(tag, "srcset").split(","))
        is_loaded = tag.name in ("link", "use", "image") and tag.has_attr("href")
        if is_loaded and "canonical" not in (tag.get("rel") or ()):
            yield value(tag, "href")
        if tag.has_attr("style"):
            yield from loaded_by_style(value(tag, "style"))
        if tag.name == "style":
            yield from loaded_by_style(tag.get_text())
        if tag.name == "script" and not tag.has_attr("src"):
            for groups in loaded_by_script(tag.get_text()):
                yield "".join(groups)
        if tag.name == "meta" and value(tag, "http-equiv").lower() == "refresh":
            yield value(tag, "content").partition("=")[2]


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        '<img src="http://cdn.example/x.png">',
        '<img srcset="a.png 1x, https://cdn.example/x.png 2x">',
        '<iframe src="https://cdn.example/"></iframe>',
        '<p style="background: url(https://cdn.example/x.png)">',
        '<style>@import "https://cdn.example/x.css";</style>',
        "<style>@font-face { src: url('https://cdn.example/x.woff') }</style>",
        '<script>fetch("https://cdn.example/x.json")</script>',
        '<script type="module">import a from "https://cdn.example/a.js"</script>',
        '<script>s.src = "https://cdn.example/a.js"</script>',
    ],
)
def test_loading_from_elsewhere_would_be_noticed(html: str) -> None:
    soup = BeautifulSoup(html, "html.parser")
    assert any(elsewhere(url) for url in loaded_by_page(soup))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page_loads_nothing_from_elsewhere(path: Path) -> None:
    loaded = list(loaded_by_page(parsed(path)))
    assert loaded
    assert [url for url in loaded if elsewhere(url)] == []
    for url in loaded:
        file = unquote(urlsplit(url).path)
        if file and not url.startswith("data:"):
            assert not file.startswith("/"), url
            assert (path.parent / file).exists(), url


def test_style_sheets_load_nothing_from_elsewhere() -> None:
    sheets = list(HTML.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        for url in loaded_by_style(sheet.read_text(encoding="utf-8")):
            assert not elsewhere(url), (name(sheet), url)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page_is_small(path: Path) -> None:
    assert path.stat().st_size <= 1_000_000


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_pictures_are_described(path: Path) -> None:
    for img in parsed(path).find_all("img"):
        alt = value(img, "alt")
        assert alt.strip(), value(img, "src")[:80]
        # Sphinx falls back to the file's name
        assert not alt.startswith(("_images/", "../", "_build/")), alt


@pytest.mark.parametrize("path", ARTICLES, ids=name)
def test_headings_are_in_order(path: Path) -> None:
    levels = [int(h.name[1]) for h in article(path).find_all(re.compile("^h[1-6]$"))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels


@cache
def anchors(path: Path) -> set[str]:
    soup = parsed(path)
    return {value(tag, "id") for tag in soup.find_all(id=True)} | {
        value(tag, "name") for tag in soup.find_all("a", attrs={"name": True})
    }


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_internal_links_resolve(path: Path) -> None:
    for a in parsed(path).find_all("a", href=True):
        href = value(a, "href")
        url, fragment = urldefrag(href)
        if urlsplit(url).scheme in ("http", "https", "mailto"):
            continue
        target = (path.parent / unquote(url)).resolve() if url else path
        assert target.is_file(), href
        if fragment and target.suffix == ".html":
            assert unquote(fragment) in anchors(target), href


def test_every_entry_of_the_contents_is_a_page() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def files(node: object) -> Iterator[str]:
        if isinstance(node, list):
            for child in node:
                yield from files(child)
        elif isinstance(node, dict):
            yield from (node[k] for k in ("file", "root") if k in node)
            for child in node.values():
                if isinstance(child, list):
                    yield from files(child)

    pages = list(files(contents))
    assert len(pages) > 5
    for page in pages:
        assert (HTML / f"{page}.html").exists(), page


def test_mathematics_is_set_by_a_local_script() -> None:
    with_math = [p for p in PAGES if parsed(p).find(class_="math")]
    assert with_math
    for path in with_math:
        sources = [value(s, "src") for s in parsed(path).find_all("script", src=True)]
        (mathjax,) = [s for s in sources if "mathjax" in s.lower()]
        assert (path.parent / urlsplit(mathjax).path).is_file()


def test_search_finds_a_word() -> None:
    script = (HTML / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))
    found = index["terms"]["reptil"]  # Sphinx stores stems
    found = found if isinstance(found, list) else [found]
    assert "chapters/01-overview/index" in [index["docnames"][n] for n in found]


def public_modules() -> Iterator[tuple[str, ...]]:
    for path in sorted((ROOT / "reptile_lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            yield parts


def test_every_public_module_has_an_api_page() -> None:
    modules = list(public_modules())
    assert modules
    for parts in modules:
        page = HTML.joinpath("chapters/appendices/api", *parts, "index.html")
        assert page.exists(), ".".join(parts)
        assert f"module-{'.'.join(parts)}" in anchors(page)
