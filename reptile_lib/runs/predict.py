"""Answers for examples of one's own, after a few labelled ones."""

import argparse
from pathlib import Path

import torch

from reptile_lib.errors import UserError
from reptile_lib.parallel.team import say
from reptile_lib.runs import data, run
from reptile_lib.tasks import Batch


def predict(options: argparse.Namespace) -> dict[str, object]:
    """Adapt to the support set, say what the queries are, and return it as JSON.

    Raises:
        UserError: the checkpoint, a file or the number of classes does not fit.
    """
    learner, settings = run.reopen(
        options.checkpoint,
        options.device,
        eval_steps=options.eval_steps,
        eval_batch=options.eval_batch,
    )
    folder = run.folder_of(options.checkpoint)
    split = data.read_split(folder) if settings.kind == "numbers" else None
    _, classes = data.read(settings, options.support)
    if not 2 <= len(classes) <= settings.ways:
        raise UserError(
            f"{options.support} has {len(classes)} classes, but the network tells 2 to"
            f" {settings.ways} apart; give as many, or train one with more --ways"
        )
    names, queries = data.read_queries(settings, options.queries)
    if split is not None:
        classes, queries = data.scaled(classes, split), split.scaled(queries)
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor(classes.counts))
    net = learner.predictor(
        Batch(classes.to_input(classes.pool), y),
        inner_steps=settings.eval_steps,
        inner_batch=min(settings.eval_batch, len(y)),
        seed=settings.seed,
    )
    with torch.no_grad():
        given = classes.to_input(queries)
        x = given if isinstance(given, tuple) else (given,)
        logits = net(*(t.to(learner.phi.device) for t in x))[:, : len(classes)]
    shares = logits.softmax(1).cpu()
    answers = []
    for name, share in zip(names, shares, strict=True):
        best = int(share.argmax())
        answers.append(
            {"query": name, "answer": classes.names[best], "share": share[best].item()}
        )
        say(f"{name}: {classes.names[best]} ({share[best]:.0%})")
    return {"classes": list(classes.names), "answers": answers}


def add_options(to: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    to.add_argument("--checkpoint", type=Path, required=True, help="folder of a run")
    to.add_argument(
        "--support",
        type=Path,
        required=True,
        help="labelled examples: a folder with a subfolder of pictures per class, or a"
        " table, as the run was trained on",
    )
    to.add_argument("--eval-steps", type=int, help="inner steps (as in the run)")
    to.add_argument("--eval-batch", type=int, help="examples a step (as in the run)")
    to.add_argument("queries", type=Path, nargs="+", metavar="FILE", help="to answer")
