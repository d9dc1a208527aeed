"""The examples in docstrings, with their output."""

import doctest
import importlib
import pkgutil
from typing import Any

import pytest

import reptile_lib

MODULES = ["reptile_lib"] + [
    found.name
    for found in pkgutil.walk_packages(reptile_lib.__path__, "reptile_lib.")
    # what needs JAX or Keras has none
    if not found.name.endswith("__main__")
    and not found.name.startswith(
        ("reptile_lib.frameworks.jax_", "reptile_lib.frameworks.keras_")
    )
]
PAGE_ONE = (
    *("FewShotTasks", "MetaLearner", "Sine", "adam", "adapt", "conv4", "draw"),
    *("evaluate", "linear", "load", "mlp", "sgd"),
)
"""Names that a reader meets first; `Reptile` makes a `MetaLearner`."""


def documented() -> dict[str, Any]:
    """Return all that has a docstring with an example, by its full name.

    Not by doctest's own finder: functions with a cache, such as `sgd`, hide from it.
    """
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for short, thing in vars(module).items():
            here = callable(thing) and getattr(thing, "__module__", "") == name
            if here and ">>>" in (thing.__doc__ or ""):
                found[f"{name}.{short}"] = thing
    return found


EXAMPLES = documented()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_do_what_they_show(name: str) -> None:
    thing = EXAMPLES[name]
    module = importlib.import_module(thing.__module__)
    test = doctest.DocTestParser().get_doctest(
        thing.__doc__, dict(vars(module)), name, None, 0
    )
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", PAGE_ONE)
def test_what_a_reader_meets_first_has_an_example(name: str) -> None:
    assert ">>>" in (getattr(reptile_lib, name).__doc__ or "")
