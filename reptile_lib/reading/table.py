"""Tables of one's own: CSV files with a header, in UTF-8.

Fields are parted by commas, semicolons or tabs, whichever part the header most. Rows
are counted as spreadsheets do: the header is row 1, an empty line counts and is passed
over, a quoted field of several lines is one.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reptile_lib.errors import UserError

Inputs = Tensor | tuple[Tensor, ...]
Encode = Callable[[Sequence[str]], Inputs]
"""Makes of n texts a tensor [n, ...], or a tuple of such."""

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file, each with its number."""

    path: str
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, name: str) -> list[str]:
        """Return the fields of a column, without the spaces around them.

        Raises:
            UserError: there is none, or more than one, of this name.
        """
        if self.header.count(name) > 1:
            raise UserError(f"{self.path!r} has several columns {name!r}; rename them")
        if name not in self.header:
            known = ", ".join([*map(repr, self.header[:9]), "..."][: len(self.header)])
            raise UserError(f"{self.path!r} has no column {name!r}; choose of {known}")
        place = self.header.index(name)
        return [fields[place].strip() for _, fields in self.rows]

    def wrong(self, index: int, column: str, text: str) -> UserError:
        """Return what to tell the user of a field of rows[index]."""
        row, _ = self.rows[index]
        return UserError(f"{self.path!r}, row {row}, column {column!r}: {text}")

    def texts(self, column: str) -> list[str]:
        """Return a column; a UserError says which of its fields is empty."""
        found = self.column(column)
        if "" in found:
            text = "is empty; fill it in or delete the row"
            raise self.wrong(found.index(""), column, text)
        return found

    def numbers(self, columns: Sequence[str]) -> Tensor:
        """Return columns as they are, not standardised: float32 [rows, columns].

        Raises:
            UserError: there is no such column, or a field is no finite number.
        """
        found = []
        for column in columns:
            fields = self.column(column)
            values = [number(field) for field in fields]
            if None in values:
                bad = values.index(None)
                text = f"{fields[bad]!r} is no finite number; write one such as 3.5"
                raise self.wrong(bad, column, text)
            found.append(torch.tensor(values, dtype=torch.float32))
        return torch.stack(found, 1)

    def numeric(self) -> list[str]:
        """Return the named columns with numbers, perhaps not in all of their rows."""

        def some(name: str) -> bool:
            return any(number(field) is not None for field in self.column(name))

        return [name for name in self.header if name and some(name)]

    def labels(self, column: str, known: Sequence[object]) -> Tensor:
        """Return the places of a column's labels among the known ones: int64 [rows]."""
        place = {str(label): i for i, label in enumerate(known)}
        found = self.texts(column)
        for index, label in enumerate(found):
            if label not in place:
                text = f"{label!r} is none of {', '.join(place)}; mend it, or add it"
                raise self.wrong(index, column, text)
        return torch.tensor([place[label] for label in found])


def number(text: str) -> float | None:
    """Return the number that float32 can hold, or None."""
    try:
        value = float(text.replace("_", "?"))  # float() takes 1_000
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None  # nan is neither


def read(path: str | Path) -> Table:
    """Read a CSV file.

    Raises:
        UserError: there is no such file, it is no UTF-8, it has no rows, or a row has
            more or fewer fields than the header.
    """
    name = str(Path(path).expanduser())
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        why = f"{name!r} cannot be read ({error.strerror}); give a CSV file"
        raise UserError(why) from error
    except UnicodeDecodeError as error:
        why = f"{name!r} is no UTF-8 text (byte {error.start}); save it as CSV, UTF-8"
        raise UserError(why) from error

    def records(mark: str) -> Iterator[list[str]]:
        return csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)

    def columns(mark: str) -> list[str]:
        with suppress(csv.Error):  # such as "a";"b" with commas
            return [field.strip() for field in next(records(mark), [])]
        return []

    best = max(",;\t", key=lambda mark: len(columns(mark)))
    header, rows, row = columns(best), [], 0
    try:
        for row, fields in enumerate(records(best), 1):
            if row > 1 and fields:
                rows.append((row, fields))
                if len(fields) != len(header):
                    raise UserError(
                        f"{name!r}, row {row} has {len(fields)} fields, the header has"
                        f' {len(header)}; put "quotes" around text with a {best!r}'
                    )
    except csv.Error as error:
        why = f"{name!r}, row {row + 1} is no CSV ({error}); see to its quotes"
        raise UserError(why) from error
    if not rows:
        raise UserError(f"{name!r} has no rows; give a header and a row per example")
    return Table(name, header, rows)


def encoded(encode: Encode, texts: Sequence[str]) -> Inputs:
    """Return `encode(texts)`; a UserError says if that is not a row per text."""
    inputs = encode(texts)
    for x in inputs if isinstance(inputs, tuple) else (inputs,):
        if not isinstance(x, Tensor) or x.shape[:1] != (len(texts),):
            raise UserError(
                f"encode makes {list(getattr(x, 'shape', [type(x).__name__]))} of"
                f" {len(texts)} texts; let it return a tensor [{len(texts)}, ...]"
            )
    return inputs


def by_label(inputs: Inputs, labels: Sequence[str]) -> dict[str, Inputs]:
    """Return the rows of each label, in the order in which the labels come up."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    if isinstance(inputs, Tensor):
        return {label: inputs[some] for label, some in rows.items()}
    return {label: tuple(x[some] for x in inputs) for label, some in rows.items()}


def classes(
    path: str | Path,
    label: str,
    text: str | None = None,
    features: Sequence[str] = (),
    encode: Encode | None = None,
) -> tuple[list[Inputs], tuple[str, ...]]:
    """Return the rows of each class of a table, and the classes' names, sorted.

    Args:
        path: the CSV file.
        label: the column with the class of each row.
        text: the column with a text per row, for `encode`.
        features: or columns of numbers, left as they are: float32 [rows, features].
            Standardise them where their scales differ.
        encode: makes a tensor [n, ...] of n texts, such as `models.text.encode_words`.

    Raises:
        UserError: of the file, a column or a field; or neither or both of `text`, with
            `encode`, and `features` are given.
    """
    features = [features] if isinstance(features, str) else features
    if (text is None) == bool(not features) or (text is None) != (encode is None):
        raise UserError(
            "give text=COLUMN with encode=FUNCTION, such as"
            " reptile_lib.models.text.encode_words, or else features=[COLUMN, ...]"
        )
    if label in (text, *features):
        raise UserError(f"column {label!r} is the label; leave it out of the inputs")
    table = read(path)
    labels = table.texts(label)
    if text is not None and encode:
        found = by_label(encoded(encode, table.texts(text)), labels)
    else:
        found = by_label(table.numbers(features), labels)
    return [found[name] for name in sorted(found)], tuple(sorted(found))
