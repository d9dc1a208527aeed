"""Weights on their way from one framework to another, as safetensors.

A file has torch's names and layouts, as the library's own checkpoints do. JAX and Keras
keep kernels the other way round: convolutions [3, 3, in, out] instead of [out, in, 3,
3], dense layers [in, out] instead of [out, in]. And they flatten pictures channels
last, so the rows of the first dense layer behind a convolution stand in another order.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from reptile_lib.errors import UserError
from reptile_lib.storage.files import written_whole

Weights = dict[str, NDArray[Any]]
"""Arrays by torch's name of the parameter, in the model's order."""


def channels_last(weights: Mapping[str, NDArray[Any]]) -> Weights:
    """Bring torch's layouts into those of JAX and Keras.

    >>> kernel = np.zeros((8, 3, 5, 5))  # 8 filters of 5 x 5 on 3 channels
    >>> channels_last({"conv.weight": kernel})["conv.weight"].shape
    (5, 5, 3, 8)
    """
    return _turned(weights, _to_last, 0)


def channels_first(weights: Mapping[str, NDArray[Any]]) -> Weights:
    """Undo `channels_last`."""
    return _turned(weights, _to_first, -1)


def _turned(
    weights: Mapping[str, NDArray[Any]],
    turn: Callable[[NDArray[Any], int], NDArray[Any]],
    axis: int,
) -> Weights:
    found, filters = {}, 0
    for name, value in weights.items():
        value = np.asarray(value)
        found[name] = np.ascontiguousarray(turn(value, filters))
        if value.ndim == 4:
            filters = value.shape[axis]
        elif value.ndim == 2:
            filters = 0  # only the first dense layer behind a convolution
    return found


def _to_last(value: NDArray[Any], filters: int) -> NDArray[Any]:
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and filters:
        pixels = value.reshape(len(value), filters, -1)  # [out, channels, pixels]
        return pixels.transpose(2, 1, 0).reshape(-1, len(value))
    return value.T


def _to_first(value: NDArray[Any], filters: int) -> NDArray[Any]:
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2 and filters:
        pixels = value.reshape(-1, filters, value.shape[1])
        return pixels.transpose(2, 1, 0).reshape(value.shape[1], -1)
    return value.T


def write(path: Path, weights: Mapping[str, NDArray[Any]]) -> None:
    """Write weights in torch's layouts.

    Raises:
        UserError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        save_file(dict(weights), temporary)


def read(path: Path) -> Weights:
    """Read weights in torch's layouts; of a checkpoint of the library, φ.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give a file of weights"
        ) from error
    return found
