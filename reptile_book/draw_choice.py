"""How the figure of page 5.1 adapts: a rate and steps, chosen on validation characters.

::

    python -m reptile_book.draw_choice

The recorded φ was trained with a memory that Adam carries from task to task; in the
figure it begins each task anew, for which that rate need not suit. Each rate and number
of steps is scored on the same 200 tasks of the 100 characters that training set aside,
one example per class, by the support set's statistics. The best one is scored once on
1,000 tasks of test characters. All of it stands in `adaptation.json` beside φ.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

from reptile_book import records, studies
from reptile_book.draw_control import ADAPTATION, PHI
from reptile_lib.data.omniglot import load
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.evaluation import Score, evaluate
from reptile_lib.examples import Examples
from reptile_lib.optimizers.formulas import adam
from reptile_lib.rng import TEST, VALIDATE
from reptile_lib.runs import run

RATES = 0.0005, 0.001, 0.002, 0.004, 0.008
STEPS = 10, 20, 50
TASKS = 200
TEST_TASKS = 1_000


def record(
    phi: Path = PHI,
    ways: Iterable[tuple[float, int]] = tuple(product(RATES, STEPS)),
    tasks: tuple[int, int] = (TASKS, TEST_TASKS),
    say: Callable[[str], None] = print,
) -> records.Record:
    """Score every rate and number of steps, choose, and write the record.

    Args:
        phi: the recorded φ.
        ways: pairs of a rate and a number of steps.
        tasks: to choose, and to score the choice.
        say: told each accuracy.

    Raises:
        UserError: φ is missing or damaged, or Omniglot is not at hand.
    """
    learner, settings = run.reopen(phi, "cpu")
    data = load(settings.seed, settings.val_classes)

    def score(part: Examples, rate: float, steps: int, count: int) -> Score:
        learner.inner = adam(rate)
        return evaluate(
            learner,
            FewShotTasks(part, settings.ways, 1),
            inner_steps=steps,
            inner_batch=settings.ways,
            count=count,
            seed=settings.seed,
            stream=TEST if part is data.test else VALIDATE,
            moments="reset",
        ).support_statistics

    tried, scores = [], {}
    for rate, steps in ways:
        found = scores[rate, steps] = score(data.val, rate, steps, tasks[0])
        tried.append({"rate": rate, "steps": steps, **found.as_dict()})
        say(f"rate {rate}, {steps} steps: {found}")
    # of equals, the one of fewer steps
    rate, steps = max(scores, key=lambda way: (scores[way].accuracy, -way[1]))
    found = score(data.test, rate, steps, tasks[1])
    say(f"chosen: rate {rate}, {steps} steps; on test characters {found}")
    made = {
        "choice": {"rate": rate, "steps": steps},
        "test": found.as_dict(),
        "tried": tried,
        **records.circumstances(learner.phi.device),
        "command": "python -m reptile_book.draw_choice",
    }
    records.write(phi.with_name(ADAPTATION), made)
    return made


if __name__ == "__main__":
    sys.exit(studies.carried_out(lambda: record()))
