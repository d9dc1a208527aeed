"""What page 3.1 prints of the library is the library."""

import json
from pathlib import Path

from reptile_book import listings
from reptile_lib import meta
from tests.book.rules import text

PAGE = Path(__file__).parents[2] / "chapters/03-algorithm/framework.ipynb"


def test_a_listing_is_the_whole_source() -> None:
    shown = str(listings.show(meta.meta_steps).data)
    source = Path(meta.__file__).read_text("utf-8")
    assert source.endswith(shown.removeprefix("```python\n").removesuffix("```"))
    assert shown.startswith("```python\ndef meta_steps(")


def test_the_page_shows_the_loop_and_the_rule_of_today() -> None:
    cells = json.loads(PAGE.read_text("utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", ())]
    found = [text(out.get("data", {}).get("text/markdown", "")) for out in outputs]
    for function in (meta.meta_steps, meta.reptile):
        assert listings.show(function).data in found
