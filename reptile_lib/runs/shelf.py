"""The command `data`: which sets there are, getting them, looking at them."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reptile_lib.data.sets import SETS, at_hand, load
from reptile_lib.errors import UserError
from reptile_lib.examples import Examples
from reptile_lib.parallel.team import say
from reptile_lib.reading.sheets import SHOWN, sheet_of
from reptile_lib.reading.texts import Texts
from reptile_lib.storage.files import written_whole


def list_sets(_: argparse.Namespace) -> dict[str, object]:
    """Say which sets there are."""
    found = {}
    for name, it in SETS.items():
        here = "at hand" if at_hand(name) else "not here yet"
        say(f"{name} ({here})\n  {it.about.holds}\n  licence: {it.about.licence}")
        found[name] = it.about._asdict() | {"at_hand": at_hand(name)}
    return {"sets": found}


def get(options: argparse.Namespace) -> dict[str, object]:
    """Load sets, so that they are in the cache; one that fails leaves the others.

    Raises:
        UserError: some could not be had.
    """
    failed = {}
    for name in options.names or SETS:
        try:
            load(name)
            say(f"{name}: complete")
        except UserError as error:
            failed[name] = str(error)
            say(f"{name}: {error}")
    if failed:
        raise UserError(f"not complete: {', '.join(failed)}; see above")
    return {"complete": list(options.names or SETS)}


def show(options: argparse.Namespace) -> dict[str, object]:
    """Describe a set; of pictures, write a sheet of examples as well."""
    name = options.name
    found = load(name)
    about = SETS[name].about
    lines = [about.holds, *described(found)]
    lines += [f"licence: {about.licence}", f"cite: {about.cite}", about.source]
    say("\n".join(lines))
    sheet = None
    first = found[0] if isinstance(found, tuple) else found
    pool = getattr(first, "pool", None)
    if isinstance(pool, Tensor) and pool.dtype == torch.uint8 and pool.dim() == 4:
        sheet = options.out or Path(f"{name}.png")
        with written_whole(sheet) as temporary:
            sheet_of(first).save(temporary, "PNG")
        say(f"examples of {min(SHOWN, len(first))} classes: {sheet}")
    return {"lines": lines, "sheet": sheet and str(sheet)}


def described(found: Any, name: str = "") -> Iterator[str]:
    """Say what a set is made of, a line per part."""
    before = f"{name}: " if name else ""
    if isinstance(found, Examples):
        counts = sorted({*found.counts}) or [0]
        each = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        pool = found.pool[0] if isinstance(found.pool, tuple) else found.pool
        kind = f"{str(pool.dtype).removeprefix('torch.')} {list(pool.shape[1:])}"
        yield f"{before}{len(found)} classes, {each} examples each, {kind}"
    elif isinstance(found, Texts):
        yield f"{before}{len(found)} classes, {sum(map(len, found.sentences))} texts"
        for label, texts in list(zip(found.names, found.sentences, strict=True))[:3]:
            yield f"  {label}: {texts[0][:70]}"
    elif isinstance(found, Tensor):
        yield f"{before}{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        for field in found._fields:
            yield from described(getattr(found, field), f"{name}.{field}".lstrip("."))
    elif isinstance(found, tuple | list):
        yield f"{before}{len(found)} of {type(found[0]).__name__ if found else '-'}"


def add_commands(to: argparse.ArgumentParser) -> None:
    """Add list, get and show."""
    quiet = argparse.ArgumentParser(add_help=False)
    quiet.set_defaults(device="cpu")
    quiet.add_argument("--json", action="store_true", help="end with a line of JSON")
    acts = to.add_subparsers(required=True, metavar="list | get | show")
    listing = acts.add_parser("list", help="which sets there are", parents=[quiet])
    listing.set_defaults(run=list_sets)
    getting = acts.add_parser("get", help="download sets", parents=[quiet])
    getting.set_defaults(run=get)
    getting.add_argument("names", nargs="*", metavar="NAME", help="all, if none")
    showing = acts.add_parser("show", help="what is in a set", parents=[quiet])
    showing.set_defaults(run=show)
    showing.add_argument("name", metavar="NAME")
    showing.add_argument("--out", type=Path, help="file of the sheet (NAME.png)")
