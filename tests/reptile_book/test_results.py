"""The tables of the preface and of the results page."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reptile_book import headline, records, results

RESULTS = Path(__file__).parents[2] / "results"


def record(folder: Path, row: str, seed: int, accuracy: float, **more: object) -> None:
    score = {"accuracy": accuracy, "ci95": 0.01, "tasks": 10}
    protocols = {"transductive": score, "non_transductive": score}
    made = {"metrics": {"1-shot": protocols, "5-shot": protocols}}
    records.write(folder / row / f"seed-{seed}.json", made | more)


def lines(table: str, start: str) -> list[list[str]]:
    """Return the cells of the lines that begin so."""
    found = [line for line in table.splitlines() if line.startswith(f"| {start} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_measured_stands_beside_published(tmp_path: Path) -> None:
    where = {"processes": 1, "device": "1 CPU threads"}
    for seed, accuracy in enumerate((0.95, 0.97)):
        time = 90.0 + 60 * seed
        record(tmp_path, "omniglot-5way", seed, accuracy, train_seconds=time, **where)
    other = where | {"device": "2 CPU threads"}
    record(tmp_path, "omniglot-5way", 2, 0.96, train_seconds=1_000.0, **other)
    table = results.accuracies(tmp_path)
    first, second, *_ = lines(table, "`omniglot-5way`")
    # the mean of 95, 97 and 96, and their standard deviation
    assert first[2:] == [
        "non-transductive",
        "96.0 ± 1.0",
        "95.39 ± 0.09",
        "+0.6",
        "3",
    ]
    assert second[2:] == ["transductive", "96.0 ± 1.0", "97.68 ± 0.04", "−1.7", "3"]
    # what nobody has run here stays visibly empty
    assert lines(table, "`omniglot-20way`")[0][3:] == [
        "–",
        "88.14 ± 0.15",
        "–",
        "0",
    ]
    assert not lines(table, "`glyphs-5way`")
    # seconds of two kinds of machine are never averaged
    assert lines(results.seconds(tmp_path), "`omniglot-5way`") == [
        ["`omniglot-5way`", "1", "1 CPU threads", "2", "120"],
        ["`omniglot-5way`", "1", "2 CPU threads", "1", "1,000"],
    ]


def test_the_preface_has_chance_and_untrained_beside_it(tmp_path: Path) -> None:
    record(tmp_path, "glyphs-5way", 0, 0.9)
    record(tmp_path, "glyphs-5way-untrained", 0, 0.4)
    table = headline.headline(tmp_path)
    assert lines(table, "glyphs, 1-shot")[0] == [
        "glyphs, 1-shot",
        "20",
        "40.0 ± 1.0",
        "90.0 ± 1.0",
        "–",
    ]
    assert lines(table, "Omniglot, 5-shot")[0][2:] == ["–", "–", "98.90 ± 0.10"]


def test_a_record_of_one_task_is_shown(tmp_path: Path) -> None:
    score = {"accuracy": 1.0, "ci95": None, "tasks": 1}
    made = {"metrics": {"1-shot": {"transductive": score}}}
    records.write(tmp_path / "glyphs-5way" / "seed-0.json", made)
    found = results.measured(tmp_path, "glyphs-5way", 1, "transductive")
    assert str(found) == "100.0 ± 0.0"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("headline", headline.headline),
        ("accuracies", results.accuracies),
        ("seconds", results.seconds),
    ],
)
def test_the_committed_table_is_made_from_the_committed_records(
    name: str, made: Callable[[Path], str]
) -> None:
    assert (RESULTS / f"{name}.md").read_text("utf-8") == made(RESULTS)
