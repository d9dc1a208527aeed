"""Every notebook of the book keeps the rules; and each rule can fail."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch  # noqa: F401  # or the runs of pytest in this file would load it, each anew

from reptile_book.notebooks import KERNELSPEC
from tests.book import rules
from tests.book.rules import Json

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    p for p in ROOT.glob("chapters/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_notebook_keeps_the_rules(path: Path) -> None:
    nb = json.loads(path.read_text(encoding="utf-8"))
    wrong = [words for rule in rules.RULES for words in rule(nb)]
    assert not wrong, "\n".join([by_name(path), *wrong])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < 1_000_000


def markdown(source: str) -> Json:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(
    source: str, count: int, *outputs: Json, tags: Sequence[str] = (), **metadata: Json
) -> Json:
    return {
        "cell_type": "code",
        "execution_count": count,
        "metadata": {"tags": list(tags), **metadata},
        "outputs": list(outputs),
        "source": source,
    }


def stream(words: str, name: str = "stdout") -> Json:
    return {"output_type": "stream", "name": name, "text": words}


PICTURE = {"output_type": "display_data", "data": {"image/png": "iVBOR"}}
EXERCISES = """## Exercises

```{exercise} One
:label: ex-one
Why?
```

```{solution} ex-one
:class: dropdown
Because.
```

:::{exercise-start} Two
:label: ex-two
:::
How?
:::{exercise-end}
:::

