"""Recorded runs."""

import errno
from pathlib import Path

import pytest
import torch

from reptile_book import records
from reptile_lib import UserError

RECORD = {"config": {"ways": 5}, "metrics": {"accuracy": 0.1 + 0.2}, "text": "φ̃ ± 1"}


def test_records_come_back_as_they_were_in_the_order_of_seeds(tmp_path: Path) -> None:
    row = tmp_path / "omniglot" / "5-way"
    assert records.read(row) == []
    for seed in (2, 0, 1):
        records.write(row / f"seed-{seed}.json", RECORD | {"seed": seed})
    records.write(row / "notes.json", {})
    assert records.read(row) == [RECORD | {"seed": seed} for seed in range(3)]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "seed-0.json"
    records.write(path, RECORD)
    whole = path.read_bytes()
    for damaged in (whole[:-5], b"", b"\xff\xfe" + whole):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"seed-0.json is not JSON .* run its row"):
            records.read(tmp_path)


def test_a_failed_write_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "seed-0.json"
    records.write(path, RECORD)

    def full(self: Path, text: str, encoding: str) -> None:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*seed-0.json \(No space left"):
        records.write(path, {"other": 1})
    assert records.read(tmp_path) == [RECORD]
    assert [p.name for p in tmp_path.iterdir()] == ["seed-0.json"]


def test_circumstances() -> None:
    record = records.circumstances(torch.device("cpu"))
    assert record["versions"]["torch"] == torch.__version__
    assert "CPU threads" in record["device"]
    assert record["commit"] is None or len(record["commit"].rstrip("+")) == 12
