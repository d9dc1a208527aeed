"""CLINC150: what people ask an assistant, in 150 intents of ten domains."""

import json

from reptile_lib.data import sentences
from reptile_lib.reading.archive import contents, damage_told
from reptile_lib.reading.arrays import Arrays, Paths, Source, site
from reptile_lib.reading.parts import About, Parts
from reptile_lib.reading.texts import Texts

ABOUT = About(
    "150 intents with 150 sentences each, split 50/50/50 as Dopierre et al. 2021 (ACL)"
    " do, and 1,200 sentences of no intent",
    "CC BY 3.0",
    "Larson et al. 2019, EMNLP-IJCNLP, aclanthology.org/D19-1131",
    "https://github.com/clinc/oos-eval",
)
URL = "https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data"
FILES = {
    "data_full": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    "domains": "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
}
# github.com/tdopierre/ProtAugment, data/OOS/few_shot, intents in the order of names
SPLITS = (
    "112120201122001202010122110200210222002001220111112011222012202222102202101110112100011210211011202220201000111112120000210200220221201020220011000111",
    "100001112000022002011221111102210122122002211011002222220201120001100202200012220010122010012011202221122202010121200011000122211222210122100111111101",
    "010010211100102101102000012100221010021222020211101201200112002121012022220110001022121002022221102022222022110110022100112211012201212121011011020122",
    "212210001121010021111001210211101010001212011000200002201002210222012222220212222121100102220201121111002012020021100221021012121020121221022011100210",
    "002010210200222102110211011021202210121111222121212122100122202220122010000102120211011110122201112020200002011100011002111001220122020001001021021222",
)
PUBLISHED = ("train", "val", "test")


def load(split: int = 1) -> Parts[Texts]:
    """Return CLINC150: 150 sentences of each intent, names "banking/pay_bill".

    An intent has the 100 sentences published for training, then 20 for validation, then
    30 for testing; four sentences have two intents, as "turn up your volume". Intents
    are split as Dopierre, Gravier, Logerais 2021 (ProtAugment, ACL) do: `split` is one
    of their five, over which they average; each part has intents of all ten domains.

    Raises:
        UserError: `split` is not in 1..5, or the data cannot be had.
    """
    found = sentences.classes_of(SOURCE)
    intents = {n: own for n, own in found.items() if not n.startswith("oos/")}
    return sentences.shared_out(intents, SPLITS, split)


def out_of_scope() -> Parts[Texts]:
    """Return the 100, 100 and 1,000 sentences of no intent, as the class "oos".

    Raises:
        UserError: the data cannot be had.
    """
    found = sentences.classes_of(SOURCE)
    return Parts(*(Texts((found[f"oos/{part}"],), ("oos",)) for part in PUBLISHED))


def read(paths: Paths) -> Arrays:
    """Read data_full.json and domains.json, single or zipped."""
    files = contents(paths, r"(data_full|domains)\.json", sentences.MOST)
    (whole, content), (other, domains) = (files[f"{stem}.json"] for stem in FILES)
    with damage_told(other):
        pairs = [(d, own) for d, all_ in json.loads(domains).items() for own in all_]
        classes: dict[str, list[str]] = {f"{d}/{own}": [] for d, own in sorted(pairs)}
        of = {own: classes[f"{d}/{own}"] for d, own in pairs}
    with damage_told(whole):
        given = json.loads(content)
        for part in PUBLISHED:
            for text, intent in given[part]:
                of[intent].append(text)
            classes[f"oos/{part}"] = [text for text, _ in given[f"oos_{part}"]]
        return sentences.pack_classes(classes)


SOURCE = Source(
    "clinc150",
    "4ab0d2bd1aad6bf2dae19d1492b754249da946c7ec410017f011784d96b2b7a2",
    site(URL, sentences.MOST, {f"{stem}.json": of for stem, of in FILES.items()}),
    read,
    ("intents/clinc150.zip",),
)
