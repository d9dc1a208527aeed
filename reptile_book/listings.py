"""The library's own source on a page: whole, as it is installed."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown


def show(function: Callable[..., Any]) -> Markdown:
    """Return the source of a function of a module, as code on the page."""
    source = inspect.getsource(function).rstrip()
    ast.parse(source)  # it is whole: a part would not parse
    return Markdown(f"```python\n{source}\n```")  # type: ignore[no-untyped-call]
