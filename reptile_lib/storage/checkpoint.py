"""Checkpoints: one safetensors file with φ, the optimisers' states, JSON metadata.

φ is stored as the model's named tensors, so any tool that reads safetensors can use it.
Nothing is unpickled.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reptile_lib.errors import UserError
from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.params import Layout, unravel
from reptile_lib.storage.files import written_whole

FORMAT = "reptile_lib checkpoint 1"


class Checkpoint(NamedTuple):
    """What a file holds."""

    path: Path
    phi: dict[str, Tensor]
    states: dict[str, State | None]
    metadata: dict[str, Any]

    def vector(self, layout: Layout) -> Tensor:
        """Return φ as a vector [P] in the order of `layout`.

        Raises:
            UserError: the parameters' names or shapes are another model's.
        """
        theirs = {name: tuple(value.shape) for name, value in self.phi.items()}
        ours = dict(zip(layout.names, map(tuple, layout.shapes), strict=True))
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"the checkpoint is of another model: parameter {name!r} has shape"
                    f" {theirs.get(name)} in the file and {ours.get(name)} here;"
                    " build the model it was trained with"
                )
        return torch.cat([self.phi[name].flatten() for name in layout.names])

    def state(
        self, part: str, optimizer: InnerOptimizer | None, phi: Tensor
    ) -> State | None:
        """Return the "inner" or "outer" state, on the device and of the type of φ.

        Raises:
            UserError: it is another optimiser's.
        """
        found = self.states[part]
        if found is None:
            return None
        if optimizer is None or found.keys() != optimizer.init(phi).keys():
            raise UserError(
                f"{self.path} holds the state {sorted(found)} of another {part}"
                f" optimiser than {optimizer and optimizer.name}; build the one it was"
                " trained with"
            )
        return {name: value.to(phi) for name, value in found.items()}


def save(
    path: Path,
    phi: Tensor,
    layout: Layout,
    states: dict[str, State | None],
    metadata: dict[str, Any],
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        path: where.
        phi: [P].
        layout: names and shapes of the parameters in φ.
        states: of the "inner" and "outer" optimiser.
        metadata: for JSON.

    Raises:
        UserError: φ is not finite, or the file cannot be written.
    """
    if not phi.isfinite().all():
        raise UserError(f"phi is not finite; nothing was written to {path}")
    tensors = {
        f"phi/{name}": t.clone().cpu() for name, t in unravel(phi, layout).items()
    }
    for part, state in states.items():
        for name, value in (state or {}).items():
            tensors[f"{part}/{name}"] = value.contiguous().cpu()
    header = {"format": FORMAT, "metadata": json.dumps(metadata)}
    with written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # its text carries the system's reason
            raise OSError(str(error)) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: there is no such file, it is damaged, or it is not a checkpoint.
    """
    remedy = "name the folder or file that a training run wrote"
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}; {remedy}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not a checkpoint ({error}); {remedy}"
        ) from error
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is no {FORMAT!r} but {header.get('format')!r}; {remedy}"
        )
    parts: dict[str, dict[str, Tensor]] = {"phi": {}, "inner": {}, "outer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    metadata = json.loads(header["metadata"])
    states = {part: parts[part] or None for part in ("inner", "outer")}
    return Checkpoint(path, parts["phi"], states, metadata)


def refuse_a_run(path: Path, layout: Layout, step: int) -> None:
    """Raise UserError if a file holds another model, or a run further than `step`."""
    if not path.exists():
        return
    found = load(path)
    done = found.metadata["meta_step"]
    if done or step:
        found.vector(layout)
    if done > step:
        raise UserError(
            f"{path} holds a run of {done} meta-steps, which one of {step} would"
            " replace; restore it, or name another file"
        )
