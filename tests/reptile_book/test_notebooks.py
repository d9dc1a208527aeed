"""`make notebooks` and nbval: what is stored does not depend on the user's settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from reptile_book.notebooks import KERNELSPEC, prepare, save, tidy

ROOT = Path(__file__).parents[2]
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
CONTROL = "from ipywidgets import IntSlider\nfrom reptile_book import controls"
SETTINGS = {"MPLBACKEND": "Agg", "MPLCONFIGDIR": "/dev/null/x"}  # of a user's shell


def notebook(path: Path) -> None:
    sources = [FIGURE, CONTROL + "\ncontrols.show(IntSlider())"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
    tidy(nb, "a")
    nbformat.write(nb, path)


@pytest.mark.slow
def test_a_figure_is_stored_and_a_control_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    notebook(path)
    shell = os.environ | SETTINGS
    command = [sys.executable, "-m", "reptile_book.notebooks", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=shell, check=False)
    assert done.returncode == 0
    drawn, control = json.loads(path.read_text("utf-8"))["cells"]
    (output,) = drawn["outputs"]
    assert "image/png" in output["data"]
    assert control["outputs"] == []
    nbval = ["-m", "pytest", "--nbval", "--nbval-current-env", "-q", str(path)]
    cache = f"cache_dir={tmp_path / 'cache'}"
    command = [sys.executable, *nbval, "-o", cache, "-p", "conftest"]
    done = subprocess.run(command, cwd=ROOT, env=shell, check=False)
    assert done.returncode == 0


def test_settings_that_do_no_harm_stay(tmp_path: Path) -> None:
    environment = {"MPLCONFIGDIR": str(tmp_path / "new"), "HOME": "x"}
    prepare(environment)
    assert environment["MPLCONFIGDIR"] == str(tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    assert environment["HOME"] == "x"


@pytest.mark.slow
def test_a_figure_that_cannot_be_drawn_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = "from reptile_book import plots\nplots.use_style()\n"
    tiny = FIGURE.replace("plt.show()", "plt.text(0, 0, 'x', fontsize=5)\nplt.show()")
    cells = [nbformat.v4.new_code_cell(style + tiny)]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
    path = tmp_path / "a.ipynb"
    nbformat.write(nb, path)
    before = path.read_bytes()
    assert not save(path, run=True)
    assert "'x' is set in 5" in capsys.readouterr().out
    assert path.read_bytes() == before