:::{solution-start} ex-two
:class: dropdown
:::
"""

GOOD: Json = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {
        "kernelspec": KERNELSPEC,
        "language_info": {"name": "python"},
    },
    "cells": [
        markdown("# 1.1 A title\n\nAs {cite:t}`nichol2018` says.\n\n## The code"),
        code("plt.show()", 1, PICTURE, mystnb={"image": {"alt": "A curve."}}),
        code("print(time())", 2, stream("0.1\n"), tags=["nbval-ignore-output"]),
        code('claim("it is fast", seconds < 1)', 3, stream("holds: it is fast\n")),
        markdown(EXERCISES),
        markdown(":::{solution-end}\n:::"),
        markdown("## References\n\n- {cite:t}`nichol2018`"),
    ],
}


def test_good_notebook_passes() -> None:
    assert [wrong for rule in rules.RULES for wrong in rule(GOOD)] == []


BAD: dict[str, tuple[str, int | tuple[int, ...], Json]] = {
    "not executed": ("code_is_executed_in_order", 1, {"execution_count": None}),
    "out of order": ("code_is_executed_in_order", 3, {"execution_count": 2}),
    "empty": ("code_is_executed_in_order", 1, {"source": " "}),
    "too wide": ("code_fits_a_page", 1, {"source": "x" * 79}),
    "too long": ("code_fits_a_page", 1, {"source": "x\n" * 26}),
    "error": ("output_is_clean", 1, {"outputs": [{"output_type": "error"}]}),
    "stderr": ("output_is_clean", 1, {"outputs": [stream("oh", "stderr")]}),
    "progress bar": ("output_is_clean", 1, {"outputs": [stream("10%\r20%")]}),
    "address": ("output_is_clean", 1, {"outputs": [stream("<A at 0x7f0011aa>")]}),
    "skip tag": (
        "no_output_escapes_comparison",
        1,
        {"metadata": {"tags": ["nbval-skip"]}},
    ),
    "marker": ("no_output_escapes_comparison", 1, {"source": "# NBVAL_SKIP\nx"}),
    "magic": ("no_output_escapes_comparison", 1, {"source": "%%capture\nx"}),
    "no claim": ("ignored_output_is_followed_by_a_claim", 3, {"source": "x = 1"}),
    "claim in a comment": (
        "ignored_output_is_followed_by_a_claim",
        3,
        {"source": "# claim(1)"},
    ),
    "two ignored, one claim": (
        "ignored_output_is_followed_by_a_claim",
        1,
        {"metadata": {"tags": ["nbval-ignore-output"]}},
    ),
    "digits": ("claims_are_plain_words", 3, {"source": 'claim("beats 9", True)'}),
    "f-string": ("claims_are_plain_words", 3, {"source": 'claim(f"{x}", True)'}),
    "no title": ("headings_are_in_order", 0, {"source": "## 1.1"}),
    "two titles": ("headings_are_in_order", 6, {"source": "# References"}),
    "skipped level": ("headings_are_in_order", 6, {"source": "#### References"}),
    "no exercise": ("exercises_have_solutions", 4, {"source": ""}),
    "open solution": (
        "exercises_have_solutions",
        4,
        {"source": EXERCISES.replace(":class: dropdown\n", "", 1)},
    ),
    "no solution": (
        "exercises_have_solutions",
        4,
        {"source": EXERCISES.replace("{solution-start}", "{note}")},
    ),
    "no references": ("sources_are_named", 6, {"source": "The end."}),
    "no citation": ("sources_are_named", (0, 6), {"source": "# A\n\n## References"}),
    "no alt text": ("pictures_are_described", 1, {"metadata": {}}),
    "two pictures": ("pictures_are_described", 1, {"outputs": [PICTURE, PICTURE]}),
    "markdown picture": ("pictures_are_described", 0, {"source": "# A\n![](a.png)"}),
    "figure": ("pictures_are_described", 0, {"source": "# A\n```{figure} a.png\n```"}),
    "path in code": ("no_path_of_a_machine", 1, {"source": "load('/home/me/x')"}),
    "path in output": (
        "no_path_of_a_machine",
        1,
        {"outputs": [stream("read /tmp/a.pt")]},
    ),
    "timing": ("metadata_is_minimal", 1, {"metadata": {"execution": {}}}),
}


@pytest.mark.parametrize(("name", "number", "change"), BAD.values(), ids=BAD)
def test_bad_notebook_is_caught(
    name: str, number: int | tuple[int, ...], change: Json
) -> None:
    nb = copy.deepcopy(GOOD)
    for n in number if isinstance(number, tuple) else (number,):
        nb["cells"][n].update(change)
    assert list(getattr(rules, name)(nb)) != []


def test_foreign_kernel_is_caught() -> None:
    nb = copy.deepcopy(GOOD)
    nb["metadata"]["kernelspec"] = {"name": "my-env"}
    nb["metadata"]["widgets"] = {}
    assert len(list(rules.metadata_is_minimal(nb))) == 2


pytest_plugins = ["pytester"]

NEEDY = copy.deepcopy(GOOD)
NEEDY["metadata"]["reptile"] = {"data": ["omniglot"]}
NEEDY["cells"] = [code("1 + 1", 1) | {"id": "a"}]


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("1", "errors")])
def test_missing_data_is_seen(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    required: str,
    outcome: str,
) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.path.joinpath("a.ipynb").write_text(json.dumps(NEEDY))
    monkeypatch.setenv("REPTILE_CACHE", str(pytester.path / "nothing"))
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    monkeypatch.setenv("REPTILE_REQUIRE_DATA", required)
    result = pytester.runpytest("--nbval", "--nbval-current-env", "-rA")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*data set missing: omniglot*REPTILE_DATA*"])
    if required != "1":
        result.stdout.fnmatch_lines(["1 notebooks skipped: make data"])


def test_a_missing_framework_is_seen(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    nb = copy.deepcopy(NEEDY)
    nb["metadata"]["reptile"] = {"packages": ["json", "no_such_framework"]}
    pytester.path.joinpath("a.ipynb").write_text(json.dumps(nb))
    result = pytester.runpytest("--nbval", "--nbval-current-env", "-rA")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no_such_framework is not installed*"])


def test_a_skip_inside_a_test_is_seen_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile("""
        import pytest

        def test_data():
            pytest.skip("put the zip into $REPTILE_DATA/omniglot")

        def test_other():
            pytest.skip("no browser")
    """)
    monkeypatch.delenv("REPTILE_REQUIRE_DATA", raising=False)
    pytester.runpytest().assert_outcomes(skipped=2)
    monkeypatch.setenv("REPTILE_REQUIRE_DATA", "1")
    pytester.runpytest().assert_outcomes(skipped=1, failed=1)


@pytest.mark.parametrize("where", ["REPTILE_DATA", "REPTILE_CACHE"])
def test_present_data_is_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile("""
        import pytest

        @pytest.mark.needs_data("omniglot")
        def test_it():
            pass
    """)
    monkeypatch.delenv("REPTILE_REQUIRE_DATA", raising=False)
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    monkeypatch.setenv("REPTILE_CACHE", str(pytester.path / "nothing"))
    pytester.runpytest("-rs").assert_outcomes(skipped=1)
    (pytester.path / "data" / "omniglot").mkdir(parents=True)
    names = ["omniglot.npz"]  # in the cache; published files, elsewhere
    if where == "REPTILE_DATA":
        names = [f"omniglot/images_{half}.zip" for half in ("background", "evaluation")]
    for name in names:
        (pytester.path / "data" / name).touch()
    monkeypatch.setenv(where, str(pytester.path / "data"))
    pytester.runpytest().assert_outcomes(passed=1)
