"""CSV files of one's own: what is read, and what each fault is told as."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reptile_lib import Examples, FewShotTasks, GroupTasks, UserError, draw
from reptile_lib.reading import table
from tests.kit import one


def lengths(texts: Sequence[str]) -> Tensor:
    """Encode a text as its length and its first letter's number."""
    return torch.tensor([[len(text), ord(text[0])] for text in texts])


def written(path: Path, text: str | bytes) -> Path:
    file = path / "my.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


SENTENCES = {
    "commas": 'text,kind\n"Hi, you",greet\nBye, part\n"Good\nday ""all""",greet \n',
    "semicolons": '"text";"kind"\nHi, you;greet\nBye;part\n"Good\nday ""all""";greet\n',
    "tabs, CRLF": 'text\tkind\r\nHi, you\tgreet\r\nBye\tpart\r\n"Good\nday ""all"""'
    "\tgreet\r\n",
    "marked": '\ufefftext,kind\n"Hi, you",greet\n\nBye,part\n"Good\nday ""all""",greet',
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_sentences_become_classes(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, SENTENCES[kind])
    found = Examples.from_table(file, label="kind", text="text", encode=lengths)
    assert found.names == ("greet", "part")
    greet, part = map(one, found.by_class())
    assert greet.tolist() == [[7, ord("H")], [14, ord("G")]]
    assert part.tolist() == [[3, ord("B")]]
    assert greet.dtype == torch.int64


def test_an_encoder_may_give_several_tensors(tmp_path: Path) -> None:
    file = written(tmp_path, SENTENCES["commas"])
    found = Examples.from_table(
        str(file),
        label="kind",
        text="text",
        encode=lambda texts: (lengths(texts), lengths(texts)[:, 0].float()),
    )
    assert isinstance(found.pool, tuple)
    assert found.pool[0][:, 0].tolist() == found.pool[1].tolist() == [7, 14, 3]
    with pytest.raises(UserError, match=r"makes \[2, 2\] of 3 texts; .* \[3, \.\.\.\]"):
        Examples.from_table(
            file, label="kind", text="text", encode=lambda t: lengths(t[1:])
        )
    with pytest.raises(UserError, match=r"makes \['list'\] of 3 texts"):
        Examples.from_table(file, label="kind", text="text", encode=list)  # type: ignore[arg-type]


FLOWERS = """kind,note,long,wide
iris,first,1.5,2
rose,,-3e2, 4
iris,third,+7,8.25
rose,,0,1
"""


def test_columns_of_numbers_are_left_as_they_are(tmp_path: Path) -> None:
    file = written(tmp_path, FLOWERS)
    found = Examples.from_table(file, label="kind", features=["wide", "long"])
    assert [one(x).tolist() for x in found.by_class()] == [
        [[2, 1.5], [8.25, 7]],
        [[4, -300], [1, 0]],
    ]
    assert one(found.pool).dtype == torch.float32
    one_column = Examples.from_table(file, label="kind", features="long")
    assert one(one_column.pool).tolist() == [[1.5], [7], [-300], [0]]
    support, query, _ = FewShotTasks(found, ways=2, shots=1).draw(3)
    assert one(support.x).shape == one(query.x).shape == (3, 2, 2)


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path: Path) -> None:
    file = written(tmp_path, 'a,b\n1,x\n\n"2\n",y\n\n"oh\n\nno",z\n')
    with pytest.raises(
        UserError, match=r"my\.csv', row 6, column 'a': 'oh\\n\\nno' is"
    ):
        Examples.from_table(file, label="b", features=["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"my\.csv' has no rows; give a header"),
        ("kind,x\n", r"my\.csv' has no rows; give a header"),
        ("kind,y\na,1\n", r"my\.csv' has no column 'x'; choose of 'kind', 'y'$"),
        ("kind,x,x\na,1,1\n", r"my\.csv' has several columns 'x'; rename them"),
        ("kind,x\na,1\nb\n", r"row 3 has 1 fields, the header has 2; put \"quotes"),
        ("kind,x\na,1,5\n", "row 2 has 3 fields, the header has 2"),
        ("kind;x\na;1,5\n", r"row 2, column 'x': '1,5' is no finite number; write one"),
        ("kind,x\na,1\nb,abc\n", r"my\.csv', row 3, column 'x': 'abc' is no finite"),
        ("kind,x\na,1\nb,\n", "row 3, column 'x': '' is no finite number"),
        ("kind,x\na,nan\n", "row 2, column 'x': 'nan' is no finite number"),
        ("kind,x\na,-inf\n", "row 2, column 'x': '-inf' is no finite number"),
        ("kind,x\na,1e39\n", "row 2, column 'x': '1e39' is no finite number"),
        ("kind,x\na,1_000\n", "row 2, column 'x': '1_000' is no finite number"),
        ("kind,x\n ,1\n", "row 2, column 'kind': is empty; fill it in or delete"),
        (
            'kind,x\na,1\nb,"2\nc,3\n',
            r"my\.csv', row 3 is no CSV \(.*see to its quotes",
        ),
        ('kind,x\n"a"b,1\n', r"row 2 is no CSV"),
        (b"kind,x\nCaf\xe9,1\n", r"my\.csv' is no UTF-8 text \(byte 10\); save it as"),
        ("kind,x\na,1\n".encode("utf-16"), "is no UTF-8 text"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        Examples.from_table(file, label="kind", features=["x"])
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_call_is_told(tmp_path: Path) -> None:
    file = written(tmp_path, "kind,text\na,hello\nb, \n")
    for wrong in (
        {},
        {"text": "text"},
        {"encode": lengths},
        {"text": "text", "features": ["x"], "encode": lengths},
        {"features": ["x"], "encode": lengths},
    ):
        with pytest.raises(
            UserError, match=r"give text=COLUMN with encode=.* features"
        ):
            Examples.from_table(file, label="kind", **wrong)
    with pytest.raises(UserError, match="'kind' is the label; leave it out"):
        Examples.from_table(file, label="kind", features=["kind"])
    with pytest.raises(UserError, match="row 3, column 'text': is empty; fill it in"):
        Examples.from_table(file, label="kind", text="text", encode=lengths)
    for path, why in ((tmp_path / "no.csv", "No such file"), (tmp_path, "Is a direct")):
        with pytest.raises(UserError, match=rf"cannot be read \({why}.*; give a CSV"):
            table.read(path)


# --- groups

RATINGS = """,user,film,age,note,stars
0,ann,1,30,good,4
1,bob,2,25,,1
2,ann,2,30,,5
3,ann,3,30,bad,1.5
4,bob,3,25,,2
5,eve,1,60,,3
"""


def test_groups_become_tasks(tmp_path: Path) -> None:
    file = written(tmp_path, RATINGS)
    tasks = GroupTasks.from_table(
        file, group="user", target="stars", shots=1, drop_small=True
    )
    # the unnamed column, which pandas writes, and the one without numbers are no inputs
    assert one(tasks.x).tolist() == [[1, 30], [2, 25], [2, 30], [3, 30], [3, 25]]
    assert tasks.y.tolist() == [[4], [1], [5], [1.5], [2]]
    assert tasks.y.dtype == one(tasks.x).dtype == torch.float32
    assert tasks.group.tolist() == [0, 1, 0, 0, 1]
    support, query, _ = draw(tasks, 200)
    ages = torch.cat([one(support.x), one(query.x)], 1)[..., 1]
    assert set(ages.unique(dim=0)[:, 0].tolist()) == {25, 30}
    assert (ages[:, 0] == ages[:, 1]).all()  # rows of one user
    chosen = GroupTasks.from_table(
        file, group="user", target="film", features="age", shots=1, drop_small=True
    )
    assert one(chosen.x).tolist() == [[30], [25], [30], [30], [25]]


def test_a_target_may_be_a_label(tmp_path: Path) -> None:
    file = written(tmp_path, "who,x,sick\n1,1,no\n1,2,yes\n2,3,yes\n2,4,no\n")
    tasks = GroupTasks.from_table(
        file, group="who", target="sick", classes=["yes", "no"], shots=1
    )
    assert tasks.y.tolist() == [1, 0, 0, 1]
    assert tasks.y.dtype == torch.int64
    numbered = GroupTasks.from_table(
        file, group="sick", target="who", features=["x"], classes=[1, 2], shots=1
    )
    assert numbered.y.tolist() == [0, 0, 1, 1]
    with pytest.raises(
        UserError, match=r"'sick' of .* no numbers; .* classes=\[\.\.\.\]"
    ):
        GroupTasks.from_table(file, group="who", target="sick", shots=1)
    with pytest.raises(
        UserError, match="row 2, column 'sick': 'no' is none of yes, n;"
    ):
        GroupTasks.from_table(
            file, group="who", target="sick", classes=("yes", "n"), shots=1
        )


def test_bad_groups_of_a_file_are_told(tmp_path: Path) -> None:
    file = written(tmp_path, RATINGS)
    for wrong, message in (
        ({}, r"group 'eve' has 1 rows, fewer than .* = 2; .*, or give drop_small=True"),
        (
            {"shots": 9, "drop_small": True},
            "group 'eve' has 1 rows, fewer .* = 10; ask",
        ),
        ({"group": "name"}, "has no column 'name'; choose of '', 'user', 'film'"),
        ({"target": "x"}, "has no column 'x'"),
        ({"target": "note"}, "column 'note' of .* holds no numbers; for labels give"),
        (
            {"features": []},
            r"features = \[\] of .*; name columns of numbers other than",
        ),
        ({"features": ["stars"]}, "other than the target 'stars'"),
        ({"features": ["note"]}, "row 2, column 'note': 'good' is no finite number"),
        ({"shots": 0}, "shots = 0; give at least 1"),
    ):
        given = {"group": "user", "target": "stars", "shots": 1, **wrong}
        with pytest.raises(UserError, match=message):
            GroupTasks.from_table(file, **given)  # type: ignore[arg-type]
    mixed = written(tmp_path, "user,a,b,y\n1,1,x,2\n1,2,3,4\n")
    with pytest.raises(UserError, match="row 2, column 'b': 'x' is no finite number"):
        GroupTasks.from_table(mixed, group="user", target="y", shots=1)
