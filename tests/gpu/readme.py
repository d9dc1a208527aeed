"""What benchmarks/README.md says about the files of the GPU kit."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def documented(heading: str) -> set[str]:
    """Return the keys under a heading of the README."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.M))
