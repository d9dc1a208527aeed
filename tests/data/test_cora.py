"""Cora: a small graph in both layouts, and the published one where it is at hand."""

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_lib import load
from reptile_lib.data import cora
from reptile_lib.reading.arrays import Arrays, Source, arrays_of, fingerprint
from tests.data.ways import complaint, damaged, from_packed, from_site, small

PACKED = "cora/cora.npz"
WORDS = np.array(
    [
        [0, 1, 1, 0],
        [0, 1, 1, 0],  # as the one before, of the same field; another neighbour
        [1, 0, 0, 0],
        [1, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 1],  # a twin of the one before: nothing tells them apart
        [0, 1, 1, 0],  # of another field
    ],
    bool,
)
LABELS = [3, 3, 0, 6, 2, 2, 1]
CITES = [(0, 2), (3, 1), (4, 3), (3, 5), (2, 6), (6, 2), (1, 1)]  # twice; itself


def tar(files: dict[str, str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content := text.encode())
            file.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def official(order: list[int]) -> dict[str, bytes]:
    """Return cora.tgz with its papers in this order, and cites shuffled as well."""
    content = [
        "\t".join(
            [f"{row}0035", *map(str, WORDS[row].astype(int)), cora.NAMES[LABELS[row]]]
        )
        for row in order
    ]
    pairs = [f"{CITES[i][0]}0035\t{CITES[i][1]}0035" for i in order]
    files = {"content": content, "cites": pairs, "README": ["The Cora dataset"]}
    texts = {
        f"cora/cora.{name}": "\n".join([*rows, ""]) for name, rows in files.items()
    }
    return {"cora.tgz": tar(texts)}


def npz(order: list[int]) -> bytes:
    """Return the same papers in another order, as cora.npz has them."""
    at = {row: new for new, row in enumerate(order)}
    edges = {tuple(sorted((at[a], at[b]))) for a, b in CITES if a != b}
    rows, indices = np.nonzero(WORDS[order])
    raw = io.BytesIO()
    np.savez_compressed(
        raw,
        indptr=np.searchsorted(rows, np.arange(len(order) + 1)).astype(np.int32),
        indices=indices.astype(np.int16),
        shape=np.array(WORDS.shape),
        labels=np.array(LABELS, np.uint8)[order],
        edges=np.array(sorted(edges), np.int16),
    )
    return raw.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small(cora.SOURCE, official([*range(7)]), tmp_path)


def check(arrays: Arrays) -> None:
    """Compare with the graph above, paper by paper, by hand."""
    words = np.unpackbits(arrays["words"], axis=1, count=4)
    papers = list(
        zip(arrays["labels"].tolist(), map(tuple, words.tolist()), strict=True)
    )
    assert papers == [
        (0, (1, 0, 0, 0)),
        (1, (0, 1, 1, 0)),
        (2, (0, 0, 0, 1)),
        (2, (0, 0, 0, 1)),
        (3, (0, 1, 1, 0)),
        (3, (0, 1, 1, 0)),
        (6, (1, 0, 0, 1)),
    ]
    # papers 4 and 5: the one near field 0 comes first
    assert arrays["edges"].tolist() == [[0, 1], [0, 4], [2, 6], [3, 6], [5, 6]]


def test_both_ways_lead_to_the_same_papers(source: Source, tmp_path: Path) -> None:
    check(from_site(source, tmp_path, arrays_of))
    check(
        from_packed(source, {PACKED: npz([6, 3, 5, 1, 0, 2, 4])}, tmp_path, arrays_of)
    )


def test_no_order_of_the_files_matters(source: Source, tmp_path: Path) -> None:
    for seed in range(20):
        order = random.Random(seed).sample(range(7), 7)
        (tmp_path / "cora.tgz").write_bytes(official(order)["cora.tgz"])
        (tmp_path / "cora.npz").write_bytes(npz(order))
        assert fingerprint(cora.read([tmp_path / "cora.tgz"])) == source.sha256
        assert fingerprint(cora.read_packed([tmp_path / "cora.npz"])) == source.sha256


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, how: str) -> None:
    content = damaged(npz([*range(7)]))[how]
    assert "is damaged" in complaint(source, {PACKED: content}, tmp_path)


@pytest.mark.parametrize(
    ("content", "cites"),
    [
        ("1\t0\t1\tTheory\n2\t0\tTheory\n", "1\t2\n"),
        ("1\t0\t1\tBotany\n", ""),
        ("1\t0\t1\tTheory\n", "1\t3\n"),
        ("1\t0\t1\tTheory\n", "1\n"),
    ],
)
def test_files_laid_out_otherwise_are_noticed(
    source: Source, tmp_path: Path, content: str, cites: str
) -> None:
    file = tar({"cora/cora.content": content, "cora/cora.cites": cites})
    other = cora.SOURCE.__class__("cora", "", (), cora.read, (PACKED,))
    assert "is damaged" in complaint(other, {PACKED: file}, tmp_path)


def test_a_file_without_citations_is_noticed(tmp_path: Path) -> None:
    file = tar({"cora/cora.content": "1\t0\t1\tTheory\n"})
    other = cora.SOURCE.__class__("cora", "", (), cora.read, (PACKED,))
    assert "cora.cites" in complaint(other, {PACKED: file}, tmp_path)


@pytest.mark.needs_data("cora")
@pytest.mark.usefixtures("cache")
def test_the_published_papers() -> None:
    papers = load("cora")
    assert papers.words.shape == (2708, 1433)
    assert papers.words.sum() == 49_216
    # as counted in the README of the LINQS file
    assert dict(zip(papers.names, torch.bincount(papers.y).tolist(), strict=True)) == {
        "Case_Based": 298,
        "Genetic_Algorithms": 418,
        "Neural_Networks": 818,
        "Probabilistic_Methods": 426,
        "Reinforcement_Learning": 217,
        "Rule_Learning": 180,
        "Theory": 351,
    }
    assert papers.edges.shape == (5278, 2)
    assert (papers.edges[:, 0] < papers.edges[:, 1]).all()
    assert torch.bincount(papers.edges.flatten(), minlength=2708).min() >= 1
    parts = papers.train, papers.val, papers.test
    assert [len(part) for part in parts] == [140, 500, 1000]
    assert len(torch.cat(parts).unique()) == 1640
    assert torch.bincount(papers.y[papers.train]).tolist() == [20] * 7
    # paper 31336, the first of cora.content
    first = [118, 125, 176, 252, 351, 456, 507, 521, 619, 648]
    first += [698, 702, 734, 845, 902, 1205, 1209, 1236, 1352, 1426]
    (row,) = (papers.words[:, first].sum(1) == 20).nonzero()[:, 0]
    assert papers.words[row].sum() == 20
    assert papers.names[papers.y[row]] == "Neural_Networks"
    assert (papers.edges == row).sum() == 5
