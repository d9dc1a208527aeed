"""The book's networks in JAX: functions of weights, channels last."""

from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

Parameters = dict[str, Array]
AXES = ("NHWC", "HWIO", "NHWC")


def mlp(theta: Parameters, x: Array) -> Array:
    """Return the outputs [B, out] of `reptile_lib.mlp` with tanh, x [B, in]."""
    layers = sorted({int(name.split(".")[0]) for name in theta})
    for i in layers:
        x = x @ theta[f"{i}.weight"] + theta[f"{i}.bias"]
        x = jnp.tanh(x) if i < layers[-1] else x
    return x


def conv4(theta: Parameters, x: Array) -> Array:
    """Return the logits of `reptile_lib.conv4` for pictures x [B, H, W, C].

    "SAME" is the padding that the library copies from TensorFlow; batch norm has the
    batch's own statistics and an eps of 1e-3.
    """
    for i in range(4):
        w, bias = (theta[f"convolutions.{i}.{name}"] for name in ("weight", "bias"))
        x = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=AXES)
        x = x + bias
        x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-3)
        x = jax.nn.relu(x * theta[f"norms.{i}.weight"] + theta[f"norms.{i}.bias"])
    return x.reshape(len(x), -1) @ theta["out.weight"] + theta["out.bias"]


def squared_error(answers: Array, y: Array) -> Array:
    """Return the mean squared error."""
    return jnp.mean((answers - y) ** 2)


def cross_entropy(answers: Array, y: Array) -> Any:
    """Return the mean cross-entropy of logits [B, ways] and labels y [B]."""
    scores = jax.nn.log_softmax(answers)
    return -jnp.mean(jnp.take_along_axis(scores, y[:, None], 1))
