"""One's own pictures, sentences and numbers, from the command line to an answer."""

import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reptile_lib import UserError
from reptile_lib.runs import cli, data
from reptile_lib.runs import run as run_module
from reptile_lib.runs.settings import complete

TINY = [
    *("--ways", "2", "--train-shots", "3", "--meta-batch", "2", "--device", "cpu"),
    *("--eval-steps", "5", "--eval-tasks", "20", "--processes", "1", "--quiet"),
]


def run(*arguments: Any) -> int:
    return cli.main([*map(str, arguments)])


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Return the one line that a command ends in."""
    assert run(*arguments) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    return err


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write bars at six angles, five pictures of each, in three formats."""
    for angle in range(0, 180, 30):
        folder = tmp_path / "bars" / f"{angle} degrees"
        folder.mkdir(parents=True)
        for i in range(5):
            bar = Image.new("L", (60 + i, 60), "white")
            bar.paste(0, (10, 26, 50, 34))
            kind = ("png", "jpg", "bmp")[i % 3]
            bar.rotate(angle + 2 * i, fillcolor="white").save(folder / f"{i}.{kind}")
    return tmp_path / "bars"


WORDS = {
    "weather": "rain sun cloud storm wind snow",
    "food": "bread cheese soup apple rice salt",
    "travel": "train ticket plane hotel map luggage",
    "money": "bank card loan price coin bill",
    "music": "song violin concert rhythm singer tune",
}


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "intents.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["intent", "sentence"])
        for intent, words in WORDS.items():
            for _ in range(8):
                out.writerow([intent, " ".join(rng.choices(words.split(), k=4))])
    return path


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Write classes apart in one column; another is a million times as wide."""
    rng = np.random.default_rng(0)
    path = tmp_path / "points.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["a", "kind", "b"])
        for kind in range(6):
            for _ in range(8):
                wide = 1e6 * rng.standard_normal()
                out.writerow([kind + rng.normal(0, 0.05), f"kind {kind}", wide])
    return path


def accuracy(out: Path) -> float:
    found = json.loads((out / "result.json").read_text())["metrics"]
    value: float = found["support_statistics"]["accuracy"]
    return value


@pytest.mark.slow
def test_own_pictures_lead_to_a_number_and_an_answer(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--data", f"folder:{pictures}", "--meta-steps", 30, "--out", out]
    assert run("train", *options, *TINY) == 0
    assert accuracy(out) > 0.7
    split = json.loads((out / "split.json").read_text())
    assert sorted(split["train"] + split["test"]) == sorted(
        folder.name for folder in pictures.iterdir()
    )
    assert len(split["test"]) == 2  # enough for a task

    before = (out / "result.json").read_text()
    written = (out / "split.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run("evaluate", "--checkpoint", out, "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["metrics"] == json.loads(before)["metrics"]
    assert (out / "split.json").stat().st_mtime_ns == written  # it only reads

    support, asked = tmp_path / "support", []
    for name in split["test"]:
        (support / name).mkdir(parents=True)
        for i in range(3):
            (file,) = (pictures / name).glob(f"{i}.*")
            shutil.copy(file, support / name)
        asked += sorted((pictures / name).glob("[34].*"))
    given = ["--checkpoint", out, "--support", support]
    assert run("predict", *given, *asked, "--json") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    answers = json.loads(last)["answers"]
    assert [a["query"] for a in answers] == [str(path) for path in asked]
    right = [a["answer"] == Path(a["query"]).parent.name for a in answers]
    assert sum(right) >= 3
    assert lines[0].startswith(f"{asked[0]}: ")
    # one picture alone gets the answer that it gets among others
    assert run("predict", *given, asked[2], "--json") == 0
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"][0]
    assert alone["answer"] == answers[2]["answer"]
    assert alone["share"] == pytest.approx(answers[2]["share"], abs=1e-4)


@pytest.mark.slow
def test_own_sentences_lead_to_a_number_and_an_answer(
    sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    table = ["--data", f"table:{sentences}", "--label", "intent", "--text", "sentence"]
    assert run("train", *table, "--meta-steps", 20, "--out", out, *TINY) == 0
    assert accuracy(out) > 0.6
    (tmp_path / "support.csv").write_text(
        "intent,sentence\nfruit,a red apple\nfruit,a ripe pear\ncar,new tyres\n"
        "car,the engine stopped\n"
    )
    (tmp_path / "asked.csv").write_text(
        "sentence\nan apple and a pear\nthe tyres of that engine\n"
    )
    capsys.readouterr()
    given = ["--checkpoint", out, "--support", tmp_path / "support.csv"]
    assert run("predict", *given, tmp_path / "asked.csv") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'asked.csv'}, row 2: fruit (")
    assert second.startswith(f"{tmp_path / 'asked.csv'}, row 3: car (")


@pytest.mark.slow
def test_own_numbers_are_scaled_as_in_training(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    table = ["--data", f"table:{numbers}", "--label", "kind"]
    steps = ["--meta-steps", 40, "--lr", 0.01, "--out", out]
    assert run("train", *table, *steps, *TINY) == 0
    assert "columns: a, b; left out: none\n" in capsys.readouterr().out
    config = json.loads((out / "result.json").read_text())["config"]
    assert config["columns"] == "a,b"
    split = json.loads((out / "split.json").read_text())
    with numbers.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in split["train"]]
    a = np.array([float(row["a"]) for row in rows])
    assert split["mean"][0] == pytest.approx(a.mean(), rel=1e-4)
    assert split["deviation"][0] == pytest.approx(a.std(ddof=1), rel=1e-4)

    (tmp_path / "support.csv").write_text(
        "b,kind,a\n0,low,0.0\n500000,low,0.1\n0,high,5\n-500000,high,4.9\n"
    )
    (tmp_path / "asked.csv").write_text("a,b\n0.05,100000\n5.05,100000\n")
    capsys.readouterr()
    given = ["--checkpoint", out, "--support", tmp_path / "support.csv"]
    assert run("predict", *given, tmp_path / "asked.csv") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "row 2: low (" in first
    assert "row 3: high (" in second


def test_a_head_of_zeros_stays_where_every_task_starts(
    sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    table = ["--data", f"table:{sentences}", "--label", "intent", "--text", "sentence"]
    assert run("train", *table, "--meta-steps", 3, "--out", out, *TINY) == 0
    learner, settings = run_module.reopen(out, "cpu")
    start = run_module.build(settings, "cpu").phi
    head = 64 * 2 + 2  # weights and biases of the last layer
    assert not learner.phi[-head:].any()
    assert not start[-head:].any()
    assert (learner.phi != start).any()


@pytest.mark.slow
def test_a_split_is_kept_when_classes_come_later(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--data", f"folder:{pictures}", "--meta-steps", 2, "--out", out]
    assert run("train", *options, *TINY) == 0
    result = json.loads((out / "result.json").read_text())["metrics"]
    shutil.copytree(pictures / "0 degrees", pictures / "another")
    capsys.readouterr()
    assert run("evaluate", "--checkpoint", out, "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["metrics"] == result
    shutil.rmtree(pictures / json.loads((out / "split.json").read_text())["test"][0])
    err = told(capsys, "evaluate", "--checkpoint", out)
    assert "there is no class" in err


def test_a_split_depends_on_seed_and_names_alone(pictures: Path) -> None:
    found: dict[int, list[tuple[str, ...]]] = {}
    for seed in (0, 0, 1, 2, 3):
        settings = complete({"data": f"folder:{pictures}", "ways": 2, "seed": seed})
        _, splits = data.open_data(settings, pictures.parent / "run", begun=False)
        names = [part.names for part in splits]
        assert found.setdefault(seed, names) == names
        assert len({name for part in names for name in part}) == 6
    assert len({str(names) for names in found.values()}) > 1


def test_what_cannot_be_is_one_line(
    pictures: Path, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--meta-steps", 2, "--out", out, *TINY]
    folder = f"folder:{pictures}"
    err = told(capsys, "train", "--data", folder, *more, "--ways", 4)
    assert f"{folder} has 6 classes; tasks of 4 need 4 of them for training" in err
    assert "give --ways 3" in err
    err = told(capsys, "train", "--data", "folder:nowhere", *more)
    assert "'nowhere' does not exist" in err
    err = told(capsys, "train", "--data", folder, *more, "--train-shots", 9)
    assert "train_shots" in err or "shots" in err
    assert "degrees" in err
    table = ["--data", f"table:{sentences}", "--label", "intent"]
    err = told(capsys, "train", *table, *more)
    assert "no column of numbers besides 'intent'" in err
    assert "--text" in err
    err = told(capsys, "train", *table, "--text", "words", *more)
    assert "no column 'words'" in err
    err = told(capsys, "train", "--data", pictures, *more)
    assert f"is no data set but a path; write folder:{pictures}" in err
    err = told(capsys, "train", "--data", sentences, *more)
    assert f"is no data set but a path; write table:{sentences}" in err
    err = told(capsys, "train", "--data", "breast-cancer", *more)
    assert "the parts of breast-cancer share their classes" in err
    err = told(capsys, "train", "--data", "movielens", *more)
    assert "movielens" in err
    assert not (out / "checkpoint.safetensors").exists()


def test_a_wrong_support_set_is_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--data", f"folder:{pictures}", "--meta-steps", 2, "--out", out]
    assert run("train", *options, *TINY) == 0
    query = next((pictures / "0 degrees").iterdir())
    capsys.readouterr()
    err = told(capsys, "predict", "--checkpoint", out, "--support", pictures, query)
    assert f"{pictures} has 6 classes, but the network tells 2 to 2 apart" in err
    for name in ("0 degrees", "90 degrees"):
        shutil.copytree(pictures / name, tmp_path / "support" / name)
    given = ["--checkpoint", out, "--support", tmp_path / "support"]
    err = told(capsys, "predict", *given, tmp_path / "none.png")
    assert "none.png' does not exist; name files of pictures" in err
    err = told(capsys, "predict", *given, tmp_path)
    assert "is a folder; name files of pictures" in err
    (out / "split.json").write_text("{")
    assert "split.json is damaged" in told(capsys, "evaluate", "--checkpoint", out)
    (out / "split.json").unlink()
    err = told(capsys, "evaluate", "--checkpoint", out)
    assert "split.json is missing, which says what the run was trained on" in err
    assert run("predict", *given, query) == 0  # a picture's answer does not need it


def test_sets_are_listed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPTILE_CACHE", str(tmp_path))
    monkeypatch.delenv("REPTILE_DATA", raising=False)
    assert run("data", "list", "--json") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    sets = json.loads(last)["sets"]
    assert "glyphs (at hand)" in lines
    assert "omniglot (not here yet)" in lines
    assert all(about["licence"] and about["cite"] for about in sets.values())
    assert run("data", "get", "glyphs") == 0
    assert capsys.readouterr().out == "glyphs: complete\n"
    sheet = tmp_path / "sheet.png"
    assert run("data", "show", "glyphs", "--out", sheet) == 0
    assert "train: 1205 classes, 20 examples each, uint8 [1, 28, 28]" in (
        capsys.readouterr().out
    )
    with Image.open(sheet) as image:
        assert image.size == (280, 280)
        pixels = torch.from_numpy(np.array(image))
    glyphs = data.load_data(complete({"data": "glyphs"})).train
    assert isinstance(glyphs.pool, torch.Tensor)
    assert torch.equal(pixels[28:56, 56:84], glyphs.pool[22, 0])


def test_a_set_that_cannot_be_had_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "get", "nothing", "glyphs") == 2
    out, err = capsys.readouterr()
    assert "nothing: unknown data set 'nothing'" in out
    assert "glyphs: complete" in out
    assert err == "reptile_lib: not complete: nothing; see above\n"


@pytest.mark.slow
def test_the_readmes_commands_are_understood() -> None:
    help = subprocess.check_output(
        [sys.executable, "-m", "reptile_lib", "train", "--help"], text=True
    )
    for option in ("--label", "--text", "--columns", "--size", "--channels"):
        assert option in help


def test_an_unknown_split_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"train": ["a"], "other": []}')
    with pytest.raises(UserError, match=r"split.json is damaged"):
        data.read_split(tmp_path)
    with pytest.raises(UserError, match=r"split.json is missing"):
        data.read_split(tmp_path / "none")
