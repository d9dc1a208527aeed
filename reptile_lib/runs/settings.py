"""The settings of a run: what the command line is made of, and a checkpoint keeps.

Defaults are the Omniglot settings of the Reptile authors (README of their code,
openai/supervised-reptile); they depend on the number of ways.
"""

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal

from reptile_lib.data.sets import SETS
from reptile_lib.errors import UserError
from reptile_lib.fast.torch_settings import Precision
from reptile_lib.inner import Moments
from reptile_lib.models.pictures import NETS

Json = str | int | float
"""What a setting is in a file."""

TEXT_SETS = ("clinc150", "banking77", "huffpost", "imdb", "requests")


def _option(default: Any, help: str, *choices: str, training: bool = True) -> Any:
    about = {"help": help, "choices": choices or None, "training": training}
    return field(default=default, metadata=about)


def _scored(default: Any, help: str) -> Any:
    return _option(default, help, training=False)


@dataclass(frozen=True)
class Settings:
    """How a network is trained and scored. φ depends on the first part alone."""

    data: str = _option(
        "glyphs",
        "folder:PATH (a subfolder of pictures per class), table:FILE (CSV), or one of"
        f" {', '.join(SETS)}",
    )
    label: str = _option("label", "column of a table that names the class")
    text: str = _option("", "column of a table with the sentences to tell apart")
    columns: str = _option("", "or its columns of numbers, a,b,c (all others that are)")
    turned: str = _option(
        "letters",
        "further training classes, pictures turned by 90 degrees: letters (only of"
        " glyphs and omniglot), yes, no",
        *("letters", "yes", "no"),
    )
    size: int = _option(28, "pixels per side of a folder's pictures")
    channels: int = _option(1, "1 or 3: a folder's pictures in grey or in colours")
    seed: int = _option(0, "of weights, split and tasks")
    val_classes: int = _option(
        0, "training classes to set aside for validation; most sets have their own"
    )
    net: str = _option("conv4", "network for pictures", *NETS)
    head: str = _option(
        "learnt",
        "learnt or zeroed: what every task's last layer starts from",
        "learnt",
        "zeroed",
    )
    ways: int = _option(5, "classes a task")
    train_shots: int = _option(10, "examples a class in training")
    inner_steps: int = _option(5, "k, inner steps a task")
    inner_batch: int = _option(10, "examples an inner step")
    optimizer: str = _option("adam", "the inner optimiser", "adam", "sgd")
    lr: float = _option(1e-3, "its learning rate")
    moments: Moments = _option(  # noqa: RUF009
        "carry", "carry or reset: does Adam's state outlive a task", "carry", "reset"
    )
    reduction: str = _option(
        "sum", "sum or mean: of a minibatch's losses, see run.build", "sum", "mean"
    )
    meta_steps: int = _option(100_000, "outer steps")
    meta_batch: int = _option(5, "tasks an outer step")
    epsilon: float = _option(1.0, "ε of the first outer step")
    epsilon_final: float = _option(0.0, "ε falls linearly to this")
    precision: Precision = _option(  # noqa: RUF009
        "float32",
        "float32, tf32 (CUDA) or bf16: how matrices are multiplied",
        *("float32", "tf32", "bf16"),
    )
    shots: int = _scored(1, "examples a class in evaluation")
    eval_steps: int = _scored(50, "inner steps in evaluation")
    eval_batch: int = _scored(5, "examples a step in evaluation")
    eval_tasks: int = _scored(1000, "tasks to score; the paper's tables take 10,000")

    @property
    def kind(self) -> Literal["pictures", "sentences", "numbers"]:
        """What the examples are."""
        if self.text or self.data in TEXT_SETS:
            return "sentences"
        return "numbers" if self.data.startswith("table:") else "pictures"

    @property
    def turns(self) -> bool:
        """Whether a turned picture is of another class, as it is for letters."""
        letters = self.data in ("glyphs", "omniglot")
        return self.turned == "yes" or (letters and self.turned == "letters")

    @property
    def training_steps(self) -> int:
        """Inner steps of the whole training."""
        return self.meta_steps * self.meta_batch * self.inner_steps

    def as_dict(self) -> dict[str, Json]:
        """Return the settings by name, for JSON."""
        return asdict(self)

    def check_evaluation(self) -> None:
        """Raise UserError where no evaluation could follow the training."""
        for name, least in (("eval_tasks", 1), ("eval_batch", 1), ("eval_steps", 0)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"{name} = {value}; give at least {least}")

    def check_same(self, began: "Settings") -> None:
        """Raise UserError unless a run began with these settings of training."""
        for name in TRAINING:
            if getattr(self, name) != (old := getattr(began, name)):
                raise UserError(
                    f"{name} is {getattr(self, name)}, but the run began with {old};"
                    f" ask for {old} again, or begin anew in another folder"
                )


OPTIONS: tuple[Field[Any], ...] = fields(Settings)
TRAINING = tuple(f.name for f in OPTIONS if f.metadata["training"])
EVALUATION = tuple(f.name for f in OPTIONS if not f.metadata["training"])
TWENTY_WAYS: Mapping[str, Json] = {
    "lr": 5e-4,
    "inner_steps": 10,
    "inner_batch": 20,
    "meta_steps": 200_000,
    "eval_batch": 10,
}
SENTENCES: Mapping[str, Json] = {
    "head": "zeroed",
    "optimizer": "sgd",
    "lr": 1.0,
    "inner_steps": 10,
    "reduction": "mean",
}
# Settings that older checkpoints lack, with what was done before there was a choice.
LATER: Mapping[str, Json] = {
    "precision": "float32",
    "reduction": "mean",
    "label": "label",
    "text": "",
    "columns": "",
    "size": 28,
    "channels": 1,
    "net": "conv4",
    "turned": "letters",
    "head": "learnt",
    "optimizer": "adam",
}


def complete(given: Mapping[str, Json | None]) -> Settings:
    """Fill in the default of every setting that is absent or None."""
    chosen = {name: value for name, value in given.items() if value is not None}
    special = dict(TWENTY_WAYS) if chosen.get("ways") == 20 else {}
    if Settings(**chosen).kind == "sentences":  # type: ignore[arg-type]
        special |= SENTENCES
    return Settings(**{**special, **chosen})  # type: ignore[arg-type]


def from_file(found: Mapping[str, Json], where: object) -> Settings:
    """Read settings that were kept in a file.

    Raises:
        UserError: a setting is missing.
    """
    names = [f.name for f in OPTIONS]
    absent = [name for name in names if name not in found and name not in LATER]
    if absent:
        raise UserError(
            f"{where} does not say how it was trained ({absent[0]} is missing); restore"
            " it from Python, into the learner that wrote it"
        )
    return Settings(**{n: found.get(n, LATER.get(n)) for n in names})  # type: ignore[arg-type]
