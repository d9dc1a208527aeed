"""Starting processes as torchrun does, and finding out that one was started so."""

import os
import signal
import threading
import uuid
from collections.abc import Callable
from typing import Any

from reptile_lib.errors import UserError
from reptile_lib.parallel.cores import core_count

HANDLED = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
LAUNCHED = "REPTILE_LAUNCHED"  # environment variable: `launch` started this process


def launch(
    function: Callable[[list[str]], int],
    arguments: list[str],
    processes: int,
    restarts: int = 3,
) -> int:
    """Call `function` in several processes of this machine, as torchrun would.

    When a process dies, all are started again, at most `restarts` times.

    Args:
        function: importable; takes `arguments`, returns an exit status.
        arguments: passed on.
        processes: how many.
        restarts: how often to start again.

    Returns:
        the largest exit status.

    Raises:
        UserError: a process died once more than `restarts` times, or the processes
            cannot reach each other.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ours = {"OMP_NUM_THREADS": str(max(1, core_count() // processes)), LAUNCHED: "1"}
    before = {name: os.environ.get(name) for name in ours}
    handlers = {n: signal.getsignal(n) for n in HANDLED}  # the launcher sets its own
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # this machine's name need not resolve
        max_restarts=restarts,
        monitor_interval=0.5,
        start_method="spawn",
    )
    os.environ.update({k: v for k, v in ours.items() if before[k] is None})
    try:
        statuses = elastic_launch(config, function)(arguments)
    except SignalException as error:  # handed on to the workers, which saved their work
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, died = next(iter(error.failures.items()))
        message: Any = died.message  # text, or a dict with the traceback
        reason = message["message"] if isinstance(message, dict) else message
        raise UserError(
            f"process {rank} died ({reason}) and {restarts} new starts did not"
            " help; go on with --resume and fewer --processes"
        ) from error
    except RendezvousError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the processes cannot meet on this machine ({reason}); give --processes 1,"
            " or let 127.0.0.1 be reached"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for name in ours:
            if before[name] is None:
                os.environ.pop(name, None)
    return max(int(status) for status in statuses.values())


def job() -> str:
    """Return the name torchrun gave this job, the same after a restart; else ""."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def restarted() -> bool:
    """Say whether torchrun started this process in the place of one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
