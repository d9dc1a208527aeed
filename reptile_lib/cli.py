"""The command line: train and evaluate few-shot learners.

    python -m reptile_lib train --data glyphs --meta-steps 1000 --out runs/demo
    python -m reptile_lib evaluate --checkpoint runs/demo

Defaults are the Omniglot settings of the Reptile authors (README of their code,
openai/supervised-reptile); they depend on the number of ways.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reptile_lib import checkpoint, results
from reptile_lib.data import DATASETS, Splits, load
from reptile_lib.errors import UserError
from reptile_lib.evaluate import Evaluation, evaluate
from reptile_lib.inner import Moments, adam
from reptile_lib.meta import linear
from reptile_lib.models import conv4
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.tasks import FewShotTasks
from reptile_lib.train import MetaLearner, Reptile

CHECKPOINT = "checkpoint.safetensors"
VALIDATION_TASKS = 200
Config = dict[str, Any]

# The settings that a run must keep when it is resumed.
TRAINING = (
    "data",
    "seed",
    "val_classes",
    "ways",
    "train_shots",
    "inner_steps",
    "inner_batch",
    "lr",
    "moments",
    "meta_steps",
    "meta_batch",
    "epsilon",
    "epsilon_final",
)
FIVE_WAYS = {
    "lr": 1e-3,
    "inner_steps": 5,
    "inner_batch": 10,
    "meta_steps": 100_000,
    "eval_batch": 5,
}
TWENTY_WAYS = {
    "lr": 5e-4,
    "inner_steps": 10,
    "inner_batch": 20,
    "meta_steps": 200_000,
    "eval_batch": 10,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for a user's mistake, or 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        record = options.run(options)
    except UserError as error:
        print(f"reptile_lib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nreptile_lib: stopped", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(record))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reptile_lib", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train φ and evaluate it")
    train.set_defaults(run=_train)
    add = train.add_argument
    add("--data", default="glyphs", help=f"one of {', '.join(DATASETS)} (glyphs)")
    add("--out", type=Path, required=True, help="folder for checkpoint and history")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--ways", type=int, default=5, help="classes a task (5)")
    add("--train-shots", type=int, default=10, help="examples a class in training (10)")
    add("--inner-steps", type=int, help="k (5; 10 for 20 ways)")
    add("--inner-batch", type=int, help="examples an inner step (10; 20 for 20 ways)")
    add("--lr", type=float, help="Adam's inner rate (1e-3; 5e-4 for 20 ways)")
    add(
        "--moments",
        choices=["carry", "reset"],
        default="carry",
        help="keep Adam's second moment from task to task and for evaluation, or not",
    )
    add("--meta-steps", type=int, help="outer steps (100,000; 200,000 for 20 ways)")
    add("--meta-batch", type=int, default=5, help="tasks an outer step (5)")
    add("--epsilon", type=float, default=1.0, help="ε of the first outer step (1)")
    add("--epsilon-final", type=float, default=0.0, help="ε falls linearly to this (0)")
    add("--seed", type=int, default=0, help="of weights, split and tasks (0)")
    add(
        "--checkpoint-every",
        type=int,
        default=500,
        help="meta-steps (500; 0: at the end)",
    )
    add(
        "--validate-every",
        type=int,
        default=0,
        help="meta-steps between scores on validation classes (0: never)",
    )
    add(
        "--val-classes",
        type=int,
        default=0,
        help="training classes to set aside for validation (0); glyphs has its own",
    )

    test = commands.add_parser("evaluate", help="evaluate a trained φ")
    test.set_defaults(run=_evaluate)
    test.add_argument("--checkpoint", type=Path, required=True, help="folder of a run")
    test.add_argument(
        "--moments", choices=["carry", "reset"], help="of evaluation only (as trained)"
    )

    for command, default in ((train, True), (test, False)):
        add = command.add_argument
        add(
            "--shots",
            type=int,
            default=1 if default else None,
            help="examples a class in evaluation (1)",
        )
        add(
            "--eval-steps",
            type=int,
            default=50 if default else None,
            help="inner steps in evaluation (50)",
        )
        add("--eval-batch", type=int, help="examples a step (5; 10 for 20 ways)")
        add(
            "--eval-tasks",
            type=int,
            default=1000 if default else None,
            help="tasks to score; the paper's tables take 10,000 (1000)",
        )
        add("--device", default="auto", help="auto, cpu or cuda")
        add("--json", action="store_true", help="end with one line of JSON")
        add("--quiet", action="store_true", help="no progress bar")
    return parser


def _train(options: argparse.Namespace) -> Config:
    config = {
        name: value
        for name, value in vars(options).items()
        if name not in ("run", "out", "resume", "device", "json", "quiet")
    }
    for name, value in (TWENTY_WAYS if options.ways == 20 else FIVE_WAYS).items():
        config[name] = value if config[name] is None else config[name]

    path = options.out / CHECKPOINT
    if path.exists() != options.resume:
        raise UserError(
            f"{options.out} holds no run to resume; leave out --resume"
            if options.resume
            else f"{options.out} already holds a run; continue it with --resume, or"
            " name another --out"
        )
    data = _load(config)
    tasks = FewShotTasks(data.train.rotated(), config["ways"], config["train_shots"])
    test_tasks = FewShotTasks(data.test, config["ways"], config["shots"])
    validate = None
    if config["validate_every"]:
        validate = _validation(config, data)
    learner = _learner(config, options.device)
    if options.resume:
        _compare(config, checkpoint.load(path).metadata["config"])
        learner.restore(path)
    start_step = learner.state.meta_step

    began = time.perf_counter()
    if start_step < config["meta_steps"]:
        learner.fit(
            tasks,
            meta_steps=config["meta_steps"],
            meta_batch=config["meta_batch"],
            epsilon=linear(config["epsilon"], config["epsilon_final"]),
            seed=config["seed"],
            validate=validate,
            validate_every=config["validate_every"],
            checkpoint_to=path,
            checkpoint_every=config["checkpoint_every"],
            config=config,
            progress=not options.quiet,
        )
    train_seconds = time.perf_counter() - began
    steps = config["meta_steps"] - start_step
    inner_steps = steps * config["meta_batch"] * config["inner_steps"]
    record = _report(learner, config, test_tasks) | {
        "train_seconds": train_seconds,
        "inner_steps": inner_steps,
        "inner_steps_per_second": inner_steps / train_seconds,
        "start_step": start_step,
        "history": learner.history,
    }
    results.write(options.out / "result.json", record)
    return record


def _evaluate(options: argparse.Namespace) -> Config:
    path = options.checkpoint
    path = path / CHECKPOINT if path.is_dir() else path
    config = checkpoint.load(path).metadata["config"]
    chosen = ("shots", "eval_steps", "eval_batch", "eval_tasks")
    config |= {
        name: value for name in chosen if (value := getattr(options, name)) is not None
    }
    learner = _learner(config, options.device)
    learner.restore(path)
    tasks = FewShotTasks(_load(config).test, config["ways"], config["shots"])
    return _report(learner, config, tasks, options.moments)


def _load(config: Config) -> Splits:
    if config["data"] == "omniglot":
        return load("omniglot", seed=config["seed"], val_classes=config["val_classes"])
    if config["val_classes"]:
        raise UserError(
            f"--val-classes {config['val_classes']}: only omniglot takes it; leave it"
            " out"
        )
    return load(config["data"])


def _learner(config: Config, device: str) -> MetaLearner:
    return Reptile(
        conv4(config["ways"], seed=config["seed"]),
        inner=adam(config["lr"]),
        inner_steps=config["inner_steps"],
        inner_batch=config["inner_batch"],
        moments=config["moments"],
        device=device,
    )


def _validation(
    config: Config, data: Splits
) -> Callable[[MetaLearner], dict[str, float]]:
    if not len(data.val):
        raise UserError(
            f"--validate-every {config['validate_every']}: {config['data']} has no"
            " validation classes; set some aside with --val-classes 100"
        )
    tasks = FewShotTasks(data.val, config["ways"], config["shots"])
    settings = config | {"eval_tasks": VALIDATION_TASKS}

    def validate(learner: MetaLearner) -> dict[str, float]:
        scores = _score(learner, settings, tasks, VALIDATE)
        return {"validation_accuracy": scores.transductive.accuracy}

    return validate


def _score(
    learner: MetaLearner,
    config: Config,
    tasks: FewShotTasks,
    stream: int = TEST,
    moments: Moments | None = None,
) -> Evaluation:
    return evaluate(
        learner,
        tasks,
        inner_steps=config["eval_steps"],
        inner_batch=config["eval_batch"],
        count=config["eval_tasks"],
        seed=config["seed"],
        stream=stream,
        moments=moments,
    )


def _report(
    learner: MetaLearner,
    config: Config,
    tasks: FewShotTasks,
    moments: Moments | None = None,
) -> Config:
    """Evaluate, print a line a protocol, and return what --json prints."""
    scores = _score(learner, config, tasks, moments=moments)
    print(
        f"{config['data']}, {config['ways']}-way {config['shots']}-shot, unseen classes"
    )
    print(scores)
    metrics = {name: score.as_dict() for name, score in scores._asdict().items()}
    device = learner.phi.device
    return {"config": config, "metrics": metrics, **results.circumstances(device)}


def _compare(asked: Config, found: Config) -> None:
    """Refuse to continue a run under other settings: ε and the tasks depend on them."""
    for name in TRAINING:
        if asked[name] != found[name]:
            option = "--" + name.replace("_", "-")
            raise UserError(
                f"{option} is {asked[name]}, but the run began with {found[name]};"
                f" give {option} {found[name]}, or begin anew with another --out"
            )
