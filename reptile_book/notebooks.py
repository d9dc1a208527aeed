"""Run notebooks from an empty kernel and store what they print (`make notebooks`).

Two at a time; only what belongs to a page is stored: no timings, no names of
machines or environments. `--tidy` rewrites the metadata without running anything.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.book.rules import KERNELSPEC

ROOT = Path(__file__).parents[2]


def tidy(nb, stem):
    nb.nbformat, nb.nbformat_minor = 4, 5
    kept = {"reptile": nb.metadata["reptile"]} if "reptile" in nb.metadata else {}
    nb.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}, **kept}
    )
    for number, cell in enumerate(nb.cells):
        cell.id = f"{stem}-{number}"[:64]
        cell.source = cell.source.rstrip()
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb") and v}
        )


def save(path, run):
    start = time.perf_counter()
    nb = nbformat.read(path, as_version=4)
    failed = ""
    if run:
        client = NotebookClient(
            nb,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            failed = str(error)
    tidy(nb, path.stem)
    if not failed:
        nbformat.validate(nb)
        nbformat.write(nb, path)
    seconds = time.perf_counter() - start
    print(f"{seconds:6.1f} s  {path.relative_to(ROOT)}  {failed and 'FAILED'}{failed}")
    return not failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="default: all of the book")
    parser.add_argument("--tidy", action="store_true", help="metadata only")
    chosen = parser.parse_args()
    paths = [p.resolve() for p in chosen.paths] or sorted(
        p for p in ROOT.glob("chapters/**/*.ipynb") if "checkpoints" not in str(p)
    )
    with ThreadPoolExecutor(2) as pool:
        good = list(pool.map(lambda p: save(p, not chosen.tidy), paths))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
