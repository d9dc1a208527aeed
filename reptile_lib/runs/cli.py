"""The command line: train, evaluate, predict, data.

::

    python -m reptile_lib train --data glyphs --meta-steps 1000 --out runs/demo
    python -m reptile_lib evaluate --checkpoint runs/demo
    python -m reptile_lib predict --checkpoint runs/demo --support FOLDER FILE...
    python -m reptile_lib data list
"""

import argparse
import io
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from reptile_lib.device import find_device
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.errors import UserError
from reptile_lib.inner import Moments
from reptile_lib.learner import MetaLearner
from reptile_lib.parallel.cores import core_count
from reptile_lib.parallel.launch import LAUNCHED, launch
from reptile_lib.parallel.signals import interrupted_once
from reptile_lib.parallel.team import here, joined, say
from reptile_lib.runs import predict, run, shelf
from reptile_lib.runs.data import open_data
from reptile_lib.runs.settings import (
    EVALUATION,
    OPTIONS,
    TRAINING,
    TWENTY_WAYS,
    Json,
    Settings,
    complete,
)
from reptile_lib.storage.files import write_json

Record = dict[str, Any]
"""What a command prints with --json; JSON values only."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a user's mistake, or 130 for Ctrl-C."""
    plain_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    return execute(main, options, arguments)


