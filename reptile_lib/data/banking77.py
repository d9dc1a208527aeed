"""Banking77: what customers ask a bank, in 77 intents."""

from reptile_lib.data import sentences
from reptile_lib.reading.archive import contents, csv_rows, damage_told
from reptile_lib.reading.arrays import Arrays, Paths, Source, site
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.texts import Texts

ABOUT = About(
    "77 intents with 75 to 227 sentences, 13,083 in all, split 25/25/27 as Dopierre et"
    " al. 2021 (ACL) do",
    "CC BY 4.0",
    "Casanueva et al. 2020, NLP for Conversational AI, arxiv.org/abs/2003.04807",
    "https://github.com/PolyAI-LDN/task-specific-datasets",
)
URL = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data"
FILES = {
    "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}
# github.com/tdopierre/ProtAugment, data/BANKING77/few_shot, in the order of names
SPLITS = (
    "21020020210021220200101010222001211102200111212122021111121020220100211221002",
    "02202102102210110200221220121200220110121010102211201112220010110022022101210",
    "22101010221001212101010122011220121011102020010211000102000222122202221220121",
    "12200122211212012212011110002120100102201211012102222200020012210002002101211",
    "20022020112212220210200020201012201120011111022222011011001220022112010210111",
)


def load(split: int = 1) -> Parts[Texts]:
    """Return Banking77: the sentences of each intent, names "card_arrival".

    An intent has those published for training, then those for testing. A few begin or
    end with spaces or newlines. Intents are split as Dopierre, Gravier, Logerais 2021
    (ProtAugment, ACL) do: `split` is one of their five, over which they average.

    Raises:
        UserError: `split` is not in 1..5, or the data cannot be had.
    """
    return sentences.shared_out(sentences.classes_of(SOURCE), SPLITS, split)


def read(paths: Paths) -> Arrays:
    """Read train.csv and test.csv, single or zipped."""
    classes: dict[str, list[str]] = {}
    files = contents(paths, r"(train|test)\.csv", sentences.MOST)
    for path, content in (files[name] for name in FILES):
        with damage_told(path):
            for row in csv_rows(content):
                classes.setdefault(row["category"], []).append(row["text"])
    return sentences.pack_classes(dict(sorted(classes.items())))


SOURCE = Source(
    "banking77",
    "1ecc6549d1736486c2c44e09aa9bea3e6f9ee2126b54dbf3124350e81c494162",
    site(URL, sentences.MOST, FILES),
    read,
    ("intents/banking77.zip",),
)
