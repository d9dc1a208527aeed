"""The book's networks in Keras: models, and torch's names of their weights."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from reptile_lib.frameworks.weights import Weights


def mlp(*sizes: int, dtype: str = "float32") -> keras.Model:
    """Build `reptile_lib.mlp(*sizes)` with tanh."""
    layers = [keras.layers.Dense(n, "tanh", dtype=dtype) for n in sizes[1:-1]]
    last = keras.layers.Dense(sizes[-1], dtype=dtype)
    return keras.Sequential([keras.Input(sizes[:1], dtype=dtype), *layers, last])


def conv4(
    ways: int,
    channels: int = 1,
    size: int = 28,
    *,
    filters: int = 64,
    dtype: str = "float32",
) -> keras.Model:
    """Build `reptile_lib.conv4`; with training=True it has the batch's statistics."""
    layers: list[Any] = [keras.Input((size, size, channels), dtype=dtype)]
    for _ in range(4):
        layers += [
            keras.layers.Conv2D(filters, 3, strides=2, padding="same", dtype=dtype),
            keras.layers.BatchNormalization(epsilon=1e-3, dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
        ]
    layers += [keras.layers.Flatten(dtype=dtype), keras.layers.Dense(ways, dtype=dtype)]
    return keras.Sequential(layers)


def names(model: keras.Model) -> list[str]:
    """Return torch's names of the model's weights, in Keras' order."""
    kinds = [type(layer).__name__ for layer in model.layers if layer.trainable_weights]
    found = []
    for i, kind in enumerate(kinds):
        before = kinds[:i].count(kind)
        if kind == "Dense":
            layer = "out" if "Conv2D" in kinds else str(2 * before)
        else:
            layer = f"{'convolutions' if kind == 'Conv2D' else 'norms'}.{before}"
        found += [f"{layer}.weight", f"{layer}.bias"]
    return found


def enter(model: keras.Model, weights: Weights) -> list[Any]:
    """Return weights, channels last, as tensors in Keras' order."""
    variables = model.trainable_variables
    pairs = zip(names(model), variables, strict=True)
    return [keras.ops.convert_to_tensor(weights[n], v.dtype) for n, v in pairs]


def leave(model: keras.Model, theta: Sequence[Any], order: Sequence[str]) -> Weights:
    """Undo `enter`; the arrays stand in the given order of names."""
    found: dict[str, NDArray[Any]] = dict(
        zip(names(model), (np.asarray(t) for t in theta), strict=True)
    )
    return {name: found[name] for name in order}


def squared_error(y: Any, answers: Any) -> Any:
    """Return the mean squared error."""
    return keras.ops.mean((answers - y) ** 2)


def cross_entropy(y: Any, answers: Any) -> Any:
    """Return the mean cross-entropy of logits [B, ways] and labels y [B]."""
    ask = keras.losses.sparse_categorical_crossentropy
    return keras.ops.mean(ask(y, answers, from_logits=True))
