"""HuffPost: headlines of 41 kinds of news."""

import json
from pathlib import Path

from reptile_lib.data import sentences
from reptile_lib.reading.archive import unpacked
from reptile_lib.reading.arrays import Arrays, Paths, Source, site
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.texts import Texts

ABOUT = About(
    "41 kinds of news with 900 headlines each, split 20/5/16 as Bao et al. 2020 do",
    "not stated with this copy; cards of the whole set state CC0 or CC BY 4.0",
    "Misra 2022, arXiv:2209.11429; Bao, Wu, Chang, Barzilay 2020, ICLR",
    "https://github.com/ws-jiang/MetaPrompter_public",
)
URL = "https://raw.githubusercontent.com/ws-jiang/MetaPrompter_public/dea17d573a5eb4f31b3366ba1fe88b1beb865c50/data"
DIGEST = "2485569669dd7ec5bf1e2f7468568a1d019faeb9941205bc9fb7edae93c488d6"
KINDS = Path(__file__).with_name("huffpost.txt").read_text("utf-8").splitlines()
# github.com/YujiaBao/Distributional-Signatures, src/dataset/loader.py
SPLITS = ("0" * 20 + "1" * 5 + "2" * 16,)


def load() -> Parts[Texts]:
    """Return the headlines: 900 of each of 41 kinds of news, names "FOOD & DRINK".

    They are in lower case; spaces part words and punctuation. Kinds are split as Bao,
    Wu, Chang, Barzilay 2020 do. The newspaper had several names for a kind, so a class
    may resemble one of another part: THE WORLDPOST is for training, WORLDPOST for
    validation. 193 headlines repeat another of their kind.

    Raises:
        UserError: the data cannot be had.
    """
    return sentences.shared_out(sentences.classes_of(SOURCE), SPLITS)


def read(paths: Paths) -> Arrays:
    """Read huffpost.json: an object per line; also packed by xz."""
    classes: dict[str, list[str]] = {name: [] for name in KINDS}
    by_label = list(classes.values())
    for line in unpacked(paths[0], sentences.MOST).splitlines():  # of bytes
        row = json.loads(line)
        by_label[row["label"]].append(row["raw"])
    return sentences.pack_classes(classes)


SOURCE = Source(
    "huffpost",
    "65febcda29e81b56e6752f22213a9050932d95bbcdb8e90281b017b9e67a8ff0",
    site(URL, sentences.MOST, {"huffpost.json": DIGEST}),
    read,
    ("huffpost/huffpost.jsonl.xz",),
)
