"""The results page: every recorded few-shot row, beside what is published."""

from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from reptile_book import records as recorded
from reptile_book.rows import ROWS, SHOTS
from reptile_lib.storage.files import written_whole

PROTOCOLS = ("non_transductive", "transductive")

# Nichol et al. 2018, arXiv:1803.02999v3, its table for Omniglot: %, and its ±.
PUBLISHED = {
    ("omniglot-5way", 1, "non_transductive"): (95.39, 0.09),
    ("omniglot-5way", 1, "transductive"): (97.68, 0.04),
    ("omniglot-5way", 5, "non_transductive"): (98.90, 0.10),
    ("omniglot-5way", 5, "transductive"): (99.48, 0.06),
    ("omniglot-20way", 1, "non_transductive"): (88.14, 0.15),
    ("omniglot-20way", 1, "transductive"): (89.43, 0.14),
    ("omniglot-20way", 5, "non_transductive"): (96.65, 0.33),
    ("omniglot-20way", 5, "transductive"): (97.12, 0.32),
}
DASH = "–"


class Measured(NamedTuple):
    """Accuracy over the seeds of a row, in %."""

    mean: float
    spread: float
    """Standard deviation over seeds; of one seed, the 95 % interval over its tasks."""
    seeds: int

    def __str__(self) -> str:
        """Read as "95.3 ± 0.3"."""
        return f"{self.mean:.1f} ± {self.spread:.1f}"


def measured(folder: Path, row: str, shots: int, protocol: str) -> Measured | None:
    """Return what the records of a row say; None where there are none."""
    found = recorded.read(folder / row)
    scores = [r["metrics"][f"{shots}-shot"][protocol] for r in found]
    return over_seeds(scores) if scores else None


def over_seeds(scores: list[recorded.Record]) -> Measured:
    """Return the mean of scores as records have them, one a seed."""
    values = [100 * score["accuracy"] for score in scores]
    alone = 100 * (scores[0]["ci95"] or 0.0)  # of a single task there is none
    return Measured(mean(values), stdev(values) if values[1:] else alone, len(values))


def published(row: str, shots: int, protocol: str) -> str:
    """Return the paper's number as it prints it; a dash where it has none."""
    found = PUBLISHED.get((row, shots, protocol))
    return f"{found[0]:.2f} ± {found[1]:.2f}" if found else DASH


def few_shot_rows() -> list[str]:
    """Return the folders of all rows of images, in the order of the page."""
    full = [row for row in ROWS if row != "sine"]
    trained = [name for row in full for name in (row, f"{row}-short")]
    return trained + [f"{row}-untrained" for row in full]


def accuracies(folder: Path) -> str:
    """Make the table of accuracies: a line a row, shots and protocol."""
    lines = [
        "| row | shots | protocol | measured, % | published, % | difference | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in few_shot_rows():
        for shots in SHOTS:
            for protocol in PROTOCOLS:
                found = measured(folder, row, shots, protocol)
                paper = PUBLISHED.get((row, shots, protocol))
                if not found and not paper:
                    continue
                difference = _signed(found.mean - paper[0]) if found and paper else DASH
                cells = [
                    f"`{row}`",
                    str(shots),
                    protocol.replace("_", "-"),
                    str(found or DASH),
                    published(row, shots, protocol),
                    difference,
                    str(found.seeds if found else 0),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _signed(value: float) -> str:
    shown = f"{value:+.1f}".replace("-", "−")
    return shown if shown.strip("+−0.") else "0.0"


def seconds(folder: Path) -> str:
    """Make the table of training times: a line a row and kind of machine."""
    lines = [
        "| row | processes | machine, threads per process | seeds | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in few_shot_rows():
        kinds: dict[tuple[int, str], list[float]] = defaultdict(list)
        for record in recorded.read(folder / row):
            if "train_seconds" in record:
                kind = record["processes"], record["device"]
                kinds[kind].append(record["train_seconds"])
        for (processes, device), times in sorted(kinds.items()):
            cells = [f"`{row}`", str(processes), device, str(len(times))]
            lines.append(f"| {' | '.join(cells)} | {mean(times):,.0f} |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write the page's tables, `accuracies.md` and `seconds.md`."""
    for name, made in (("accuracies", accuracies), ("seconds", seconds)):
        with written_whole(folder / f"{name}.md") as temporary:
            temporary.write_text(made(folder), encoding="utf-8")
