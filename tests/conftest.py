"""Shared by the library's tests."""

import os
import tempfile
from collections.abc import Iterator

import pytest

# Hypothesis keeps its notes outside the book's source, and finds the same examples
# on every machine.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", tempfile.mkdtemp())

from hypothesis import settings

settings.register_profile(
    "book", deadline=None, database=None, derandomize=True, max_examples=30
)
settings.load_profile("book")


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default dtype for one test."""
    import torch  # takes seconds, and most tests of pages need none

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
