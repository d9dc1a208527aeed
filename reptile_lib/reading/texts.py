"""Classes of sentences, before they are made numbers."""

from dataclasses import dataclass

from reptile_lib.errors import UserError
from reptile_lib.examples import Examples
from reptile_lib.reading import table


@dataclass(frozen=True)
class Texts:
    """Sentences of a number of classes.

    Args:
        sentences: those of each class.
        names: one name per class.

    >>> from reptile_lib.models.text import encode_words
    >>> texts = Texts((("hello", "good morning"), ("bye",)), ("greeting", "parting"))
    >>> texts.examples(encode_words).counts
    (2, 1)

    Raises:
        UserError: names are not one per class and all different, a class is empty, or a
            sentence is.
    """

    sentences: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        different = len(set(self.names))
        if not len(self.sentences) == len(self.names) == different:
            raise UserError(
                f"{len(self.names)} names, {different} of them different, for"
                f" {len(self.sentences)} classes; give each class a name of its own"
            )
        for name, own in zip(self.names, self.sentences, strict=True):
            if not own or not all(text.strip() for text in own):
                raise UserError(
                    f"class {name!r} has none, or an empty one; leave it out"
                )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def examples(self, encode: table.Encode) -> Examples:
        """Return what `encode`, such as `models.text.encode_words`, makes of all.

        Raises:
            UserError: it does not give one row per text.
        """
        pairs = zip(self.names, self.sentences, strict=True)
        labels = [name for name, own in pairs for _ in own]
        texts = [text for own in self.sentences for text in own]
        found = table.by_label(table.encoded(encode, texts), labels)
        return Examples(list(found.values()), self.names)
