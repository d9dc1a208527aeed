"""Cora: papers on machine learning, their words, and who cites whom."""

from base64 import b85decode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reptile_lib.reading.archive import damage_told, members
from reptile_lib.reading.arrays import Arrays, Source, arrays_of, read_npz
from reptile_lib.reading.fetch import Remote
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
    packed = np.frombuffer(b85decode(SPLIT), np.uint8).reshape(2, -1)
    low, high = np.unpackbits(packed, axis=1, count=len(bits))
    parts = (torch.from_numpy((low + 2 * high == n).nonzero()[0]) for n in (1, 2, 3))
    return Papers(
        torch.from_numpy(bits).float(),
        torch.from_numpy(arrays["labels"]).long(),
        NAMES,
        torch.from_numpy(arrays["edges"]).long(),
        *parts,
    )


def read(paths: Sequence[Path]) -> Arrays:
    """Return the papers of cora.content and cora.cites in a tar file."""
    (path,) = paths
    with damage_told(path):
        found = dict(members(path, r"cora/cora\.(content|cites)", 20_000_000))
        papers = [
            row.split() for row in found["cora/cora.content"].decode().splitlines()
        ]
        pairs = [row.split() for row in found["cora/cora.cites"].decode().splitlines()]
        at = {paper[0]: row for row, paper in enumerate(papers)}
        return in_order(
            np.array([[word == "1" for word in paper[1:-1]] for paper in papers]),
            [NAMES.index(paper[-1]) for paper in papers],
            [(at[cited], at[citing]) for cited, citing in pairs],
        )


def read_packed(paths: Sequence[Path]) -> Arrays:
    """Return the papers of an npz file."""
    (path,) = paths
    file = read_npz(path)
    with damage_told(path):
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
    name="cora",
    sha256="57ee40bdc474e81cdca6694aabd0004de07e70a0602bd2e50feb2b33ace7e6f2",
    remotes=(
        Remote("https://linqs-data.soe.ucsc.edu/public/lbc/cora.tgz", "", 2_000_000),
    ),
    read=read,
    packed=("cora/cora.npz",),
    read_packed=read_packed,
)
# Of each paper: 0 no part, 1 train, 2 val, 3 test; all low bits, then all high bits.
SPLIT = (
    ">C0~hhq3}}Z`~G0*&>$*I0g;Lh;Z4^A$@cN78pp<GGu9ZfiRy40ED6TBz{8nX>nm^)ePb*O>oe8MctNJ"
    "y*c8;wQ{R1EH_eRA_rna6u6jFS3Drz`81&yd8j=VfmZ?ZhZIGPIshmH9||A^B)A?34FEj>4H?n_hDulx"
    "AaZ~P4XxTVUQH7=oR=oSN5q(+0kwf90yKO=aq1yhi4GW~0S$o>14Lq2f{Qna*)`}^M1iKcgs_&61l>ms"
    "#fHqeif8CepqL%%O)ZRI{h$fly+DbP9Pc~?2pVs;1)*@G8&j>VDnp|}92oEcRFaeju8@IoX-FYy**XXU"
    "8lYuW90wd^kz)YmFdXe``3Md*krWB;0}J0l5(BOs0|o{q=XB8SsWenRk^}~DJWvcUz&e<n1svT%DJX&S"
    "c*GV5w8er$P~9cgvEKP<6>Ko!&u>?cA|h;e-xg2(Q<a9iS1--XV))!4>9-8t4b0OsZ0OO;ajminjH&W$"
    "UyHWz(IqC){Nq3Eb8|ga-Tqm>S<=&;GL$WBHj-!VM{e`nxR}HiJ}K65Hm6_t^F1}e2Ndh(wPnvb2(Ct("
    "LL@b0+*UbVF~41FAC>`*dRUSna_%Zm{oZw6ZL&X~_pZ}V+~1)mw}WmAGJi^4&d1-4JUX!9kC_omY<gH5"
    "%Qu<XHR@Jvf$zDdvWATm{oV~lncTUrf9=im$Gz%ZFN}Bns2TtNQoYe!>ou58T5tY8;c}}R)2qGc7w=}B"
    "7|;RyQkGY*(xrCwsbTqV@5Kh%qIK#V7Yy`~Yr5rh43F#E9WFK56%BqHtKZe42fR%K1~g~yc6Mu>@O8Y)"
    "96)$JaU7Abvb`r=KHXwt%Bj<1gqGE`!{bp(<t_HLu+zyLZ7="
)
