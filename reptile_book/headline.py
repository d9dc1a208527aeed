"""The preface's table: measured and published, a line a row and shots."""

from pathlib import Path
from statistics import mean, stdev

from reptile_book import records as recorded
from reptile_book.rows import ROWS, SHOTS
from reptile_lib.storage.files import written_whole

PROTOCOLS = ("transductive", "non_transductive")
NOTE = (
    "New classes, 50 inner steps. A row that ends in `-short` trains for 1,000"
    " meta-steps and is scored on 1,000 tasks; the others train as long as the paper"
    " does, glyphs for a tenth of that, and are scored on 10,000. With `bf16` the"
    " factors of matrix products are rounded to bfloat16. ± is the 95 % interval over"
    " the tasks where there is one seed, and the standard deviation over seeds where"
    " there are more. In brackets: the numbers of {cite:t}`nichol2018`. Minutes are"
    " those of training."
)

# Nichol et al. 2018, arXiv:1803.02999v3, its table for Omniglot; % and spread of runs.
PUBLISHED = {
    ("omniglot-5way", 1, "non_transductive"): "95.39 ± 0.09",
    ("omniglot-5way", 1, "transductive"): "97.68 ± 0.04",
    ("omniglot-5way", 5, "non_transductive"): "98.90 ± 0.10",
    ("omniglot-5way", 5, "transductive"): "99.48 ± 0.06",
    ("omniglot-20way", 1, "non_transductive"): "88.14 ± 0.15",
    ("omniglot-20way", 1, "transductive"): "89.43 ± 0.14",
    ("omniglot-20way", 5, "non_transductive"): "96.65 ± 0.33",
    ("omniglot-20way", 5, "transductive"): "97.12 ± 0.32",
}


def write_headline(folder: Path) -> None:
    """Write `headline.md`, the table of all recorded rows that the preface shows."""
    with written_whole(folder / "headline.md") as temporary:
        temporary.write_text(headline(folder), encoding="utf-8")


def headline(folder: Path) -> str:
    """Make a MyST table of the rows recorded or published: a line a row and shots.

    Accuracy is the mean over seeds; `NOTE` says what the other numbers are.
    """
    lines = [
        "| row | shots | transductive, % | non-transductive, % | seeds | minutes |",
        "|---|---|---|---|---|---|",
    ]
    # Rows with `reset` are for another question and have a table in section 4.2.
    few_shot = [row for row in ROWS if row != "sine" and not row.endswith("-reset")]
    for row in (name for full in few_shot for name in (full, f"{full}-short")):
        records = recorded.read(folder / row)
        for shots in SHOTS:
            cells = [_cell(row, shots, p, records) for p in PROTOCOLS]
            if not any(cells):
                continue
            seconds = [r["train_seconds"] for r in records]
            minutes = f"{mean(seconds) / 60:.1f}" if seconds else ""
            parts = [row, str(shots), *cells, str(len(records)), minutes]
            lines.append(f"| {' | '.join(parts)} |")
    return "\n".join([*lines, "", NOTE, ""])


def _cell(row: str, shots: int, protocol: str, records: list[recorded.Record]) -> str:
    """Return what was measured, a dash if nothing was, and in brackets the published.

    Empty where there is neither.
    """
    published = PUBLISHED.get((row, shots, protocol))
    if not records:
        return f"– ({published})" if published else ""
    scores = [r["metrics"][f"{shots}-shot"][protocol] for r in records]
    values = [100 * score["accuracy"] for score in scores]
    spread = stdev(values) if len(values) > 1 else 100 * scores[0]["ci95"]
    measured = f"{mean(values):.1f} ± {spread:.1f}"
    return f"{measured} ({published})" if published else measured
