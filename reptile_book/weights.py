"""Write the networks that a figure of the rendered book computes with, for its script.

::

    python -m reptile_book.weights sine

`sine` runs the cells of page 1.2 that make its three starts and its wave, and writes
the networks of the first seed to `_extra/weights/sine.js`; `draw` writes the recorded φ
of page 5.1's three characters, and the drawings it begins with, to `draw.js`. A browser
opens such a file as a script, which also works from disk; vectors stand in it as
float32 in base64, in the model's order.
"""

import argparse
import base64
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear

from reptile_book import draw_control, records, studies
from reptile_book.wave_control import curve
from reptile_lib.errors import UserError
from reptile_lib.learner import MetaLearner
from reptile_lib.storage.files import written_whole
from reptile_lib.tasks import Episodes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "_extra/weights"
MOTIVATION = ROOT / "chapters/01-overview/motivation.ipynb"
STARTS = ("random", "joint", "reptile")
RATE = 0.02
"""Of adaptation on page 1.2, where it is found to suit all three starts."""

Data = dict[str, Any]
"""What the script of a figure is given; JSON values only."""


def page_1_2(notebook: Path = MOTIVATION) -> tuple[dict[str, MetaLearner], Episodes]:
    """Return the learners of the first seed and the wave, as the page makes them.

    Its own cells are run, so that page and figure cannot come to differ.

    Raises:
        UserError: the page is missing, or does not make them.
    """
    made: dict[str, Any] = {}
    names = {*STARTS, "wave"}
    if not notebook.exists():
        raise UserError(f"{notebook} is missing; run this in a checkout of the book")
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and not names <= set(made):
            with redirect_stdout(StringIO()):
                exec("".join(cell["source"]), made)
    if missing := sorted(names - set(made)):
        raise UserError(f"{notebook} does not make {', '.join(missing)}")
    return {name: made[name][0] for name in STARTS}, made["wave"]


def sine() -> Data:
    """Train as page 1.2 does; return its starts and its wave."""
    learners, wave = page_1_2()
    x, y = (t.double() for t in curve(wave.query))
    # a sin(x + b) = p sin x + q cos x, which is linear in p and q
    columns = torch.stack([x.sin(), x.cos()], 1)
    p, q = torch.linalg.lstsq(columns, y[:, None]).solution[:, 0]
    points = torch.stack(curve(wave.support), 1).double()
    layers = [m for m in learners["random"].model.modules() if isinstance(m, Linear)]
    return {
        "sizes": [layers[0].in_features, *(m.out_features for m in layers)],
        "activation": "tanh",
        "rate": RATE,
        "wave": {
            "amplitude": round(torch.hypot(p, q).item(), 6),
            "phase": round(torch.atan2(q, p).item(), 6),
            "points": [[round(v, 7) for v in point] for point in points.tolist()],
        },
        "starts": {name: encoded(learner.phi) for name, learner in learners.items()},
    }


def draw() -> Data:
    """Return the recorded φ for three characters, and the drawings of page 5.1."""
    learner = draw_control.recorded()
    return {
        "ways": learner.model.get_parameter("out.bias").numel(),
        "filters": learner.model.get_parameter("norms.0.weight").numel(),
        "rate": learner.inner.lr,
        "steps": learner.inner_steps,
        "drawn": [*draw_control.DRAWN.values()],
        "phi": encoded(learner.phi),
    }


FIGURES: dict[str, Callable[[], Data]] = {"sine": sine, "draw": draw}


def encoded(vector: Tensor) -> str:
    """Return a vector [P] as base64 of little-endian float32."""
    numbers = vector.detach().cpu().numpy().astype("<f4")
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def decoded(text: str) -> Tensor:
    """Undo `encoded`.

    >>> decoded(encoded(torch.tensor([1.0, -0.5])))
    tensor([ 1.0000, -0.5000])
    """
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())


def script(name: str, data: Data) -> str:
    """Return the file that hands `data` to the script of a figure."""
    made = records.circumstances(torch.device("cpu"))
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
    body = ",\n".join(lines)
    software = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
    return (
        "/* What a figure of this book computes with; float32 numbers in base64.\n\n"
        f"       python -m reptile_book.weights {name}\n\n"
        f"   wrote this file, with {software}, at commit {made['commit']}. */\n"
        f"Moving.data({json.dumps(name)}, {{\n{body}\n}});\n"
    )


def read(name: str, folder: Path = FOLDER) -> Data:
    """Return what was written for a figure.

    Raises:
        UserError: the file is not as `script` makes it.
    """
    path = folder / f"{name}.js"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, begins, rest = text.partition(f"Moving.data({json.dumps(name)}, ")
    if not begins or not rest.endswith(");\n"):
        raise UserError(
            f"{path} is missing or damaged; python -m reptile_book.weights {name}"
            " writes it"
        )
    found: Data = json.loads(rest.removesuffix(");\n"))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write a file; return 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m reptile_book.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder")
    options = parser.parse_args(arguments)

    def act() -> None:
        text = script(options.figure, FIGURES[options.figure]())
        with written_whole(options.into / f"{options.figure}.js") as temporary:
            temporary.write_text(text, encoding="utf-8")

    return studies.carried_out(act)


if __name__ == "__main__":
    sys.exit(main())
