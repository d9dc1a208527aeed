"""Reptile's meta-step in Keras 3 on TensorFlow: ``tf.function``, a loop over tasks."""

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any

import keras
import tensorflow as tf

Parameters = list[Any]
"""Tensors in the order of `model.trainable_variables`."""
Inner = Callable[[Parameters, Parameters, Any], tuple[Parameters, Any]]
"""inner(theta, gradient, state) -> theta, state."""


def sgd(lr: float) -> Inner:
    """Return SGD; it has no state."""
    return lambda theta, g, s: ([p - lr * d for p, d in zip(theta, g, strict=True)], s)


def adam(lr: float, beta2: float = 0.999, eps: float = 1e-8) -> Inner:
    """Return Adam with β₁ = 0; its state is the number of steps, and v.

    ε stands beside √(v / (1 − β₂ᵗ)), as in Kingma & Ba's algorithm 1 and in torch.
    `keras.optimizers.Adam` has ε̂ beside √v instead: ε̂ = ε √(1 − β₂ᵗ), another number in
    every step.
    """

    def step(theta: Parameters, g: Parameters, state: Any) -> tuple[Parameters, Any]:
        count, old = state
        count += 1
        v = [beta2 * a + (1 - beta2) * d**2 for a, d in zip(old, g, strict=True)]
        size = -tf.math.expm1(count * log(beta2))  # 1 − β₂ᵗ, with all its digits
        each = zip(theta, g, v, strict=True)
        return [p - lr * d / (tf.sqrt(a / size) + eps) for p, d, a in each], (count, v)

    return step


def fresh(theta: Parameters) -> Any:
    """Return Adam's state before the first step."""
    return tf.zeros((), theta[0].dtype), [tf.zeros_like(p) for p in theta]


def meta_step(model: keras.Model, loss: Callable[..., Any], inner: Inner) -> Any:
    """Return a compiled (φ, state, tasks, ε) -> φ, mean state, mean loss.

    A Keras layer owns one set of variables. `stateless_call` lends it those of a task.
    """
    rest = [v.value for v in model.non_trainable_variables]  # unused running averages

    def adapt(phi: Parameters, state: Any, task: Any) -> Any:
        x, y, order = task
        theta, losses = phi, []
        for batch in tf.unstack(order):  # k is known when the graph is made
            with tf.GradientTape() as tape:
                tape.watch(theta)
                picked = tf.gather(x, batch)
                answers, _ = model.stateless_call(theta, rest, picked, training=True)
                value = loss(tf.gather(y, batch), answers)
            theta, state = inner(theta, tape.gradient(value, theta), state)
            losses.append(value)
        return theta, state, tf.stack(losses)

    @tf.function
    def step(phi: Parameters, state: Any, tasks: Any, epsilon: Any) -> Any:
        like = tf.nest.map_structure(tf.TensorSpec.from_tensor, (phi, state))
        losses = tf.TensorSpec(tasks[2].shape[1], phi[0].dtype)  # [k]
        each = partial(adapt, phi, state)
        found = tf.map_fn(each, tasks, fn_output_signature=(*like, losses))
        mean = partial(tf.reduce_mean, axis=0)
        theta, state, loss = tf.nest.map_structure(mean, found)
        phi = [p + epsilon * (q - p) for p, q in zip(phi, theta, strict=True)]
        return phi, state, tf.reduce_mean(loss)

    return step