def plain_output() -> None:
    """Let signs that a terminal does not know become question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def execute(
    main: Callable[[list[str]], int], options: argparse.Namespace, arguments: list[str]
) -> int:
    """Run the command that was parsed, in several processes where they pay.

    Args:
        main: importable; called again in each process.
        options: from a parser of `command`.
        arguments: what they were parsed from.

    Returns:
        0, 2 for a user's mistake, or 128 and the number of the signal that stopped it.
    """
    try:
        if (count := _processes(options)) > 1:
            return launch(main, arguments, count)
        with interrupted_once(), joined(options.device) as options.device:
            record = options.run(options)
            if options.json:
                say(json.dumps(record))
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        if error.alone and rank != "0":
            print(f"reptile_lib: process {rank}: {error}", file=sys.stderr)
        elif os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"reptile_lib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("\nreptile_lib: stopped", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except BrokenPipeError:  # who read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _processes(options: argparse.Namespace) -> int:
    """Return how many processes to start; 1 inside a process that was started."""
    if "processes" not in options or LAUNCHED in os.environ:
        return 1
    if "WORLD_SIZE" in os.environ:
        if options.processes not in ("auto", "1", os.environ["WORLD_SIZE"]):
            raise UserError(
                f"--processes {options.processes}, but a launcher has started"
                f" {os.environ['WORLD_SIZE']}; leave --processes out"
            )
        return 1
    if options.processes != "auto":
        try:
            count = int(options.processes)
        except ValueError:
            count = 0
        if count < 1:
            raise UserError(
                f"--processes {options.processes}: give a number from 1, or auto"
            )
        return count
    # A core each for long runs on a CPU, where convolutions gain more from it than
    # from threads.
    settings: Settings | None = options.settings(options)
    short = settings is None or settings.training_steps < run.LONG
    if settings is None or short or find_device(options.device).type != "cpu":
        return 1
    return min(core_count(), settings.meta_batch)


def command(
    commands: Any, name: str, act: Callable[[argparse.Namespace], Record], help: str
) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=help)
    made.set_defaults(run=act)
    made.add_argument("--device", default="auto", help="auto, cpu or cuda")
    made.add_argument("--json", action="store_true", help="end with a line of JSON")
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    return made


def several_processes(
    to: argparse.ArgumentParser, settings: Callable[[argparse.Namespace], object]
) -> None:
    """Add --processes; `settings` says what "auto" depends on."""
    to.set_defaults(settings=settings)
    to.add_argument(
        "--processes",
        default="auto",
        metavar="N",
        help="processes on this machine (auto: one; on a CPU, from"
        f" {run.LONG:,} inner steps on, one a core, but at most one a task)",
    )


def _settings_of_run(to: argparse.ArgumentParser, names: Iterable[str]) -> None:
    for option in OPTIONS:
        if option.name not in names:
            continue
        shown = str(option.default)
        if option.name in TWENTY_WAYS:
            shown += f"; {TWENTY_WAYS[option.name]} for 20 ways"
        to.add_argument(
            "--" + option.name.replace("_", "-"),
            type=type(option.default),
            choices=option.metadata["choices"],
            help=f"{option.metadata['help']} ({shown})",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reptile_lib", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = command(commands, "train", _train, "train φ, then evaluate it")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    train.add_argument(
        "--resume", action="store_true", help="continue the run in --out"
    )
    _settings_of_run(train, TRAINING + EVALUATION)
    several_processes(train, lambda o: complete(_given(o, TRAINING + EVALUATION)))
    train.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        default=500,
        help="meta-steps between two checkpoints (500; 0: only at the end)",
    )
    train.add_argument(
        "--validate-every",
        type=int,
        metavar="N",
        default=0,
        help="meta-steps between two scores on validation classes (0: never)",
    )

    test = command(commands, "evaluate", _evaluate, "evaluate a trained φ")
    test.add_argument("--checkpoint", type=Path, required=True, help="folder of a run")
    _settings_of_run(test, (*EVALUATION, "moments"))

    told = "adapt φ to a few labelled files, and answer for others"
    predict.add_options(command(commands, "predict", predict.predict, told))
    shelf.add_commands(commands.add_parser("data", help="data sets"))
    return parser


def _train(options: argparse.Namespace) -> Record:
    settings = complete(_given(options, TRAINING + EVALUATION))
    settings.check_evaluation()
    begun = (options.out / run.CHECKPOINT).exists()
    settings, data = open_data(settings, options.out, begun)
    test_tasks = FewShotTasks(data.test, settings.ways, settings.shots)
    began = time.perf_counter()
    resume: run.Resume = "always" if options.resume else "never"
    learner, start_step = run.train(
        settings,
        data,
        options.out,
        device=options.device,
        resume=resume,
        checkpoint_every=options.checkpoint_every,
        validate_every=options.validate_every,
        progress=not options.quiet,
    )
    seconds = time.perf_counter() - began
    steps = learner.state.meta_step - start_step
    inner_steps = steps * settings.meta_batch * settings.inner_steps
    record, text = _report(learner, settings, test_tasks)
    record |= {
        "train_seconds": seconds,
        "inner_steps": inner_steps,
        "inner_steps_per_second": inner_steps / seconds,
        "start_step": start_step,
        "processes": here().size,
    }

    def write() -> None:
        write_json(options.out / "result.json", record)
        write_json(options.out / "history.json", {"history": learner.history})

    here().first_alone(write)
    say(text)
    return record


def _evaluate(options: argparse.Namespace) -> Record:
    learner, settings = run.reopen(
        options.checkpoint, options.device, **_given(options, EVALUATION)
    )
    folder = run.folder_of(options.checkpoint)
    test = open_data(settings, folder, begun=True)[1].test
    tasks = FewShotTasks(test, settings.ways, settings.shots)
    record, text = _report(learner, settings, tasks, options.moments)
    say(text)
    return record


def _given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Json | None]:
    return {name: getattr(options, name) for name in names}


def _report(
    learner: MetaLearner,
    settings: Settings,
    tasks: FewShotTasks,
    moments: Moments | None = None,
) -> tuple[Record, str]:
    """Evaluate; return what --json prints, and a line a protocol."""
    scores = run.score(learner, settings, tasks, moments=moments)
    what = f"{settings.ways}-way {settings.shots}-shot"
    record = {
        "config": settings.as_dict(),
        "metrics": scores.as_dict(),
        "device": device_name(learner.phi.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    return record, f"{settings.data}, {what}, new classes\n{scores}"


def device_name(device: torch.device) -> str:
    """Return what computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} CPU threads, {capability}"
