"""Short texts: hashed words, and small networks on their vectors."""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from reptile_lib.errors import UserError

LENGTH, BUCKETS = 128, 2**12
TABLE_STD = 0.1  # torch's own 1 drowns what the few steps of a task can change


def encode_words(
    texts: Sequence[str],
    *,
    length: int = LENGTH,
    buckets: int = BUCKETS,
    characters: bool = True,
) -> Tensor:
    """Return the hashed words of each text, and then their runs of 3 to 5 characters.

    Case does not count; a punctuation mark is a word; words are hashed by CRC-32, the
    same on every machine. Runs are cut from ``<word>`` as Bojanowski et al. 2017 do,
    who take 3 to 6 characters. What exceeds `length` is left out, at the end.

    >>> encode_words(["Book a table", "book"], length=4, buckets=100)
    tensor([[51, 46, 42, 14],
            [51, 14, 33, 23]])

    Args:
        texts: n of them, none empty.
        length: L, ids per text.
        buckets: how many ids there are; different words may share one.
        characters: whether runs of characters follow the words.

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
        runs = [run for word in words for run in _runs(word)] if characters else []
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


def rarity(ids: Tensor, buckets: int = BUCKETS) -> Tensor:
    """Return how rare each id is in some texts, log((1 + n) / (1 + texts with it)) + 1.

    It is the idf of TF-IDF as scikit-learn has it (`TfidfTransformer`, smoothed).

    >>> rarity(torch.tensor([[1, 1, 0], [1, 2, 0]]), buckets=4)
    tensor([1.0000, 1.0000, 1.4055, 2.0986])

    Args:
        ids: [n, L] of n texts, what `encode_words` returns.
        buckets: how many ids there are.

    Returns:
        float32 [buckets].
    """
    there = torch.zeros(len(ids), buckets).scatter_(1, ids, 1.0)
    return ((1 + len(ids)) / (1 + there.sum(0))).log() + 1


def text_bag(
    ways: int,
    buckets: int = BUCKETS,
    *,
    width: int = 32,
    hidden: int = 64,
    seed: int = 0,
    weights: Tensor | None = None,
) -> nn.Module:
    """Build a network for ids [B, L]: the sum of their vectors, then two layers.

    The sum is over √n of the n ids that are not 0, so that it is as large as a vector
    however long the text. A mean gets smaller: of ninety ids it is a tenth of that, and
    ten steps of SGD hardly move the answers. With weights w of the ids it is Σ w v over
    √(Σ w²).

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
        weights: [buckets], how much each id counts, such as `rarity` of the training
            texts; None: all the same. They are not learnt.

    Raises:
        UserError: a number is below 1, or the weights are not one per id.
    """
    sizes = {"ways": ways, "buckets": buckets, "width": width, "hidden": hidden}
    if weights is not None and weights.shape != (buckets,):
        raise UserError(
            f"weights are {list(weights.shape)}; give one per id, [{buckets}]"
        )
    model = _drawn("text_bag", TextBag, sizes, seed)
    if weights is not None:
        model.weights = weights.to(torch.float32, copy=True)
    return model


def _drawn(
    name: str, make: Callable[..., nn.Module], sizes: Mapping[str, int], seed: int
) -> nn.Module:
    for size, value in sizes.items():
        if value < 1:
            raise UserError(f"{name}: {size} = {value}; give at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(**sizes)


class TextBag(nn.Module):
    """Map ids [B, L] to the weighted sum of their vectors, and that to logits."""

    weights: Tensor

    def __init__(self, ways: int, buckets: int, width: int, hidden: int) -> None:
        super().__init__()
        # not nn.EmbeddingBag, which cannot be stacked over tasks
        self.table = _table(buckets, width)
        self.register_buffer("weights", torch.ones(buckets))
        self.head = _head(width, hidden, ways)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [B, L], 0 where there is none, to logits [B, ways]."""
        vectors = _vectors(self.table, ids)  # [B, L, width]
        there = (ids != 0).to(vectors.dtype)
        w = (self.weights.to(vectors)[ids] * there)[..., None]
        # a text without ids has a sum of zero
        size = w.square().sum(-2) + (there.sum(-1, keepdim=True) == 0)
        logits: Tensor = self.head((vectors * w).sum(-2) / size.sqrt())
        return logits


def text_attention(
    ways: int,
    buckets: int = BUCKETS,
    *,
    width: int = 32,
    hidden: int = 64,
    length: int = 32,
    seed: int = 0,
) -> nn.Module:
    """Build a small transformer for ids [B, L] in the order of the words.

    A vector per id plus one per place; a layer of self-attention with a single head
    (Vaswani et al. 2017, section 3.2.1), added to them; their sum over √n, then two
    layers.
    Without characters: ``encode_words(texts, length=32, characters=False)``.

    >>> ids = encode_words(["Hello there!"], length=32, characters=False)
    >>> text_attention(ways=5)(ids).shape
    torch.Size([1, 5])

    Args:
        ways: classes to tell apart.
        buckets: how many ids there are, those of `encode_words`.
        width: entries of a vector.
        hidden: units of the hidden layer.
        length: the most ids per text.
        seed: draws the parameters.

    Raises:
        UserError: a number is below 1.
    """
    sizes = {"ways": ways, "buckets": buckets, "width": width, "hidden": hidden}
    return _drawn("text_attention", TextAttention, {**sizes, "length": length}, seed)


class TextAttention(nn.Module):
    """Map ids [B, L] to vectors that look at each other, and their sum to logits."""

    def __init__(
        self, ways: int, buckets: int, width: int, hidden: int, length: int
    ) -> None:
        super().__init__()
        self.table, self.places = _table(buckets, width), _table(length, width)
        self.asks, self.keys, self.values = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.head = _head(width, hidden, ways)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [B, L], 0 where there is none, to logits [B, ways]."""
        if ids.shape[-1] > (most := self.places.num_embeddings):
            raise UserError(
                f"texts have {ids.shape[-1]} ids, and the model places for {most};"
                " encode them with this length, or build it with more"
            )
        x = _vectors(self.table, ids) + self.places.weight[: ids.shape[-1]]
        there = ids != 0
        scores = self.asks(x) @ self.keys(x).mT / x.shape[-1] ** 0.5  # [B, L, L]
        scores = scores.masked_fill(~there[..., None, :], torch.finfo(x.dtype).min)
        x = x + scores.softmax(-1) @ self.values(x)
        weight = there.to(x.dtype)[..., None]
        logits: Tensor = self.head(
            (x * weight).sum(-2) / weight.sum(-2).clamp(min=1).sqrt()
        )
        return logits


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=TABLE_STD)
    return table


def _head(width: int, hidden: int, ways: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, ways))


def _vectors(table: nn.Embedding, ids: Tensor) -> Tensor:
    try:
        vectors: Tensor = table(ids)
    except IndexError as error:
        raise UserError(
            f"an id is not below {table.num_embeddings}, the model's buckets;"
            " encode the texts with the same number of buckets"
        ) from error
    return vectors
