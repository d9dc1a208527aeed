"""Vectors passed between processes through memory they share."""

import sys
from pathlib import Path

import pytest

from tests.parallel.test_team import torchrun

SHARED = """
import resource
import signal
import sys
import time
from pathlib import Path
import torch
from reptile_lib import UserError
from reptile_lib.parallel.shared_memory import Shared
from reptile_lib.parallel.team import here, joined

with joined("cpu"):
    rank, size, shared = here().rank, here().size, here().shared
    assert isinstance(shared, Shared)
    rows = torch.arange(size * 1000).view(size, 1000).double()
    shared.reserve(1000, rows.dtype)
    for turn in range(50):
        time.sleep(0.001 * ((rank + turn) % size))  # each is the last one at times
        if rank > 0:
            shared.hand_on(rows[rank] + turn, rank - 1)
        if rank < size - 1:
            found = shared.take(rows[0], rank + 1)
            assert torch.equal(found, rows[rank + 1] + turn)
        total = shared.add_up(rows[rank] * turn)
        assert torch.equal(total, (rows * turn).sum(0))
    # It is made where no room is left; the first process tells the others.
    if rank == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        shared.reserve(77, rows.dtype)
    except UserError as error:
        assert "cannot share memory" in str(error) and "TMPDIR" in str(error)
    else:
        raise AssertionError("a full disk went unnoticed")
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shared.reserve(77, rows.dtype)  # there is room again
    assert torch.equal(shared.add_up(rows[rank]), rows.sum(0))  # nothing was lost
Path(sys.argv[1], str(rank)).touch()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_shared_memory_sums_and_hands_on(tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(SHARED)
    torchrun(3, script, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"share.py", "0", "1", "2"}
