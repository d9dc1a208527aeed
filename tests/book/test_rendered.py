"""The built pages: complete, readable, and asking nothing of other sites."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build/html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

if not (HTML / "index.html").exists():
    if os.environ.get("REPTILE_REQUIRE_BOOK") == "1":
        raise RuntimeError("the book is not built")
    pytest.skip("the book is not built: make book", allow_module_level=True)

PAGES = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.parts)
OPENED = [p for p in PAGES if 'http-equiv="Refresh"' not in p.read_text("utf-8")]
ARTICLES = [p for p in OPENED if p.name != "search.html"]


def name(path: Path) -> str:
    return str(path.relative_to(HTML))


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def elsewhere(url: str) -> bool:
    """Say whether loading this address would leave the book."""
    parts = urlsplit(url.strip())
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def value(tag: Tag, key: str) -> str:
    """Return an attribute, empty if it is not there; one of several words is joined."""
    found = tag.get(key) or ""
    return found if isinstance(found, str) else " ".join(found)


def article(path: Path) -> Tag:
    """Return a page without what stands around its text."""
    found = parsed(path).find("article", class_="bd-article")
    assert isinstance(found, Tag), name(path)
    return found


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


# Formulas that reach out of the screen, but for those in what scrolls sideways.
CUT = """
[...document.querySelectorAll('mjx-container')]
  .filter(box => !box.closest('.pst-scrollable-table-container'))
  .filter(box => box.firstElementChild.getBoundingClientRect().right > innerWidth)
  .map(box => box.parentElement.textContent.trim())
"""


class Browser:
    """A headless Chromium, driven over its debugging socket."""

    def __init__(self, profile: Path) -> None:
        import websocket

        assert CHROMIUM is not None
        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--allow-file-access-from-files",
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = Path(profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and len(port_file.read_text().split()) == 2):
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", suppress_origin=True, timeout=60
        )
        self.last = 0
        self.session: str | None = None
        self.events: list[Any] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def receive(self) -> Any:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method: str, **params: Any) -> Any:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while (answer := self.receive()).get("id") != self.last:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str, width: int) -> tuple[list[str], list[Any]]:
        """Open a page; return the addresses it asked for and its errors."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.receive()
        self.evaluate(
            "(async () => { if (window.MathJax && MathJax.startup)"
            " await MathJax.startup.promise;"
            " await new Promise(done => setTimeout(done, 100)); })()"
        )
        asked = [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]
        errors = [
            e["params"]["exceptionDetails"].get("exception", {}).get("description", e)
            for e in self.events
            if e["method"] == "Runtime.exceptionThrown"
        ]
        return asked, errors

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: these pages were parsed but not opened")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_opened_from_disk_pages_work(browser: Browser, width: int) -> None:
    wrong = []
    for path in OPENED:
        asked, errors = browser.open(path.as_uri(), width)
        wrong += [
            (name(path), u) for u in asked if not u.startswith(("file:", "data:"))
        ]
        wrong += [(name(path), e) for e in errors]
        assert asked
        wide = browser.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            wrong.append((name(path), f"{wide} pixels wide on a screen of {width}"))
        if parsed(path).find(class_="math") and not browser.evaluate(
            "document.querySelectorAll('mjx-container').length"
        ):
            wrong.append((name(path), "formulas were not set"))
        for formula in browser.evaluate(CUT):
            wrong.append((name(path), f"does not fit in {width} pixels: {formula}"))
        if browser.evaluate("document.querySelectorAll('mjx-merror').length"):
            wrong.append((name(path), "a formula has an error"))
    assert not wrong, "\n".join(f"{page}: {what}" for page, what in wrong)


def search(browser: Browser, words: str) -> set[str]:
    """Search the book; return the pages that are found."""
    browser.open((HTML / "search.html").as_uri() + f"?q={quote(words)}", 1280)
    deadline = time.monotonic() + 60
    while not browser.evaluate("document.querySelector('.search-summary').textContent"):
        assert time.monotonic() < deadline, "the search does not end"
        time.sleep(0.1)
    found = browser.evaluate(
        "[...document.querySelectorAll('#search-results li a')].map(a => a.pathname)"
    )
    return {name(Path(unquote(path))) for path in found}


def test_search_page_works_from_disk(browser: Browser) -> None:
    assert "chapters/01-overview/index.html" in search(browser, "reptile")
    assert search(browser, "nosuchword") == set()


PARTS = ["权重", "共享", "收敛", "优化", "切换", "策略", "梯度", "原理", "基础", "框"]


@pytest.mark.parametrize("words", [*PARTS, "权重共享", "模型 切换"])
def test_search_finds_chinese_words(browser: Browser, words: str) -> None:
    wanted = {
        name(path)
        for path in ARTICLES
        if name(path) != "genindex.html"  # made of the pages, and not searched
        and all(word in article(path).get_text() for word in words.split())
    }
    assert wanted
    assert wanted <= search(browser, words)
