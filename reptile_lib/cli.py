"""The command line: train, evaluate, and reproduce recorded results.

::

    python -m reptile_lib train --data glyphs --meta-steps 1000 --out runs/demo
    python -m reptile_lib evaluate --checkpoint runs/demo
    python -m reptile_lib reproduce glyphs-5way --budget short
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reptile_lib import reproduce, results, rows, runs, sine_row
from reptile_lib.data import DATASETS
from reptile_lib.errors import UserError
from reptile_lib.inner import Moments
from reptile_lib.machine import cores, find_device
from reptile_lib.results import Record
from reptile_lib.runs import EVALUATION, TRAINING, TWENTY_WAYS, Config, Resume
from reptile_lib.tasks import FewShotTasks
from reptile_lib.train import MetaLearner
from reptile_lib.workers import LAUNCHED, first_alone, joined, launch, say, world

HELP = {
    "data": f"one of {', '.join(DATASETS)}",
    "seed": "of weights, split and tasks",
    "val_classes": "training classes to set aside for validation; glyphs has its own",
    "ways": "classes a task",
    "train_shots": "examples a class in training",
    "inner_steps": "k, inner steps a task",
    "inner_batch": "examples an inner step",
    "precision": "float32, tf32 (CUDA) or bf16: how matrices are multiplied",
    "lr": "Adam's inner learning rate",
    "moments": "carry or reset: does Adam's state outlive a task",
    "reduction": "sum or mean: of a minibatch's losses, see runs.build",
    "meta_steps": "outer steps",
    "meta_batch": "tasks an outer step",
    "epsilon": "ε of the first outer step",
    "epsilon_final": "ε falls linearly to this",
    "shots": "examples a class in evaluation",
    "eval_steps": "inner steps in evaluation",
    "eval_batch": "examples a step in evaluation",
    "eval_tasks": "tasks to score; the paper's tables take 10,000",
}


CHOICES = {
    "moments": ["carry", "reset"],
    "reduction": ["sum", "mean"],
    "precision": ["float32", "tf32", "bf16"],
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a user's mistake, or 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        if (processes := _processes(options)) > 1:
            return launch(main, arguments, processes)
        with joined(options.device) as options.device:
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
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("\nreptile_lib: stopped", file=sys.stderr)
        return 130
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
    config = _config(options)
    if find_device(options.device).type != "cpu" or not runs.is_long(config):
        return 1
    meta_batch: int = config["meta_batch"]
    return min(cores(), meta_batch)


def _config(options: argparse.Namespace) -> Config:
    if "row" not in options:
        return runs.complete(_given(options, TRAINING | EVALUATION))
    return rows.settings(options.row, options.budget)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reptile_lib", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help)
        made.set_defaults(run=run)
        made.add_argument("--device", default="auto", help="auto, cpu or cuda")
        made.add_argument("--json", action="store_true", help="end with a line of JSON")
        made.add_argument("--quiet", action="store_true", help="no progress bar")
        return made

    def settings(to: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
        for name, default in defaults.items():
            shown = str(default)
            if name in TWENTY_WAYS:
                shown += f"; {TWENTY_WAYS[name]} for 20 ways"
            to.add_argument(
                "--" + name.replace("_", "-"),
                type=type(default),
                choices=CHOICES.get(name),
                help=f"{HELP[name]} ({shown})",
            )

    def processes(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--processes",
            default="auto",
            metavar="N",
            help="processes on this machine (auto: one; on a CPU, from"
            f" {runs.LONG:,} inner steps on, one a core, but at most one a task)",
        )

    train = command("train", _train, "train φ, then evaluate it")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    train.add_argument(
        "--resume", action="store_true", help="continue the run in --out"
    )
    settings(train, TRAINING | EVALUATION)
    processes(train)
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

    test = command("evaluate", _evaluate, "evaluate a trained φ")
    test.add_argument("--checkpoint", type=Path, required=True, help="folder of a run")
    settings(test, EVALUATION | {"moments": TRAINING["moments"]})

    again = command("reproduce", _reproduce, "run a row of the book's tables")
    again.add_argument("row", help=f"one of {', '.join(rows.ROWS)}")
    processes(again)
    again.add_argument("--seeds", default="0", help="comma-separated (0)")
    again.add_argument(
        "--budget",
        choices=["full", "short"],
        default="full",
        help="the paper's training, or 1,000 meta-steps and 1,000 test tasks (full)",
    )
    again.add_argument(
        "--results", type=Path, default=Path("results"), help="folder (results)"
    )
    return parser


def _train(options: argparse.Namespace) -> Record:
    config = runs.complete(_given(options, TRAINING | EVALUATION))
    runs.check_evaluation(config)
    data = runs.load_data(config)
    test_tasks = FewShotTasks(data.test, config["ways"], config["shots"])
    began = time.perf_counter()
    resume: Resume = "always" if options.resume else "never"
    learner, start_step = runs.train(
        config,
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
    inner_steps = steps * config["meta_batch"] * config["inner_steps"]
    record = _report(learner, config, test_tasks) | {
        "train_seconds": seconds,
        "inner_steps": inner_steps,
        "inner_steps_per_second": inner_steps / seconds,
        "start_step": start_step,
        "processes": world().size,
    }

    def write() -> None:
        results.write(options.out / "result.json", record)
        results.write(options.out / "history.json", {"history": learner.history})

    first_alone(write)
    return record


def _evaluate(options: argparse.Namespace) -> Record:
    learner, config = runs.reopen(
        options.checkpoint, options.device, **_given(options, EVALUATION)
    )
    test = runs.load_data(config).test
    tasks = FewShotTasks(test, config["ways"], config["shots"])
    return _report(learner, config, tasks, options.moments)


def _reproduce(options: argparse.Namespace) -> Record:
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {options.seeds}: give numbers like 0,1,2") from error
    how = {"device": options.device, "progress": not options.quiet}
    if len(seeds) > 1:  # a stopped command goes on with those that are left
        where = options.budget, options.results
        done = [s for s in seeds if reproduce.is_recorded(options.row, s, *where)]
        if done and (left := [s for s in seeds if s not in done]):
            say(f"recorded already: {', '.join(f'seed-{seed}' for seed in done)}")
            seeds = left
    if options.row == "sine":
        sine_row.train_together(seeds, options.budget, options.results, **how)
    records = [
        reproduce.reproduce(
            options.row,
            seed,
            options.budget,
            options.results,
            **how,
        )
        for seed in seeds
    ]
    return {"records": records}


def _given(options: argparse.Namespace, names: Iterable[str]) -> Config:
    return {name: getattr(options, name) for name in names}


def _report(
    learner: MetaLearner,
    config: Config,
    tasks: FewShotTasks,
    moments: Moments | None = None,
) -> Record:
    """Evaluate, print a line a protocol, and return what --json prints."""
    scores = runs.score(learner, config, tasks, moments=moments)
    what = f"{config['ways']}-way {config['shots']}-shot"
    say(f"{config['data']}, {what}, new classes\n{scores}")
    metrics = scores.as_dict()
    device = learner.phi.device
    return {"config": config, "metrics": metrics, **results.circumstances(device)}
