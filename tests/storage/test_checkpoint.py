"""Checkpoints: whole or not at all, and refused where they do not fit."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reptile_lib import UserError, checkpoint, conv4, mlp
from reptile_lib.params import layout, ravel

MODEL = mlp(1, 4, 1)
WHERE = layout(MODEL)
PHI = ravel(MODEL)
STATE = {"v": torch.rand(len(PHI)), "step": torch.tensor(7.0)}
OUTER = {"m": torch.rand(len(PHI))}
METADATA = {"meta_step": 3, "history": [{"loss": 0.1}], "config": {"text": "φ ± 1"}}


def write(path: Path, phi: Tensor = PHI) -> None:
    checkpoint.save(path, phi, WHERE, {"inner": STATE, "outer": OUTER}, METADATA)


def test_round_trip(tmp_path: Path) -> None:
    write(path := tmp_path / "new" / "folder" / "x.safetensors")
    found = checkpoint.load(path)
    assert torch.equal(found.vector(WHERE), PHI)
    assert found.metadata == METADATA
    for part, state in (("inner", STATE), ("outer", OUTER)):
        read = found.states[part]
        assert read is not None
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], state[name]) for name in state)
    checkpoint.save(path, PHI, WHERE, {"inner": None, "outer": None}, {})
    assert checkpoint.load(path).states == {"inner": None, "outer": None}


def test_phi_is_stored_as_the_models_named_tensors(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    stored = load_file(path)
    for name, parameter in MODEL.named_parameters():
        assert torch.equal(stored[f"phi/{name}"], parameter)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x.safetensors is damaged .* name the"):
            checkpoint.load(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint at .*missing"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoint.load(tmp_path)
    (pickled := tmp_path / "x.pt").write_bytes(b"")
    torch.save({"phi": PHI}, pickled)
    with pytest.raises(UserError, match=r"x.pt is damaged or not a checkpoint"):
        checkpoint.load(pickled)
    foreign = tmp_path / "foreign.safetensors"
    for header in (None, {"format": "pt"}):
        save_file({"weight": PHI}, foreign, header)
        with pytest.raises(UserError, match=r"foreign.safetensors is no 'reptile_lib"):
            checkpoint.load(foreign)


@pytest.mark.parametrize(
    "other", [mlp(1, 5, 1), mlp(1, 4, 4, 1), mlp(1, 4), conv4(5, size=8)]
)
def test_another_models_checkpoint_is_refused(
    tmp_path: Path, other: torch.nn.Module
) -> None:
    write(path := tmp_path / "x.safetensors")
    found = checkpoint.load(path)
    with pytest.raises(UserError, match=r"another model: parameter '.*' has shape"):
        found.vector(layout(other))


def test_the_new_file_takes_the_old_ones_place_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path := tmp_path / "x.safetensors")
    before, calls = path.read_bytes(), []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda f: [calls.append("fsync"), fsync(f)])
    monkeypatch.setattr(
        Path, "replace", lambda p, to: [calls.append("replace"), replace(p, to)]
    )
    with path.open("rb") as reader:  # whoever reads the old file goes on reading it
        write(path, PHI + 1)
        assert reader.read() == before
    assert calls == ["fsync", "replace", "fsync"]
    assert torch.equal(checkpoint.load(path).vector(WHERE), PHI + 1)


def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()

    def half(tensors: Any, name: Path, header: Any) -> None:
        Path(name).write_bytes(before[: len(before) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(
        UserError, match=r"cannot write .*x.safetensors \(No space left"
    ):
        write(path, PHI + 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_any_interruption_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()

    def half(tensors: Any, name: Path, header: Any) -> None:
        Path(name).write_bytes(b"half")
        raise stop

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(stop):
        write(path, PHI + 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x"):
        with pytest.raises(UserError, match=r"cannot write .*file.* choose a folder"):
            write(path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken \(Is a directory\)"):
        write(tmp_path / "taken")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "taken"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_phi_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()
    phi = PHI.clone()
    phi[3] = bad
    with pytest.raises(UserError, match="phi is not finite; nothing was written"):
        write(path, phi)
    assert path.read_bytes() == before
