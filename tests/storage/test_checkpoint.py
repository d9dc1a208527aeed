"""Checkpoints: whole or not at all, and refused where they do not fit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reptile_lib import UserError, conv4, mlp
from reptile_lib.params import Layout, layout, ravel
from reptile_lib.storage import checkpoint
from reptile_lib.storage.files import written_whole

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


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()
    with path.open("rb") as reader:
        write(path, PHI + 1)
        assert reader.read() == before
    assert torch.equal(checkpoint.load(path).vector(WHERE), PHI + 1)
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_takes_the_old_ones_place_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a power cut leaves cannot be tried here: the order of system calls tells
    write(path := tmp_path / "x.safetensors")
    calls: list[str] = []
    fsync, sound = os.fsync, path.read_bytes()

    def noted(file: int) -> None:
        fsync(file)
        calls.append("new" if path.read_bytes() != sound else "old")

    monkeypatch.setattr(os, "fsync", noted)
    write(path, PHI + 1)
    # the file is on disk before it takes the name, and then the name is
    assert calls == ["old", "new"]


WRITER = """
import resource, sys
from pathlib import Path
import torch
from reptile_lib import UserError, mlp
from reptile_lib.params import layout, ravel
from reptile_lib.storage import checkpoint

what, path = sys.argv[1], Path(sys.argv[2])
model = mlp(1, 300, 300, 1)
states = {"inner": None, "outer": None}
if what == "full":  # no file may grow beyond 100 kB, as on a disk that is full
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoint.save(path, ravel(model), layout(model), states, {})
    except UserError as error:
        sys.exit(str(error))
    sys.exit("it was written")
import signal
# what a shell starts in the background would not heed Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
while True:  # until it is killed
    checkpoint.save(path, ravel(model), layout(model), states, {})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()
    command = [sys.executable, "-c", WRITER, "full", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"cannot write {path} (" in done.stderr
    assert "with free space" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_any_interruption_leaves_a_file_that_is_whole(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "x.safetensors"
    command = [sys.executable, "-c", WRITER, "again and again", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not path.exists():
            assert process.poll() is None
        for _ in range(20):  # whoever looks finds a whole one
            assert checkpoint.load(path).metadata == {}
        process.send_signal(number)
        process.communicate(timeout=60)
    assert checkpoint.load(path).metadata == {}
    if number == signal.SIGINT:  # a kill may leave its temporary file
        assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    before = path.read_bytes()

    def half(stop: type[BaseException]) -> None:
        with written_whole(path) as temporary:
            temporary.write_bytes(b"half")
            raise stop

    for stop in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(stop):
            half(stop)
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


def test_a_run_that_has_got_further_is_not_replaced(tmp_path: Path) -> None:
    write(path := tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"holds a run of 3 meta-steps, .* one of 2"):
        checkpoint.refuse_a_run(path, WHERE, 2)
    checkpoint.refuse_a_run(path, WHERE, 3)
    checkpoint.refuse_a_run(tmp_path / "none", WHERE, 0)
    other = Layout(("a",), (torch.Size([3]),))
    with pytest.raises(UserError, match="another model"):
        checkpoint.refuse_a_run(path, other, 3)
