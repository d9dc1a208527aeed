"""Short texts: hashed words, and a small network on the sum of their vectors."""

import re
import zlib
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from reptile_lib.errors import UserError

LENGTH, BUCKETS = 128, 2**12
TABLE_STD = 0.1  # torch's own 1 drowns what the few steps of a task can change


def encode_words(
    texts: Sequence[str], *, length: int = LENGTH, buckets: int = BUCKETS
) -> Tensor:
    """Return the hashed words of each text, and then their runs of 3 to 5 characters.

    Case does not count; a punctuation mark is a word; words are hashed by CRC-32, the
    same on every machine. Runs are cut from ``<word>``, as Bojanowski et al. 2017 do.
    What exceeds `length` is left out, at the end.

    >>> encode_words(["Book a table", "book"], length=4, buckets=100)
    tensor([[51, 46, 42, 14],
            [51, 14, 33, 23]])

    Args:
        texts: n of them, none empty.
        length: L, ids per text.
        buckets: how many ids there are; different words may share one.

    Returns:
        int64 [n, L], ids from 1 to buckets − 1, filled up with 0.

    Raises:
        UserError: a text is empty, `texts` is a single one, or a number is too small.
    """
    if isinstance(texts, str):
        raise UserError(f"texts = {texts[:40]!r} is one text; give a list of texts")
    if length < 1 or buckets < 2:
        raise UserError(
            f"length = {length}, buckets = {buckets}; give at least 1 and 2"
        )
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        words = re.findall(r"\w+|[^\w\s]", text.casefold())
        if not words:
            raise UserError(f"text {text[:40]!r} is empty; leave it out")
        runs = [run for word in words for run in _runs(word)]
        found = [_hash(part, buckets) for part in (*words, *runs)[:length]]
        row[: len(found)] = torch.tensor(found)
    return ids


@cache
def _runs(word: str) -> list[str]:
    whole = f"<{word}>"
    return [whole[i : i + n] for n in (3, 4, 5) for i in range(len(whole) - n + 1)]


@cache
def _hash(part: str, buckets: int) -> int:
    return zlib.crc32(part.encode("utf-8", "surrogatepass")) % (buckets - 1) + 1


def text_bag(
    ways: int,
    buckets: int = BUCKETS,
    *,
    width: int = 32,
    hidden: int = 64,
    seed: int = 0,
) -> nn.Module:
    """Build a network for ids [B, L]: the sum of their vectors, then two layers.

    The sum is over √n of the n ids that are not 0, so that it is as large as a vector
    however long the text. A mean gets smaller: of ninety ids it is a tenth of that, and
    ten steps of SGD hardly move the answers.

    >>> text_bag(ways=5)(encode_words(["Hello there!"])).shape
    torch.Size([1, 5])
    >>> sum(p.numel() for p in text_bag(ways=5).parameters())
    133509

    Args:
        ways: classes to tell apart.
        buckets: how many ids there are, those of `encode_words`.
        width: entries of a vector.
        hidden: units of the hidden layer.
        seed: draws the parameters.

    Raises:
        UserError: a number is below 1.
    """
    sizes = {"ways": ways, "buckets": buckets, "width": width, "hidden": hidden}
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"text_bag: {name} = {value}; give at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextBag(ways, buckets, width, hidden)


class TextBag(nn.Module):
    """Map ids [B, L] to the sum of their vectors over √n, and that to logits."""

    def __init__(self, ways: int, buckets: int, width: int, hidden: int) -> None:
        super().__init__()
        # not nn.EmbeddingBag, which cannot be stacked over tasks
        self.table = nn.Embedding(buckets, width)
        nn.init.normal_(self.table.weight, std=TABLE_STD)
        layers = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, ways)
        self.head = nn.Sequential(*layers)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [B, L], 0 where there is none, to logits [B, ways]."""
        try:
            vectors = self.table(ids)  # [B, L, width]
        except IndexError as error:
            raise UserError(
                f"an id is not below {self.table.num_embeddings}, the model's buckets;"
                " encode the texts with the same number of buckets"
            ) from error
        there = (ids != 0).to(vectors.dtype)[..., None]
        bag = (vectors * there).sum(-2) / there.sum(-2).clamp(min=1).sqrt()
        logits: Tensor = self.head(bag)
        return logits
