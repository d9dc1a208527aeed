"""Shared by the tests of data sets."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the cache be empty, so that a set is made of its files in REPTILE_DATA.

    Without these the set is in the user's cache, or the test is skipped.
    """
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("REPTILE_DATA"):
            patch.setenv("REPTILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
