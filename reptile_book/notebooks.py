"""Run notebooks from an empty kernel and store what they print (`make notebooks`).

Two at a time; only what belongs to a page is stored: no timings, no names of
machines or environments. `--tidy` rewrites the metadata without running anything.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from reptile_book import controls

ROOT = Path(__file__).parents[1]
KERNELSPEC = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}
"""What every notebook names as its kernel."""

FORMAT = 4, 5
"""The version of the notebooks' format."""

CELL_METADATA = ("tags", "mystnb")
"""What a cell may say about itself."""


INLINE = "module://matplotlib_inline.backend_inline"
"""Draws a notebook's figures into the notebook."""


def prepare(environment: MutableMapping[str, str]) -> None:
    """Make an environment in which a notebook prints what a page shows.

    Whatever the user has set: figures go into the notebook, matplotlib does not warn
    of a folder that it cannot write to, and controls, which a page cannot use, stay
    away.
    """
    environment["MPLBACKEND"] = INLINE
    environment[controls.SWITCH] = "off"
    folder = environment.get("MPLCONFIGDIR")
    if folder is not None and not _writable(Path(folder)):
        spare = Path(tempfile.gettempdir(), f"reptile-matplotlib-{os.getuid()}")
        environment["MPLCONFIGDIR"] = str(spare)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def tidy(nb: Any, stem: str) -> None:
    """Leave only what belongs to a page; number the cells' names after the file."""
    nb.nbformat, nb.nbformat_minor = FORMAT
    kept = {"reptile": nb.metadata["reptile"]} if "reptile" in nb.metadata else {}
    nb.metadata = _node(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}, **kept}
    )
    for number, cell in enumerate(nb.cells):
        cell.id = f"{stem}-{number}"[:64]
        cell.source = cell.source.rstrip()
        cell.metadata = _node(
            {k: v for k, v in cell.metadata.items() if k in CELL_METADATA and v}
        )


def _node(value: dict[str, Any]) -> Any:
    return nbformat.from_dict(value)  # type: ignore[no-untyped-call]


def _complaints(nb: Any) -> list[str]:
    """Return what cells have written to stderr, and the errors in their output."""
    found = [out for cell in nb.cells for out in cell.get("outputs", [])]
    return [
        out.get("text") or "\n".join(out["traceback"])
        for out in found
        if out.get("name") == "stderr" or out["output_type"] == "error"
    ]


def save(path: Path, run: bool) -> bool:
    """Run a notebook if so asked, and store it; say whether its cells succeeded.

    One that fails is left as it was.
    """
    start = time.perf_counter()
    nb = nbformat.read(path, as_version=FORMAT[0])  # type: ignore[no-untyped-call]
    failed = ""
    if run:
        client = NotebookClient(
            nb,
            timeout=600,
            kernel_name=KERNELSPEC["name"],
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            failed = str(error)
        else:  # a figure that cannot be drawn fails no cell
            failed = "\n".join(_complaints(nb))
    tidy(nb, path.stem)
    if not failed:
        nbformat.validate(nb)
        nbformat.write(nb, path)  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - start
    name = os.path.relpath(path, ROOT)
    print(f"{seconds:6.1f} s  {name}  {failed and 'FAILED'}{failed}")
    return not failed


def main() -> None:
    """Store the notebooks named on the command line, or all of the book."""
    parser = argparse.ArgumentParser(
        prog="python -m reptile_book.notebooks", description=__doc__
    )
    parser.add_argument("paths", nargs="*", type=Path, help="default: all of the book")
    parser.add_argument("--tidy", action="store_true", help="metadata only")
    chosen = parser.parse_args()
    paths = [p.resolve() for p in chosen.paths] or sorted(
        p for p in ROOT.glob("chapters/**/*.ipynb") if "checkpoints" not in str(p)
    )
    prepare(os.environ)  # which the kernels get
    with ThreadPoolExecutor(2) as pool:
        good = list(pool.map(lambda p: save(p, not chosen.tidy), paths))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
