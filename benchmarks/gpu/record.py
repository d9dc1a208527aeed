"""A stage's JSON file: written whole, again and again, while the stage gets on."""

import json
import math
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""JSON values only."""


def finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def write(path: Path, record: Record) -> None:
    """Write a file that is there whole or not at all."""
    text = json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> Record:
    """Return what a file holds; nothing where it is absent or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Report:
    """What a stage has found so far, kept in its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result: Record = {}

    def add(self, **found: Any) -> None:
        """Add keys to the result, or replace them, and write the file."""
        self.result |= found
        write(self.path, {"result": self.result})

    def fail(self, traceback: str) -> None:
        """Write the file with the traceback of what ended the stage."""
        write(self.path, {"traceback": traceback, "result": self.result or None})
