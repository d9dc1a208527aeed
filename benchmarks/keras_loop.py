"""The meta-step in Keras, for the clock: `reptile_lib.frameworks.keras_loop`.

Needs TensorFlow. Parameters come in and go out as reptile_lib's flat vector.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Before TensorFlow: both bring LLVM, and torch's, coming second, ends the process.
import torch._dynamo

# isort: split
import keras
import tensorflow as tf
import torch

from benchmarks.problems import EPSILON, SINE_LR, Cell
from reptile_lib.frameworks import keras_loop as loop
from reptile_lib.frameworks import keras_nets as nets
from reptile_lib.frameworks.weights import channels_first, channels_last
from reptile_lib.params import Layout, unravel
from reptile_lib.tasks import Episodes

Parameters = loop.Parameters
VERSION: str = tf.__version__


def made(cell: Cell, dtype: str) -> tuple[keras.Model, Any]:
    """Return a network and its meta-step; `dtype` is torch's name of the numbers."""
    dtype = dtype.removeprefix("torch.")
    if cell.problem == "sine":
        net = nets.mlp(1, 64, 64, 1, dtype=dtype)
        return net, loop.meta_step(net, nets.squared_error, loop.sgd(SINE_LR))
    net = nets.conv4(cell.ways, dtype=dtype)
    return net, loop.meta_step(net, nets.cross_entropy, loop.adam(1e-3))


def enter(net: keras.Model, phi: torch.Tensor, where: Layout) -> Parameters:
    """Turn the vector φ [P] into Keras' tensors."""
    named = unravel(phi.detach().cpu(), where)
    turned = channels_last({name: value.numpy() for name, value in named.items()})
    return nets.enter(net, turned)


def leave(net: keras.Model, phi: Parameters, where: Layout) -> torch.Tensor:
    """Undo `enter`."""
    found = channels_first(nets.leave(net, phi, where.names))
    return torch.cat([torch.from_numpy(value).flatten() for value in found.values()])


def tensors(tasks: Episodes) -> tuple[Any, ...]:
    """Return support x [n, S, ...], channels last, y [n, S, ...], order [n, k, b]."""
    given = *tasks.support, tasks.order
    x, y, order = (t.cpu().numpy() for t in given if isinstance(t, torch.Tensor))
    if x.ndim == 5:
        x = x.transpose(0, 1, 3, 4, 2)
    return tuple(map(tf.constant, (x, y, order)))


def run(
    step: Any, phi: Parameters, batches: Sequence[tuple[Any, ...]], meta_steps: int
) -> Parameters:
    """Do meta-steps on the tasks of `batches`, over and over; wait for the last."""
    fresh, epsilon = loop.fresh(phi), tf.constant(EPSILON, phi[0].dtype)
    for i in range(meta_steps):
        phi, _, _ = step(phi, fresh, batches[i % len(batches)], epsilon)
    phi[0].numpy()
    return phi
