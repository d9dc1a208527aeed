"""Adam's memory, carried or fresh, of page 4.2: recorded accuracies, step lengths."""

from itertools import product
from pathlib import Path
from statistics import mean, stdev

from torch import Tensor

from reptile_book import adam_rates, records
from reptile_lib.inner import Moments, State
from reptile_lib.inner_loop import adapt
from reptile_lib.learner import MetaLearner
from reptile_lib.runs.run import reopen
from reptile_lib.tasks import Episodes

RESULTS = Path(__file__).parents[1] / "results"
KINDS: tuple[Moments, Moments] = ("reset", "carry")
PLACES = tuple(product(("omniglot", "glyphs"), (1, 5)))
"""Data and number of examples per class."""
WORDS = {"reset": "fresh", "carry": "carried"}


def folder(data: str, training: Moments) -> Path:
    """Return where the short runs on "omniglot" or "glyphs" are kept."""
    middle = "-reset" if training == "reset" else ""
    return RESULTS / f"{data}-5way{middle}-short"


def accuracies(
    data: str,
    shots: int,
    training: Moments,
    testing: Moments,
    protocol: str = "transductive",
) -> list[float]:
    """Return the recorded accuracies in %, one per training seed."""
    key = "metrics" if training == testing else "metrics_switched_moments"
    return _percent(folder(data, training), key, shots, protocol)


def untrained(data: str, shots: int) -> list[float]:
    """Return those of networks that were not trained."""
    place = RESULTS / f"{data}-5way-untrained"
    return _percent(place, "metrics", shots, "transductive")


def _percent(place: Path, key: str, shots: int, protocol: str) -> list[float]:
    found = [r[key][f"{shots}-shot"][protocol] for r in records.read(place)]
    return [100 * score["accuracy"] for score in found]


def at_own_rates(
    data: str, folder: Path = RESULTS / adam_rates.ROW
) -> dict[str, tuple[float, list[float]]]:
    """Return α and the 1-shot accuracies in % of each choice that is recorded."""
    found = {}
    for name in adam_rates.CHOICES:
        file = adam_rates.file_name(data, name)
        runs = sorted(folder.glob(f"{file}-[0-9]*.json"))
        scores = [records.read_one(run)["metrics"]["1-shot"] for run in runs]
        if scores:
            alpha = records.read_one(folder / f"{file}.json")["alpha"]
            found[name] = alpha, [100 * s["transductive"]["accuracy"] for s in scores]
    return found


def inside(data: str, folder: Path = RESULTS / adam_rates.ROW) -> bool:
    """Say whether every recorded choice of α stands inside its grid."""
    choices = [folder / f"{data}-{name}.json" for name in at_own_rates(data, folder)]
    return all(records.read_one(path)["inside"] for path in choices)


def shown(values: list[float]) -> str:
    """Return mean ± standard deviation over seeds; of one seed, its value."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def table() -> list[list[str]]:
    """Return the page's table: training, evaluation, and accuracies at `PLACES`."""
    rows = [["chance", "–", *["20.0"] * len(PLACES)]]
    start = [untrained(*place) for place in PLACES]
    rows.append(["untrained", "fresh", *map(shown, start)])
    for kinds in product(KINDS, KINDS):
        found = [accuracies(*place, *kinds) for place in PLACES]
        rows.append([*(WORDS[kind] for kind in kinds), *map(shown, found)])
    return rows


def trained(training: Moments, seed: int) -> MetaLearner:
    """Return the learner of a short run on glyphs as its training left it."""
    file = folder("glyphs", training) / f"seed-{seed}.safetensors"
    return reopen(file, device="cpu")[0]


def step_lengths(learner: MetaLearner, tasks: Episodes, memory: Moments) -> list[float]:
    """Return how far the weights move in each inner step, over the learning rate.

    It is the root of the mean square over tasks and weights.

    Args:
        learner: from whose φ the tasks are adapted to; it is not changed.
        tasks: with their minibatches.
        memory: whether to begin with the memory that training left, or with none.
    """
    theta: Tensor = learner.phi
    state: State | None = learner.inner_state if memory == "carry" else None
    lengths = []
    for i in range(tasks.order.shape[1]):
        minibatch = tasks.order[:, i : i + 1]
        end = adapt(
            learner.kernel, theta, tasks.support, minibatch, learner.inner, state
        )
        moves = (end.theta - theta) / learner.inner.lr
        lengths.append(moves.square().mean().sqrt().item())
        theta, state = end.theta, end.state
    return lengths
