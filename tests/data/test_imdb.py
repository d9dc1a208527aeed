"""IMDB: both ways to it, and the published files where they are at hand."""

import csv
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from reptile_lib import UserError, load
from reptile_lib.data import imdb
from reptile_lib.data.sentences import classes_of
from reptile_lib.reading.arrays import Source, arrays_of
from tests.data.ways import complaint, damaged, from_packed, from_site, small

REVIEWS = {  # half, label, number, rating; 9 comes before 10
    ("train", "neg", 10, 1): 'Bad.<br /><br />"So", bad\x85 ',
    ("train", "neg", 9, 4): "\tMeh\xa0é",
    ("train", "pos", 0, 10): "Good, \x08 good",
    ("test", "neg", 3, 2): "Bad again",
    ("test", "pos", 7, 7): "Fine\u2028fine",
    ("test", "pos", 8, 8): "Fine\u2028fine",  # some stand twice
}
FOUND = {
    "train/neg": ("\tMeh\xa0é", 'Bad.<br /><br />"So", bad\x85 '),
    "train/pos": ("Good, \x08 good",),
    "test/neg": ("Bad again",),
    "test/pos": ("Fine\u2028fine", "Fine\u2028fine"),
}
RATINGS = [4, 1, 10, 2, 7, 8]
PACKED = ("imdb/imdb_train.csv.xz", "imdb/imdb_test.csv.xz")


def archive() -> bytes:
    """Return the reviews in the layout of aclImdb_v1.tar.gz."""
    files = {
        f"aclImdb/{half}/{label}/{number}_{rating}.txt": text
        for (half, label, number, rating), text in REVIEWS.items()
    }
    files |= {"aclImdb/README": "?", "aclImdb/train/unsup/0_0.txt": "nobody knows"}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            file.addfile(info, io.BytesIO(text.encode()))
    return raw.getvalue()


def tables() -> dict[str, bytes]:
    """Return them as they are packed."""
    found = {}
    for half in ("train", "test"):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "rating", "label", "text"])
        for (own, label, number, rating), review in REVIEWS.items():
            if own == half:
                writer.writerow([number, rating, int(label == "pos"), review])
        found[f"imdb/imdb_{half}.csv.xz"] = lzma.compress(text.getvalue().encode())
    return found


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small(imdb.SOURCE, {"aclImdb_v1.tar.gz": archive()}, tmp_path)


def test_both_ways_lead_to_the_same_reviews(source: Source, tmp_path: Path) -> None:
    assert from_site(source, tmp_path, classes_of) == FOUND
    found = from_packed(source, tables(), tmp_path, classes_of)
    assert found == FOUND
    assert list(found) == list(FOUND)
    ratings = from_packed(source, tables(), tmp_path, arrays_of)["rating"]
    assert ratings.tolist() == RATINGS


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, how: str) -> None:
    files = tables()
    files[PACKED[1]] = damaged(files[PACKED[1]])[how]
    assert f"{PACKED[1]} is damaged" in complaint(source, files, tmp_path)


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign"])
def test_a_damaged_archive_is_named(source: Source, tmp_path: Path, how: str) -> None:
    path = tmp_path / "site" / "aclImdb_v1.tar.gz"
    path.write_bytes(damaged(archive())[how])
    with pytest.raises(UserError, match=r"aclImdb_v1\.tar\.gz is damaged"):
        from_site(source, tmp_path, classes_of)


@pytest.mark.parametrize(
    "row", ["0,1,2,text\n", "0,1,0\n", "x,1,0,text\n", "0,,0,text\n", '0,1,0,"text\n']
)
def test_what_is_laid_out_otherwise_is_refused(
    source: Source, tmp_path: Path, row: str
) -> None:
    files = tables()
    content = f"id,rating,label,text\n{row}".encode()
    files[PACKED[0]] = lzma.compress(content)
    assert f"{PACKED[0]} is damaged" in complaint(source, files, tmp_path)


@pytest.mark.slow
@pytest.mark.needs_data("imdb")
@pytest.mark.usefixtures("cache")
def test_the_published_reviews() -> None:
    train, val, test = load("imdb")
    assert (train.names, val.names, test.names) == (("neg", "pos"), (), ("neg", "pos"))
    for part, different in ((train, 24_904), (test, 24_801)):  # as published
        assert [len(own) for own in part.sentences] == [12_500, 12_500]
        assert len({text for own in part.sentences for text in own}) == different
    bytes_of = [
        sum(len(t.encode()) for own in p.sentences for t in own) for p in (train, test)
    ]
    # bytes that huggingface.co/datasets/imdb states; 12 per review are no text
    assert bytes_of == [33_432_823 - 300_000, 32_650_685 - 300_000]
    assert train.sentences[0][0].startswith("Story of a man who has unnatural feelings")

    fewer, held, same = load("imdb", val_reviews=2_500)
    groups = zip(train.sentences, fewer.sentences, held.sentences, strict=True)
    kept = [first + last == whole for whole, first, last in groups]  # no diff of 30 MB
    assert kept == [True, True]
    assert [len(own) for own in held.sentences] == [2_500, 2_500]
    kept = [same == test]
    assert kept == [True]

    stars = arrays_of(imdb.SOURCE)["rating"].reshape(4, 12_500)
    assert [set(own) for own in stars.tolist()] == [{1, 2, 3, 4}, {7, 8, 9, 10}] * 2
    assert stars[0, :3].tolist() == [3, 1, 1]
    with pytest.raises(UserError, match="val_reviews is 12500: choose from 0 to 12499"):
        load("imdb", val_reviews=12_500)
