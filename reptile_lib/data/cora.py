"""Cora: papers on machine learning, their words, and who cites whom."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reptile_lib.reading.archive import members
from reptile_lib.reading.arrays import Arrays, Paths, Source, arrays_of, read_npz, site
from reptile_lib.reading.parts import About

ABOUT = About(
    "2,708 papers in 7 fields, which of 1,433 words each has, 5,278 citations; 140"
    " papers for training, 500 for validation, 1,000 for testing (Planetoid)",
    "not stated",
    "Sen et al. 2008, AI Magazine 29(3); split: Yang, Cohen, Salakhutdinov 2016, ICML",
    "https://linqs.org/datasets/#cora",
)
NAMES = (  # as Planetoid numbers them
    *("Theory", "Reinforcement_Learning", "Genetic_Algorithms", "Neural_Networks"),
    *("Probabilistic_Methods", "Case_Based", "Rule_Learning"),
)
WORDS = 1433
SPLIT = Path(__file__).with_name("cora_split.npz")
"""Of each paper: 0 no part, 1 train, 2 val, 3 test."""


class Papers(NamedTuple):
    """Papers as nodes of a graph."""

    words: Tensor
    """float32 [papers, words], 1 where a paper has the word, else 0."""
    y: Tensor
    """int64 [papers], the field: an index of `names`."""
    names: tuple[str, ...]
    """One per field."""
    edges: Tensor
    """int64 [citations, 2], smaller index first, whoever of the two cites the other."""
    train: Tensor
    """int64 [140], rows of papers: 20 per field."""
    val: Tensor
    """int64 [500], rows of other papers."""
    test: Tensor
    """int64 [1000], rows of still others."""


def load() -> Papers:
    """Return the papers, by field and words: not in the order of Planetoid's files.

    The split is Planetoid's, yet papers of the same field, words and neighbours, of
    which there are 25, may stand for each other: nothing in the files tells them apart.

    Raises:
        UserError: the data cannot be had (`arrays.arrays_of`).
    """
    arrays = arrays_of(SOURCE)
    bits = np.unpackbits(arrays["words"], axis=1, count=WORDS)
    part = torch.from_numpy(read_npz(SPLIT)["part"])
    parts = ((part == n).nonzero()[:, 0] for n in (1, 2, 3))
    return Papers(
        torch.from_numpy(bits).float(),
        torch.from_numpy(arrays["labels"]).long(),
        NAMES,
        torch.from_numpy(arrays["edges"]).long(),
        *parts,
    )


def read(paths: Paths) -> Arrays:
    """Return the papers of cora.content and cora.cites in a tar file."""
    found = dict(members(paths[0], r"cora/cora\.(content|cites)", 20_000_000))
    papers, pairs = (
        [row.split() for row in found[f"cora/cora.{end}"].decode().splitlines()]
        for end in ("content", "cites")
    )
    at = {paper[0]: row for row, paper in enumerate(papers)}
    return in_order(
        np.array([[word == "1" for word in paper[1:-1]] for paper in papers]),
        [NAMES.index(paper[-1]) for paper in papers],
        [(at[cited], at[citing]) for cited, citing in pairs],
    )


def read_packed(paths: Paths) -> Arrays:
    """Return the papers of an npz file."""
    file = read_npz(paths[0])
    words = np.zeros(file["shape"], bool)
    rows = np.repeat(np.arange(len(words)), np.diff(file["indptr"]))
    words[rows, file["indices"]] = True
    return in_order(words, file["labels"].tolist(), file["edges"].tolist())


def in_order(
    words: NDArray[np.bool_], labels: Sequence[int], citations: Iterable[Sequence[int]]
) -> Arrays:
    """Return papers in an order that their files' order has no part in.

    Papers stand by field and words, those of the same words by their neighbours. Where
    these are the same, too, the arrays are equal whichever comes first.
    """
    near: list[set[int]] = [set() for _ in labels]
    for one, other in citations:
        if one != other:
            near[one].add(other)
            near[other].add(one)
    keys: list[Any] = [(y, row.tobytes()) for y, row in zip(labels, words, strict=True)]
    for _ in range(3):
        ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
        place = [ranks[key] for key in keys]
        around = (tuple(sorted(place[n] for n in others)) for others in near)
        keys = list(zip(place, around, strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    at = {row: new for new, row in enumerate(order)}
    edges = {tuple(sorted((at[row], at[n]))) for row in at for n in near[row]}
    return {
        "words": np.packbits(words[order], axis=1),
        "labels": np.array(labels, np.uint8)[order],
        "edges": np.array(sorted(edges), np.int16).reshape(-1, 2),
    }


SOURCE = Source(
    "cora",
    "57ee40bdc474e81cdca6694aabd0004de07e70a0602bd2e50feb2b33ace7e6f2",
    site("https://linqs-data.soe.ucsc.edu/public/lbc", 2_000_000, {"cora.tgz": ""}),
    read,
    ("cora/cora.npz",),
    read_packed,
)
