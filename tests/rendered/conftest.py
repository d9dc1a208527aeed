"""The browser that the tests of the built pages share."""

from collections.abc import Iterator

import pytest

from tests.rendered.browser import CHROMIUM, Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start a browser once for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: these pages were parsed but not opened")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
